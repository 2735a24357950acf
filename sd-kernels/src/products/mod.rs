//! What multiplies in a matrix product: f32, pairs of bf16 summed in f32, or int8 summed in i32.
//!
//! A unit takes the left-hand matrix in lines of 64 bytes of a row's consecutive terms, and the
//! right-hand one in panels. The units of bf16 round both to nearest, ties to even, and take
//! numbers too small for a normal f32 as zero.

#[cfg(target_arch = "x86_64")]
mod dot;
mod emulation;
mod int8;
pub(crate) mod powers;
mod single;
#[cfg(target_arch = "x86_64")]
mod tiles;

use std::sync::OnceLock;

pub use int8::Int8;
pub(crate) use int8::{GROUP, LINE_TERMS, LONGEST, largest, scale};
pub(crate) use single::Single;

use crate::buffer::LINE;
use crate::gemm::{Ahead, Finish, Source, Tiles};
use crate::simd::{Isa, Kernel, Vector};

/// What the products of a layer are computed with. A value exists only where this processor can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Products {
    set: Set,
    /// In place of these where a weight is held so.
    int8: Option<Int8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Set {
    #[default]
    Single,
    EmulatedPairs,
    EmulatedTiles,
    #[cfg(target_arch = "x86_64")]
    Pairs,
    #[cfg(target_arch = "x86_64")]
    Tiles,
    /// Of a weight that is held so.
    Int8(Int8),
}

impl From<Set> for Products {
    fn from(set: Set) -> Self {
        Self { set, int8: None }
    }
}

impl Products {
    /// Products and sums of f32.
    pub const F32: Self = Self {
        set: Set::Single,
        int8: None,
    };

    /// The same, but linear layers, gated ones and convolutions multiply in `int8` where their weight
    /// loses little by it ([`PackedMatrix`](crate::PackedMatrix) says when): convolutions of single
    /// pixels always, larger ones with stride 1 where `int8` is AMX or emulated, whose bits are AMX's.
    #[must_use]
    pub fn with_int8(self, int8: Option<Int8>) -> Self {
        Self { int8, ..self }
    }

    /// What multiplies int8 beside these.
    pub fn int8(self) -> Option<Int8> {
        self.int8
    }

    /// Those of a weight that is held in int8, or as without it.
    pub(crate) fn of_weight(self, is_int8: bool) -> Self {
        match self.int8 {
            Some(int8) if is_int8 => Set::Int8(int8).into(),
            _ => self.set.into(),
        }
    }

    /// The fastest products of bf16, with sums of f32, that are instructions of this processor, fit
    /// [`Isa::best`] and are faster than those of f32; `None` where there are none. The environment variable
    /// `SD_KERNELS_BF16`, read when this is first called, names one of [`all`](Self::all) instead;
    /// any other word stands for none.
    pub fn bf16() -> Option<Self> {
        static BEST: OnceLock<Option<Products>> = OnceLock::new();
        *BEST.get_or_init(|| {
            let all = Self::all();
            let fitting = all.iter().filter(|unit| unit.on(Isa::best()) == **unit);
            match std::env::var("SD_KERNELS_BF16").as_deref() {
                Ok(name) => fitting.clone().find(|unit| unit.name() == name).copied(),
                Err(_) => fitting.clone().find(|unit| unit.pays()).copied(),
            }
        })
    }

