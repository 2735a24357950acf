//! The operations of every instruction set beside their definitions, lane by lane. Kernels are written
//! once for all sets, so what holds for the registers holds for them.

use half::{bf16, f16};

use super::{Isa, Kernel, Vector};

/// Numbers of every kind: ties, subnormals, infinities, NaN.
const NUMBERS: [f32; 16] = [
    0.0,
    -0.0,
    1.0,
    -2.5,
    3.5,
    0.5,
    1e-40,
    -1e-40,
    f32::MIN_POSITIVE,
    1e30,
    -1e30,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    1.003_906_2,
    -117.25,
];

/// A register's worth at a time, what `run` makes of each.
struct Each<'a, F> {
    run: F,
    found: &'a mut Vec<f32>,
}

/// What is done with the registers that begin at a place.
trait Operation: Copy {
    unsafe fn at<V: Vector>(self, first: usize) -> V;
}

impl<F: Operation> Kernel for Each<'_, F> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for first in (0..16).step_by(V::LANES) {
            let mut lanes = [0.0; 16];
            self.run.at::<V>(first).store(lanes.as_mut_ptr());
            self.found.extend(&lanes[..V::LANES]);
        }
    }
}

/// Defines an operation on registers from `$first` on and compares it with `$expected` of each lane.
macro_rules! check {
    ($isa:ident, |$V:ident, $first:ident| $made:expr, |$lane:ident| $($expected:expr),+) => {{
        #[derive(Clone, Copy)]
        struct Made;
        impl Operation for Made {
            #[inline(always)]
            unsafe fn at<$V: Vector>(self, $first: usize) -> $V {
                $made
            }
        }
        let mut found = Vec::new();
        $isa.run(Each { run: Made, found: &mut found });
        for ($lane, found) in found.into_iter().enumerate() {
            let expected = [$($expected),+];
            let is_one = expected.iter().any(|e: &f32| {
                e.to_bits() == found.to_bits() || e.is_nan() && found.is_nan()
            });
            let what = stringify!($made);
            assert!(is_one, "{isa:?}: lane {} of {what}: {found:?} for {expected:?}", $lane, isa = $isa);
        }
    }};
}

/// The numbers from `first` on, turned by `by`.
fn turned(by: usize) -> [f32; 16] {
    std::array::from_fn(|i| NUMBERS[(i + by) % 16])
}

unsafe fn numbers<V: Vector>(by: usize, first: usize) -> V {
    V::load(turned(by).as_ptr().add(first))
}

#[test]
fn arithmetic_is_that_of_single_numbers() {
    for isa in Isa::all() {
        check!(
            isa,
            |V, at| numbers::<V>(0, at).add(numbers(3, at)),
            |i| NUMBERS[i] + turned(3)[i]
        );
        check!(
            isa,
            |V, at| numbers::<V>(0, at).sub(numbers(5, at)),
            |i| NUMBERS[i] - turned(5)[i]
        );
        check!(
            isa,
            |V, at| numbers::<V>(0, at).mul(numbers(7, at)),
            |i| NUMBERS[i] * turned(7)[i]
        );
        check!(
            isa,
            |V, at| numbers::<V>(0, at).div(numbers(2, at)),
            |i| NUMBERS[i] / turned(2)[i]
        );
        let least = |a: f32, b: f32| if a < b { a } else { b };
        let most = |a: f32, b: f32| if a > b { a } else { b };
        check!(isa, |V, at| numbers::<V>(0, at).min(numbers(1, at)), |i| {
            least(NUMBERS[i], turned(1)[i])
        });
        check!(isa, |V, at| numbers::<V>(0, at).max(numbers(1, at)), |i| {
            most(NUMBERS[i], turned(1)[i])
        });
        // Rounded once, or in plain Rust twice.
        check!(
            isa,
            |V, at| numbers::<V>(0, at).mul_add(numbers(4, at), numbers(9, at)),
            |i| NUMBERS[i].mul_add(turned(4)[i], turned(9)[i]),
            NUMBERS[i] * turned(4)[i] + turned(9)[i]
        );
        check!(
            isa,
            |V, at| numbers::<V>(0, at).neg_mul_add(numbers(4, at), numbers(9, at)),
            |i| (-NUMBERS[i]).mul_add(turned(4)[i], turned(9)[i]),
            turned(9)[i] - NUMBERS[i] * turned(4)[i]
        );
    }
}

/// From −7.5 to 7.5 and ties among them.
const SMALL: [f32; 16] = [
    -7.5, -6.5, -5.5, -2.5, -1.5, -0.5, -0.25, 0.0, 0.25, 0.5, 1.5, 2.5, 3.5, 3.75, 6.5, 7.5,
];
const WHOLE: [f32; 16] = [
    -126.0, -125.0, -64.0, -23.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 10.0, 23.0, 24.0, 100.0, 126.0,
    127.0,
];

#[test]
fn rounding_and_powers_of_two_are_exact() {
    for isa in Isa::all() {
        let tie = |x: f32| x.round_ties_even() + 0.0;
        // Zero has no sign that counts.
        check!(
            isa,
            |V, at| V::load(SMALL.as_ptr().add(at)).round().add(V::zero()),
            |i| tie(SMALL[i])
        );
        check!(
            isa,
            |V, at| V::load(SMALL.as_ptr().add(at)).scale_exp2(V::load(WHOLE.as_ptr().add(at))),
            |i| SMALL[i] * 2f32.powi(WHOLE[i] as i32)
        );
    }
}

