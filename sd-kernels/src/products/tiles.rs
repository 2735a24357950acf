//! AMX: one instruction multiplies a tile of 16 rows of A by 32 terms of bf16, or 64 of int8, with a
//! tile of 16 columns of B and adds the products to a tile of 16 × 16 sums.

use super::dot::{round_line, round_pairs};
use super::{PAIRED, Shifted, Sums, Unit, finish_rows};
use crate::buffer::LINE;
use crate::gemm::{Ahead, Finish};
use crate::simd::F32x16;

/// Two tiles of A, by two of B: four tiles of sums, of the eight there are.
pub(super) const ROWS: usize = 32;

/// The instruction TDPBF16PS.
#[derive(Clone, Copy)]
pub(super) struct Amx;

impl Amx {
    /// A panel of so many terms is most of a 48 KiB first-level cache; its emulation's, for the same
    /// bits.
    pub(super) const DEPTH: usize = super::emulation::Tiles::DEPTH;
}

/// The bits by which CPUID tells of TDPBF16PS and of TDPBSSD.
pub(super) const BF16: u32 = 1 << 22;
pub(super) const INT8: u32 = 1 << 25;

/// True where the processor has AMX with the instruction of that bit and the system lets this process
/// use its registers.
#[cfg(target_os = "linux")]
pub(super) fn are_there(instruction: u32) -> bool {
    const TILES: u32 = 1 << 24;
    const REQUEST: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    use core::arch::x86_64::{__cpuid, __cpuid_count};
    static ALLOWED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    let wanted = TILES | instruction;
    let has = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & wanted == wanted;
    // Linux saves the registers only of processes that asked for them.
    // SAFETY: a call that touches no memory.
    has && *ALLOWED
        .get_or_init(|| unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) == 0 })
}

/// Elsewhere nobody says how a process gets at the registers.
#[cfg(not(target_os = "linux"))]
pub(super) fn are_there(_instruction: u32) -> bool {
    false
}

