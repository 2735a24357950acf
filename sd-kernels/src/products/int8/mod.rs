//! Products of int8: whole numbers that are summed exactly in i32, so every unit gives the same bits.
//!
//! A row of the left-hand matrix is rounded as it is packed, each part of the depth that is multiplied
//! at once by a scale of its own: its largest size over 127. The input of a convolution of several
//! pixels, whose rows share these, has one for each picture. A column of the weight has one scale. The
//! sums are made f32 and multiplied by both.

#[cfg(target_arch = "x86_64")]
mod dot;
mod emulation;
#[cfg(target_arch = "x86_64")]
mod tiles;

use std::sync::OnceLock;

pub(super) use emulation::Emulated;

use super::{Single, Sums, UnitKernel, With, finish_rows};
use crate::buffer::LINE;
use crate::gemm::{Finish, Source};
use crate::simd::{Isa, Vector};

/// Terms of a line.
pub(crate) const LINE_TERMS: usize = 64;

/// Consecutive terms of a column that lie together in a panel.
pub(crate) const GROUP: usize = 4;

/// Longest part of the depth multiplied at once, if its sums need not be whole: a panel of so many
/// terms is most of a 48 KiB first-level cache.
pub(super) const DEPTH: usize = LINE_TERMS * 20;

/// Terms of which an i32 holds the sum of any products: 127² · 2¹⁷ < 2³¹.
pub(crate) const LONGEST: usize = 1 << 17;

/// Rows of which no number is larger are zero: 127 over it is still finite.
const SMALLEST: f32 = 1e-36;

/// What multiplies int8. A value exists only where this processor can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Int8(Set);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Set {
    Emulated,
    #[cfg(target_arch = "x86_64")]
    Narrow,
    #[cfg(target_arch = "x86_64")]
    Wide,
    #[cfg(target_arch = "x86_64")]
    Tiles,
}

impl Int8 {
    pub(super) const EMULATED: Self = Self(Set::Emulated);

    /// The fastest that are instructions of this processor and fit [`Isa::best`]; `None` where there are
    /// none. The environment variable `SD_KERNELS_INT8`, read when this is first called, names one of
    /// [`all`](Self::all) instead; any other word stands for none.
    pub fn best() -> Option<Self> {
        static BEST: OnceLock<Option<Int8>> = OnceLock::new();
        *BEST.get_or_init(|| {
            let all = Self::all();
            let fitting = all.iter().filter(|unit| unit.on(Isa::best()) == **unit);
            match std::env::var("SD_KERNELS_INT8").as_deref() {
                Ok(name) => fitting.clone().find(|unit| unit.name() == name).copied(),
                Err(_) => fitting
                    .clone()
                    .find(|unit| **unit != Self::EMULATED)
                    .copied(),
            }
        })
    }