#[test]
fn narrow_numbers_are_widened() {
    static BYTES: [i8; 16] = [
        0, 1, -1, 127, -128, 5, -77, 64, -64, 3, 2, 100, -100, 31, -32, 90,
    ];
    static WORDS: [i32; 16] = [
        0,
        1,
        -1,
        16_777_217,
        i32::MAX,
        i32::MIN,
        255,
        -255,
        7,
        70_000,
        -70_000,
        2,
        3,
        4,
        5,
        6,
    ];
    static HALVES: [u16; 16] = [
        0, 0x8000, 0x3c00, 0xbc00, 1, 0x83ff, 0x0400, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7e00,
        0x3555, 0x5640, 0x1234, 0x9abc,
    ];
    for isa in Isa::all() {
        check!(isa, |V, at| V::load_i8(BYTES.as_ptr().add(at)), |i| {
            f32::from(BYTES[i])
        });
        check!(
            isa,
            |V, at| V::load_i32(WORDS.as_ptr().add(at)),
            |i| WORDS[i] as f32
        );
        check!(
            isa,
            |V, at| V::load_masked(BYTES.as_ptr().cast::<u8>().add(at), 0x3c),
            |i| f32::from(BYTES[i] as u8 & 0x3c)
        );
        check!(isa, |V, at| V::load_f16(HALVES.as_ptr().add(at)), |i| {
            f16::from_bits(HALVES[i]).to_f32()
        });
        check!(isa, |V, at| V::load_bf16(HALVES.as_ptr().add(at)), |i| {
            bf16::from_bits(HALVES[i]).to_f32()
        });
    }
}

/// As bf16, subnormals as zero of their sign.
fn narrow(x: f32) -> u16 {
    match x.is_subnormal() {
        true => bf16::from_f32(0f32.copysign(x)).to_bits(),
        false => bf16::from_f32(x).to_bits(),
    }
}

struct Stored<'a> {
    halves: &'a mut [u16; 16],
    pairs: &'a mut [u32; 16],
    bytes: &'a mut [i8; 16],
}

impl Kernel for Stored<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        for at in (0..16).step_by(V::LANES) {
            let (first, second) = (numbers::<V>(0, at), numbers::<V>(3, at));
            first.store_bf16(self.halves.as_mut_ptr().add(at));
            V::store_pairs(first, second, self.pairs.as_mut_ptr().add(at));
            let small = V::load(SMALL.as_ptr().add(at)).mul(V::splat(16.0));
            small.store_i8(self.bytes.as_mut_ptr().add(at));
        }
    }
}

#[test]
fn narrow_numbers_are_rounded() {
    for isa in Isa::all() {
        let (mut halves, mut pairs, mut bytes) = ([0; 16], [0; 16], [0; 16]);
        isa.run(Stored {
            halves: &mut halves,
            pairs: &mut pairs,
            bytes: &mut bytes,
        });
        let expected: [u16; 16] = std::array::from_fn(|i| narrow(NUMBERS[i]));
        let second: [u16; 16] = std::array::from_fn(|i| narrow(turned(3)[i]));
        assert_eq!(halves, expected, "{isa:?}");
        for i in 0..16 {
            let pair = u32::from(expected[i]) | u32::from(second[i]) << 16;
            assert_eq!(pairs[i], pair, "{isa:?}");
            assert_eq!(
                bytes[i],
                (SMALL[i] * 16.0).round_ties_even() as i8,
                "{isa:?}"
            );
        }
    }
}

struct Partly<'a> {
    count: usize,
    from: &'a [f32],
    to: &'a mut [f32; 18],
    sum: &'a mut f32,
}

impl Kernel for Partly<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let count = self.count.min(V::LANES);
        let loaded = V::load_up_to(self.from[..count].as_ptr(), count);
        *self.sum = loaded.sum();
        loaded.store(self.to.as_mut_ptr());
        V::splat(9.0).store_up_to(self.to.as_mut_ptr(), count);
    }
}

#[test]
fn parts_of_a_register_leave_the_rest_alone() {
    let from: Vec<f32> = (1..=16).map(|x| x as f32).collect();
    for isa in Isa::all() {
        for count in 0..=isa.lanes() {
            let (mut to, mut sum) = ([7.0; 18], 0.0);
            isa.run(Partly {
                count,
                from: &from,
                to: &mut to,
                sum: &mut sum,
            });
            let expected: [f32; 18] = std::array::from_fn(|i| match i {
                i if i < count => 9.0,
                i if i < isa.lanes() => 0.0,
                _ => 7.0,
            });
            assert_eq!(to, expected, "{isa:?}, {count}");
            assert_eq!(sum, (count * (count + 1) / 2) as f32, "{isa:?}, {count}");
        }
    }
}

struct Transposed<'a> {
    from: &'a [f32],
    to: &'a mut [f32],
}

impl Kernel for Transposed<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        V::transpose(self.from.as_ptr(), 19, self.to.as_mut_ptr(), 17);
    }
}

#[test]
fn a_block_is_transposed() {
    let from: Vec<f32> = (0..19 * 16).map(|x| x as f32).collect();
    for isa in Isa::all() {
        let mut to = vec![-1.0; 17 * 16];
        isa.run(Transposed {
            from: &from,
            to: &mut to,
        });
        for (at, &found) in to.iter().enumerate() {
            let (row, column) = (at / 17, at % 17);
            let inside = row < isa.lanes() && column < isa.lanes();
            let expected = if inside {
                from[column * 19 + row]
            } else {
                -1.0
            };
            assert_eq!(found, expected, "{isa:?}, {row}, {column}");
        }
    }
}