    /// Every way to multiply bf16, the fastest first (instructions need AVX-512 VBMI beside them); the last ones are emulations, which give the
    /// same bits on any processor.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        if Isa::all()[0].lanes() == 16
            && is_x86_feature_detected!("avx512bf16")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vbmi")
        {
            if tiles::are_there(tiles::BF16) {
                all.push(Set::Tiles.into());
            }
            all.push(Set::Pairs.into());
        }
        all.extend([Set::EmulatedTiles, Set::EmulatedPairs].map(Self::from));
        all
    }

    /// `"f32"`, `"tiles"` (AMX), `"pairs"` (AVX-512 BF16), `"emulated-tiles"` or
    /// `"emulated-pairs"`; `"int8"` of a weight that is held so.
    pub const fn name(self) -> &'static str {
        match self.set {
            Set::Single => "f32",
            Set::EmulatedPairs => "emulated-pairs",
            Set::EmulatedTiles => "emulated-tiles",
            #[cfg(target_arch = "x86_64")]
            Set::Pairs => "pairs",
            #[cfg(target_arch = "x86_64")]
            Set::Tiles => "tiles",
            Set::Int8(_) => "int8",
        }
    }

    /// True for products of f32.
    pub fn is_f32(self) -> bool {
        self.set == Set::Single
    }

    /// True for those of a weight that is held in int8.
    pub(crate) fn is_int8(self) -> bool {
        matches!(self.set, Set::Int8(_))
    }

    /// True where no instruction multiplies but a program that rounds as it does.
    pub fn is_emulated(self) -> bool {
        matches!(self.set, Set::EmulatedPairs | Set::EmulatedTiles)
    }

    /// True where it is faster than products of f32: Intel's VDPBF16PS takes four times as long as
    /// a multiply-add (measured on Emerald Rapids), AMD's takes as long for twice the work.
    fn pays(self) -> bool {
        match self.set {
            Set::Single | Set::EmulatedPairs | Set::EmulatedTiles | Set::Int8(_) => false,
            #[cfg(target_arch = "x86_64")]
            Set::Pairs => core::arch::x86_64::__cpuid(0).ebx != u32::from_le_bytes(*b"Genu"),
            #[cfg(target_arch = "x86_64")]
            Set::Tiles => true,
        }
    }

    /// The products whose results are the same bits on any processor.
    pub fn emulated(self) -> Self {
        let set = match self.set {
            #[cfg(target_arch = "x86_64")]
            Set::Pairs => Set::EmulatedPairs,
            #[cfg(target_arch = "x86_64")]
            Set::Tiles => Set::EmulatedTiles,
            Set::Int8(_) => Set::Int8(Int8::EMULATED),
            set => set,
        };
        Self { set, ..self }
    }

    /// The same beside the registers of `isa`: the instructions need those of AVX-512.
    pub(crate) fn on(self, isa: Isa) -> Self {
        match self.set {
            Set::Int8(int8) => Set::Int8(int8.on(isa)).into(),
            _ if isa.lanes() == 16 => self,
            _ => self.emulated(),
        }
    }

    /// True where a 3×3 convolution is faster as one product of these than by Winograd in f32.
    pub(crate) fn convolves(self) -> bool {
        match self.set {
            Set::Int8(int8) => int8.convolves(),
            Set::Single | Set::EmulatedPairs => false,
            Set::EmulatedTiles => true,
            #[cfg(target_arch = "x86_64")]
            Set::Pairs => false,
            #[cfg(target_arch = "x86_64")]
            Set::Tiles => true,
        }
    }

    /// Terms of a line of the left-hand matrix.
    pub(crate) fn terms(self) -> usize {
        match self.set {
            Set::Single => Single::TERMS,
            Set::Int8(_) => LINE_TERMS,
            _ => PAIRED,
        }
    }

    /// Rows of a tile, beside the registers of `isa`.
    pub(crate) fn rows(self, isa: Isa) -> usize {
        match self.set {
            Set::Single => isa.rows(),
            Set::EmulatedPairs => emulation::ROWS,
            Set::EmulatedTiles => emulation::ROWS,
            #[cfg(target_arch = "x86_64")]
            Set::Pairs => dot::ROWS,
            #[cfg(target_arch = "x86_64")]
            Set::Tiles => tiles::ROWS,
            Set::Int8(int8) => int8.rows(),
        }
    }

    /// Longest part of the depth multiplied at once.
    pub(crate) fn depth(self) -> usize {
        match self.set {
            Set::Single => Single::DEPTH,
            Set::EmulatedPairs => emulation::Pairs::DEPTH,
            Set::EmulatedTiles => emulation::Tiles::DEPTH,
            #[cfg(target_arch = "x86_64")]
            Set::Pairs => dot::Dot::DEPTH,
            #[cfg(target_arch = "x86_64")]
            Set::Tiles => tiles::Amx::DEPTH,
            Set::Int8(_) => int8::DEPTH,
        }
    }

    /// Most lines of a panel that stay in the first-level cache: [`Unit::RESIDENT`].
    pub(crate) fn resident(self) -> usize {
        match self.set {
            #[cfg(target_arch = "x86_64")]
            Set::Tiles => tiles::RESIDENT,
            Set::Int8(int8) => int8.resident(),
            _ => usize::MAX,
        }
    }

    /// True where all tiles but the last are of full height: a lower one takes as long.
    pub(crate) fn fills_tiles(self) -> bool {
        match self.set {
            Set::Int8(int8) => int8.fills_tiles(),
            _ => self.emulated().set == Set::EmulatedTiles,
        }
    }

    /// Runs the product of a weight beside the registers of `isa`, which these are [`on`](Self::on).
    #[inline]
    pub(crate) fn multiply(self, isa: Isa, kernel: impl UnitKernel) {
        match self.set {
            Set::Int8(int8) => int8.run(isa, kernel),
            _ => self.run(isa, kernel),
        }
    }

    /// The same of a kernel for units that are not of int8.
    #[inline]
    pub(crate) fn run(self, isa: Isa, kernel: impl UnitKernel) {
        debug_assert!(self == self.on(isa));
        match self.set {
            Set::Single => isa.run(With(kernel, Single)),
            Set::EmulatedPairs => isa.run(With(kernel, emulation::Pairs)),
            Set::EmulatedTiles => isa.run(With(kernel, emulation::Tiles)),
            // SAFETY: the private `Set` is constructed after detection only, and `on` leaves these
            // beside registers of 16 lanes alone.
            #[cfg(target_arch = "x86_64")]
            Set::Pairs => unsafe { dot::run(kernel, dot::Dot) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Set::Tiles => unsafe { dot::run(kernel, tiles::Amx) },
            Set::Int8(_) => debug_assert!(false, "a kernel that knows no int8"),
        }
    }
}