/// What LDTILECFG loads: palette, first row, then the tiles' bytes a row and their rows.
#[repr(C, align(64))]
struct Configuration {
    palette: [u8; 16],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// All eight tiles of 16 rows of 64 bytes.
static CONFIGURATION: Configuration = Configuration {
    palette: [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Before the first tile.
#[inline(always)]
pub(super) unsafe fn configure() {
    core::arch::asm!(
        "ldtilecfg [{}]",
        in(reg) &raw const CONFIGURATION,
        options(nostack, readonly, preserves_flags)
    );
}

/// Behind the last tile: nothing of them is saved at a switch to another process.
#[inline(always)]
pub(super) unsafe fn release() {
    core::arch::asm!("tilerelease", options(nostack, nomem, preserves_flags));
}

impl Unit<F32x16> for Amx {
    const TERMS: usize = PAIRED;
    const ROWS: usize = ROWS;
    const FILLS: bool = true;

    #[inline(always)]
    unsafe fn begin() {
        configure();
    }

    #[inline(always)]
    unsafe fn end() {
        release();
    }

    #[inline(always)]
    unsafe fn line(from: *const f32, count: usize, to: *mut f32) {
        round_line(from, count, to);
    }

    #[inline(always)]
    unsafe fn pair(first: F32x16, second: F32x16, to: *mut f32) {
        round_pairs(first, second, to);
    }

    #[inline(always)]
    unsafe fn tile<F: Finish>(
        rows: usize,
        registers: usize,
        k: usize,
        [a, b]: [*const f32; 2],
        _scales: [*const f32; 2],
        ahead: Ahead,
        at: (usize, usize),
        finish: F,
    ) {
        let mut sums = Sums::new();
        let to = sums.as_mut_ptr().cast::<f32>();
        sum_bf16(
            rows,
            Shifted::packed(a, rows, k.div_ceil(PAIRED)),
            b,
            ahead,
            to,
            false,
        );
        finish_rows::<F32x16, F>(rows, registers, to, at, finish);
    }

    #[inline(always)]
    unsafe fn shifted(
        rows: usize,
        a: Shifted,
        b: *const f32,
        ahead: Ahead,
        to: *mut f32,
        more: bool,
    ) {
        sum_bf16(rows, a, b, ahead, to, more);
    }
}

/// What the assembly below reads from memory, as registers are few.
#[repr(C)]
struct Job {
    from: *const f32,
    lines: usize,
    to: *mut f32,
    /// Lines to ask for with each that is multiplied.
    ahead: usize,
}

impl Job {
    fn new(a: Shifted, ahead: Ahead, to: *mut f32) -> Self {
        Self {
            from: a.from,
            lines: a.lines,
            to,
            ahead: ahead.lines,
        }
    }
}

/// Asks for the next lines, into the second-level cache: the first is full of what is multiplied.
macro_rules! ask_ahead {
    () => {
        "mov {i}, [{job} + 24]
        test {i}, {i}
        jz 6f
        5:
        prefetcht1 [{next}]
        add {next}, 64
        dec {i}
        jnz 5b
        6:"
    };
}

/// Defines the sums of products of an instruction: up to 32 rows times a panel.
///
/// Tiles always have 16 rows: those beyond `rows` are of whatever memory follows, and their sums are
/// not used.
macro_rules! sums_of {
    ($name:ident, $instruction:literal) => {
        #[inline(always)]
        pub(super) unsafe fn $name(
            rows: usize,
            a: Shifted,
            b: *const f32,
            ahead: Ahead,
            to: *mut f32,
            more: bool,
        ) {
            /// Up to 32 rows times one panel.
            #[inline(never)]
            unsafe fn four(a: Shifted, b: *const f32, ahead: Ahead, to: *mut f32, more: bool) {
                let job = Job::new(a, ahead, to);
                core::arch::asm!(
                    "test {line}, {line}",
                    "jnz 2f",
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "jmp 3f",
                    "2:",
                    "mov {first}, [{job} + 16]",
                    "tileloadd tmm0, [{first} + {row}]",
                    "tileloadd tmm1, [{first} + {row} + 64]",
                    "tileloadd tmm2, [{first} + {row} + 2048]",
                    "tileloadd tmm3, [{first} + {row} + 2112]",
                    "3:",
                    "mov {first}, [{offsets}]",
                    "shl {first}, 2",
                    "add {first}, [{job}]",
                    "mov {second}, {pitch}",
                    "shl {second}, 4",
                    "add {second}, {first}",
                    "add {offsets}, 8",
                    "mov {line}, [{job} + 8]",
                    "4:",
                    ask_ahead!(),
                    "tileloadd tmm4, [{first} + {pitch}]",
                    "tileloadd tmm6, [{b} + {row}]",
                    "tileloadd tmm7, [{b} + {row} + 64]",
                    concat!($instruction, " tmm0, tmm4, tmm6"),
                    "tileloadd tmm5, [{second} + {pitch}]",
                    concat!($instruction, " tmm1, tmm4, tmm7"),
                    "add {first}, {step}",
                    "add {second}, {step}",
                    "add {b}, 2048",
                    concat!($instruction, " tmm2, tmm5, tmm6"),
                    concat!($instruction, " tmm3, tmm5, tmm7"),
                    "dec {line}",
                    "jnz 4b",
                    "dec {count}",
                    "jnz 3b",
                    "mov {first}, [{job} + 16]",
                    "tilestored [{first} + {row}], tmm0",
                    "tilestored [{first} + {row} + 64], tmm1",
                    "tilestored [{first} + {row} + 2048], tmm2",
                    "tilestored [{first} + {row} + 2112], tmm3",
                    job = in(reg) &raw const job,
                    first = out(reg) _,
                    second = out(reg) _,
                    pitch = in(reg) 4 * a.pitch,
                    step = in(reg) 4 * a.step,
                    offsets = inout(reg) a.offsets => _,
                    count = inout(reg) a.count => _,
                    line = inout(reg) usize::from(more) => _,
                    b = inout(reg) b => _,
                    next = inout(reg) ahead.from => _,
                    i = out(reg) _,
                    row = in(reg) 128usize,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack)
                );
            }

            /// Up to 16 rows times one panel.
            #[inline(never)]
            unsafe fn two(a: Shifted, b: *const f32, ahead: Ahead, to: *mut f32, more: bool) {
                let job = Job::new(a, ahead, to);
                core::arch::asm!(
                    "test {line}, {line}",
                    "jnz 2f",
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "jmp 3f",
                    "2:",
                    "mov {first}, [{job} + 16]",
                    "tileloadd tmm0, [{first} + {row}]",
                    "tileloadd tmm1, [{first} + {row} + 64]",
                    "3:",
                    "mov {first}, [{offsets}]",
                    "shl {first}, 2",
                    "add {first}, [{job}]",
                    "add {offsets}, 8",
                    "mov {line}, [{job} + 8]",
                    "4:",
                    ask_ahead!(),
                    "tileloadd tmm4, [{first} + {pitch}]",
                    "tileloadd tmm6, [{b} + {row}]",
                    "tileloadd tmm7, [{b} + {row} + 64]",
                    "add {first}, {step}",
                    "add {b}, 2048",
                    concat!($instruction, " tmm0, tmm4, tmm6"),
                    concat!($instruction, " tmm1, tmm4, tmm7"),
                    "dec {line}",
                    "jnz 4b",
                    "dec {count}",
                    "jnz 3b",
                    "mov {first}, [{job} + 16]",
                    "tilestored [{first} + {row}], tmm0",
                    "tilestored [{first} + {row} + 64], tmm1",
                    job = in(reg) &raw const job,
                    first = out(reg) _,
                    pitch = in(reg) 4 * a.pitch,
                    step = in(reg) 4 * a.step,
                    offsets = inout(reg) a.offsets => _,
                    count = inout(reg) a.count => _,
                    line = inout(reg) usize::from(more) => _,
                    b = inout(reg) b => _,
                    next = inout(reg) ahead.from => _,
                    i = out(reg) _,
                    row = in(reg) 128usize,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack)
                );
            }

            if a.lines == 0 {
                to.write_bytes(0, rows * 2 * LINE);
            } else if rows > 16 {
                four(a, b, ahead, to, more);
            } else {
                two(a, b, ahead, to, more);
            }
        }
    };
}

sums_of!(sum_bf16, "tdpbf16ps");
sums_of!(sum_int8, "tdpbssd");