    /// Every way to multiply int8, the fastest first; the last is an emulation. All give the same bits.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if Isa::all()[0].lanes() == 16
                && is_x86_feature_detected!("avx512vnni")
                && is_x86_feature_detected!("avx512bw")
            {
                if super::tiles::are_there(super::tiles::INT8) {
                    all.push(Self(Set::Tiles));
                }
                all.push(Self(Set::Wide));
            }
            if Isa::all()[0].lanes() >= 8 && is_x86_feature_detected!("avxvnni") {
                all.push(Self(Set::Narrow));
            }
        }
        all.push(Self::EMULATED);
        all
    }

    /// `"tiles"` (AMX), `"dot"` (AVX-512 VNNI, or AVX-VNNI beside the registers of AVX2) or
    /// `"emulated"`.
    pub const fn name(self) -> &'static str {
        match self.0 {
            Set::Emulated => "emulated",
            #[cfg(target_arch = "x86_64")]
            Set::Narrow | Set::Wide => "dot",
            #[cfg(target_arch = "x86_64")]
            Set::Tiles => "tiles",
        }
    }

    /// The same beside the registers of `isa`, of which each instruction needs its own.
    pub(super) fn on(self, isa: Isa) -> Self {
        match (self.0, isa.lanes()) {
            #[cfg(target_arch = "x86_64")]
            (Set::Narrow, 8) | (Set::Wide | Set::Tiles, 16) => self,
            _ => Self::EMULATED,
        }
    }

    /// Rows of a tile.
    pub(super) fn rows(self) -> usize {
        match self.0 {
            Set::Emulated => emulation::ROWS,
            #[cfg(target_arch = "x86_64")]
            Set::Narrow => dot::NARROW_ROWS,
            #[cfg(target_arch = "x86_64")]
            Set::Wide => dot::WIDE_ROWS,
            #[cfg(target_arch = "x86_64")]
            Set::Tiles => super::tiles::ROWS,
        }
    }

    /// Most lines of a panel that stay in the first-level cache.
    pub(super) fn resident(self) -> usize {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Tiles => super::tiles::RESIDENT,
            _ => usize::MAX,
        }
    }

    /// True where all tiles but the last are of full height.
    pub(super) fn fills_tiles(self) -> bool {
        self.name() == "tiles"
    }

    /// True where a 3×3 convolution is faster as one product of these than by Winograd in f32 or in
    /// bf16: VNNI's is four times as fast as f32's, which Winograd saves as well.
    pub(super) fn convolves(self) -> bool {
        matches!(self.name(), "tiles" | "emulated")
    }

    /// Runs a kernel beside the registers of `isa`, which this is [`on`](Self::on).
    pub(super) fn run(self, isa: Isa, kernel: impl UnitKernel) {
        debug_assert!(self == self.on(isa));
        match self.0 {
            Set::Emulated => isa.run(With(kernel, Emulated)),
            // SAFETY: the private `Set` is constructed after detection only, and `on` leaves each
            // beside its registers alone.
            #[cfg(target_arch = "x86_64")]
            Set::Narrow => unsafe { dot::run_narrow(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Set::Wide => unsafe { dot::run_wide(kernel, dot::Wide) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Set::Tiles => unsafe { dot::run_wide(kernel, tiles::Tiles) },
        }
    }
}

/// The scale of numbers of which `largest` is the largest size, and what each is multiplied with before
/// it is rounded. `poison` is zero, or NaN where a number is not finite: then all of them are.
#[inline(always)]
pub(crate) fn scale(largest: f32, poison: f32) -> [f32; 2] {
    if poison.is_nan() {
        [poison, 0.0]
    } else if largest < SMALLEST {
        [0.0; 2]
    } else {
        [largest / 127.0, 127.0 / largest]
    }
}

/// [`Unit::pack`](super::Unit::pack) of these units, each byte changed in the bits `flipped`.
#[inline(always)]
unsafe fn pack<V: Vector, S: Source>(
    source: S,
    (first, rows): (usize, usize),
    (line, lines): (usize, usize),
    depth: usize,
    to: *mut f32,
    [row, scales]: [*mut f32; 2],
    flipped: u8,
) {
    const SINGLES: usize = LINE_TERMS / LINE;
    let all = lines * LINE_TERMS;
    let singles = (depth.div_ceil(LINE) - line * SINGLES).min(lines * SINGLES);
    for r in 0..rows {
        source.pack::<V, Single>((first + r, 1), (line * SINGLES, singles), row);
        row.add(singles * LINE).write_bytes(0, all - singles * LINE);
        let [largest, poison] = largest::<V>(row, all);
        let [scale, factor] = scale(largest, poison);
        *scales.add(r) = scale;
        for l in 0..lines {
            let to = to.add((l * rows + r) * LINE);
            scaled_line::<V>(row.add(l * LINE_TERMS), factor, to);
            if flipped != 0 {
                for byte in &mut *to.cast::<[u8; LINE_TERMS]>() {
                    *byte ^= flipped;
                }
            }
        }
    }
}

/// The largest size of `count` numbers, and what [`scale`] calls poison.
#[inline(always)]
pub(crate) unsafe fn largest<V: Vector>(from: *const f32, count: usize) -> [f32; 2] {
    let (mut largest, mut poison) = (V::zero(), V::zero());
    for i in (0..count).step_by(V::LANES) {
        let x = V::load_up_to(from.add(i), V::LANES.min(count - i));
        largest = largest.max(x.max(V::zero().sub(x)));
        poison = x.mul_add(V::zero(), poison);
    }
    let mut lanes = [0.0f32; 16];
    largest.store(lanes.as_mut_ptr());
    [lanes.into_iter().fold(0.0, f32::max), poison.sum()]
}

/// A line of numbers times `factor`, rounded.
#[inline(always)]
unsafe fn scaled_line<V: Vector>(from: *const f32, factor: f32, to: *mut f32) {
    let (factor, to) = (V::splat(factor), to.cast::<i8>());
    for i in (0..LINE_TERMS).step_by(V::LANES) {
        V::load(from.add(i)).mul(factor).store_i8(to.add(i));
    }
}

/// Makes `rows` rows of whole sums `[rows][2·LANES]` f32 where they lie, scales them and hands them to
/// `finish`.
#[inline(always)]
unsafe fn finish_scaled<V: Vector, F: Finish>(
    rows: usize,
    registers: usize,
    sums: *mut f32,
    (row_scale, column_scales): (impl Fn(usize) -> f32, *const f32),
    at: (usize, usize),
    finish: F,
) {
    for j in 0..2 {
        let columns = V::load(column_scales.add(j * V::LANES));
        for r in 0..rows {
            let sum = sums.add((r * 2 + j) * V::LANES);
            let x = V::load_i32(sum.cast()).mul(V::splat(row_scale(r)));
            x.mul(columns).store(sum);
        }
    }
    finish_rows::<V, F>(rows, registers, sums, at, finish);
}

/// Implements [`Unit`](super::Unit) by what sums the products of `rows` rows of A with a panel, over so
/// many lines.
macro_rules! unit {
    (
        impl $([$($generic:tt)*])? Unit<$vector:ty> for $unit:ty {
            $(const $name:ident: $type:ty = $value:expr;)*
            flipped: $flipped:expr,
            sum: $sum:expr,
            $(shifted: $shifted:expr,)?
            $(begin: $begin:expr, end: $end:expr,)?
        }
    ) => {
        impl $(<$($generic)*>)? crate::products::Unit<$vector> for $unit {
            const TERMS: usize = super::LINE_TERMS;
            $(const $name: $type = $value;)*

            $(
                #[inline(always)]
                unsafe fn begin() {
                    $begin();
                }

                #[inline(always)]
                unsafe fn end() {
                    $end();
                }
            )?

            #[inline(always)]
            unsafe fn pack<S: crate::gemm::Source>(
                source: S,
                rows: (usize, usize),
                lines: (usize, usize),
                depth: usize,
                to: *mut f32,
                room: [*mut f32; 2],
            ) {
                super::pack::<$vector, S>(source, rows, lines, depth, to, room, $flipped);
            }

            #[inline(always)]
            unsafe fn tile<F: crate::gemm::Finish>(
                rows: usize,
                registers: usize,
                k: usize,
                [a, b]: [*const f32; 2],
                scales: [*const f32; 2],
                ahead: crate::gemm::Ahead,
                at: (usize, usize),
                finish: F,
            ) {
                let mut sums = super::Sums::new();
                let to = sums.as_mut_ptr().cast::<f32>();
                $sum(k.div_ceil(super::LINE_TERMS), rows, [a, b], ahead, to);
                let scales = (|row| *scales[0].add(row), scales[1]);
                super::finish_scaled::<$vector, F>(rows, registers, to, scales, at, finish);
            }

            $(
                #[inline(always)]
                unsafe fn scaled_line(from: *const f32, factor: f32, to: *mut f32) {
                    super::scaled_line::<$vector>(from, factor, to);
                }

                #[inline(always)]
                unsafe fn shifted(
                    rows: usize,
                    a: crate::products::Shifted,
                    b: *const f32,
                    ahead: crate::gemm::Ahead,
                    to: *mut f32,
                    more: bool,
                ) {
                    $shifted(rows, a, b, ahead, to, more);
                }

                #[inline(always)]
                unsafe fn finish_shifted<F: crate::gemm::Finish>(
                    rows: usize,
                    registers: usize,
                    sums: *mut f32,
                    scales: (impl Fn(usize) -> f32, *const f32),
                    at: (usize, usize),
                    finish: F,
                ) {
                    super::finish_scaled::<$vector, F>(rows, registers, sums, scales, at, finish);
                }
            )?
        }
    };
}
use unit;