/// Terms of a line of bf16.
pub(crate) const PAIRED: usize = 32;

/// A kernel that multiplies by a unit: implementors put `#[inline(always)]` on `run`.
pub(crate) trait UnitKernel {
    /// # Safety
    /// Called under the instruction sets of `V` and `U`.
    unsafe fn run<V: Vector, U: Unit<V>>(self);
}

struct With<K, U>(K, U);

macro_rules! kernels {
    ($($unit:ty),*) => {$(
        impl<K: UnitKernel> Kernel for With<K, $unit> {
            #[inline(always)]
            unsafe fn run<V: Vector>(self) {
                self.0.run::<V, $unit>();
            }
        }
    )*};
}

kernels!(Single, emulation::Pairs, emulation::Tiles, int8::Emulated);

/// What multiplies lines with panels.
///
/// # Safety
/// As for [`Vector`].
pub(crate) trait Unit<V: Vector>: Copy {
    /// Terms of a line of 64 bytes: 16 of f32, 32 of bf16 or 64 of int8.
    const TERMS: usize;
    /// Most rows of a tile.
    const ROWS: usize;
    /// Tiles are as high as they can be, but for the last.
    const FILLS: bool = false;
    /// Most lines of a panel that stay in the first-level cache beside the tiles that pass: where there
    /// are more, sums go through memory. Only of what knows packed rows [shifted](Self::shifted).
    const RESIDENT: usize = usize::MAX;
    /// True where a panel is of f32, `[k][2·LANES]`; else it is of pairs of bf16,
    /// `[k/2][2·LANES][2]`, zero beyond the depth up to a whole line.
    const IS_SINGLE: bool = false;

    /// Before a task's first tile.
    #[inline(always)]
    unsafe fn begin() {}

    /// Behind a task's last tile.
    #[inline(always)]
    unsafe fn end() {}

    /// A line of the `count` ≤ `TERMS` numbers at `from`, then zeros. Of int8 there is none: its
    /// numbers depend on the whole row.
    #[inline(always)]
    unsafe fn line(from: *const f32, count: usize, to: *mut f32) {
        debug_assert!(false, "a line of {count} at {from:?} to {to:?}");
    }

    /// A whole line of a picture's numbers, of int8 each times `factor`.
    #[inline(always)]
    unsafe fn scaled_line(from: *const f32, factor: f32, to: *mut f32) {
        let _ = factor;
        Self::line(from, Self::TERMS, to);
    }

    /// Some rows (first, count) and lines (first, count) of a source of `depth` terms, as
    /// `[lines][rows]` lines. `row` has room for one in f32, and `scales` gets those of a unit that
    /// has such, a row each.
    #[inline(always)]
    unsafe fn pack<S: Source>(
        source: S,
        rows: (usize, usize),
        lines: (usize, usize),
        depth: usize,
        to: *mut f32,
        [row, scales]: [*mut f32; 2],
    ) {
        let _ = (depth, row, scales);
        source.pack::<V, Self>(rows, lines, to);
    }

    /// `LANES` columns of one pair of terms of a panel, rounded as [`line`](Self::line) does.
    #[inline(always)]
    unsafe fn pair(first: V, second: V, to: *mut f32) {
        V::store_pairs(first, second, to.cast());
    }

    /// The product of `rows` of A, `[lines][rows][line]`, with a panel of B, over `k` terms or, of
    /// bf16 and int8, as many as whole lines have. `scales` are those of the rows and of the panel's
    /// columns, which int8 alone has.
    #[allow(clippy::too_many_arguments)]
    unsafe fn tile<F: Finish>(
        rows: usize,
        registers: usize,
        k: usize,
        ab: [*const f32; 2],
        scales: [*const f32; 2],
        ahead: Ahead,
        at: (usize, usize),
        finish: F,
    );

    /// The sums `[rows][2·LANES]` at `to` of `rows` pixels with the parts of a panel of B; with `more`,
    /// added to what is there. What does not [convolve](Products::convolves) knows
    /// [packed](Shifted::packed) rows alone, and f32 none. Those of int8 are whole numbers.
    ///
    /// As many pixels as a tile can have are read. Meanwhile `ahead` is asked for, its lines with every
    /// line of a row.
    #[inline(always)]
    unsafe fn shifted(
        rows: usize,
        a: Shifted,
        b: *const f32,
        ahead: Ahead,
        to: *mut f32,
        more: bool,
    ) {
        debug_assert!(
            false,
            "{rows} of {a:?} by {b:?} {ahead:?} to {to:?}, {more}"
        );
    }

    /// The same sums of packed rows in [`Tiles`] one behind the other, each of `lines` lines.
    #[inline(always)]
    unsafe fn rows(
        rows: usize,
        lines: usize,
        a: *const f32,
        b: *const f32,
        to: *mut f32,
        more: bool,
    ) {
        let tiles = Tiles::of::<V, Self>(rows);
        for t in 0..tiles.count {
            let (row, rows) = tiles.get(t);
            let a = Shifted::packed(a.add(row * lines * LINE), rows, lines);
            Self::shifted(rows, a, b, Ahead::NONE, to.add(row * 2 * V::LANES), more);
        }
    }

    /// The powers of two of `keys` scores `[keys][2·LANES]` as [`powers`] has them, as pairs
    /// `[keys/2][2·LANES][2]`, beside the columns' `highest`. True where one did not fit.
    /// Only of bf16.
    #[inline(always)]
    unsafe fn powers(keys: usize, scores: *const f32, highest: *const f32, to: *mut f32) -> bool {
        powers::portable::<V>(keys, scores, highest, to)
    }

    /// Hands rows of sums that [`shifted`](Self::shifted) made to `finish`. Of int8 they are scaled where
    /// they lie, by each row's scale and the panel's columns'.
    #[inline(always)]
    unsafe fn finish_shifted<F: Finish>(
        rows: usize,
        registers: usize,
        sums: *mut f32,
        scales: (impl Fn(usize) -> f32, *const f32),
        at: (usize, usize),
        finish: F,
    ) {
        let _ = scales;
        finish_rows::<V, F>(rows, registers, sums, at, finish);
    }
}

/// Rows of the left-hand matrix where they lie, in one or several parts of the depth, each at an
/// offset: what lies under some taps of a convolution for output pixels beside each other, in a rounded
/// picture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shifted {
    /// The first row.
    pub(crate) from: *const f32,
    /// f32 from one row to the next.
    pub(crate) pitch: usize,
    /// f32 from one line of a row to the next.
    pub(crate) step: usize,
    /// f32 to each part.
    pub(crate) offsets: *const usize,
    /// Number of parts, at least one.
    pub(crate) count: usize,
    /// Lines of each.
    pub(crate) lines: usize,
    /// f32 of the panel from where one part is multiplied to where the next is.
    pub(crate) panel: usize,
}

impl Shifted {
    /// Packed rows, `[lines][rows]`.
    #[inline(always)]
    pub(crate) fn packed(from: *const f32, rows: usize, lines: usize) -> Self {
        Self {
            from,
            pitch: LINE,
            step: rows * LINE,
            offsets: &0,
            count: 1,
            lines,
            panel: 0,
        }
    }
}

/// Room for a tile's sums on their way from a unit to the [`Finish`].
#[repr(C, align(64))]
pub(crate) struct Sums([f32; 32 * 32]);

impl Sums {
    #[inline(always)]
    fn new() -> std::mem::MaybeUninit<Self> {
        std::mem::MaybeUninit::uninit()
    }
}

/// Hands `rows` rows of sums `[rows][2·LANES]` to `finish`, a few at a time.
#[inline(always)]
pub(crate) unsafe fn finish_rows<V: Vector, F: Finish>(
    rows: usize,
    registers: usize,
    sums: *const f32,
    (first, panel): (usize, usize),
    finish: F,
) {
    #[inline(always)]
    unsafe fn some<V: Vector, F: Finish, const R: usize, const N: usize>(
        sums: *const f32,
        row: usize,
        panel: usize,
        finish: F,
    ) {
        let mut tile = [[V::zero(); N]; R];
        for (r, tile) in tile.iter_mut().enumerate() {
            for (j, x) in tile.iter_mut().enumerate() {
                *x = V::load(sums.add((r * 2 + j) * V::LANES));
            }
        }
        finish.finish::<V, R, N>(row, panel, tile);
    }
    let mut r = 0;
    while r < rows {
        let (from, row) = (sums.add(r * 2 * V::LANES), first + r);
        match (rows - r >= 4, registers) {
            (true, 2) => some::<V, F, 4, 2>(from, row, panel, finish),
            (false, 2) => some::<V, F, 1, 2>(from, row, panel, finish),
            (true, _) => some::<V, F, 4, 1>(from, row, panel, finish),
            (false, _) => some::<V, F, 1, 1>(from, row, panel, finish),
        }
        r += if rows - r >= 4 { 4 } else { 1 };
    }
}
