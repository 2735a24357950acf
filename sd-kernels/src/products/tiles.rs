//! AMX: one instruction multiplies a tile of 16 rows of A by 32 terms of bf16, or 64 of int8, with a
//! tile of 16 columns of B and adds the products to a tile of 16 × 16 sums.

use super::dot::{round_line, round_pairs};
use super::{PAIRED, Shifted, Sums, Unit, finish_rows, powers};
use crate::buffer::LINE;
use crate::gemm::{Ahead, Finish};
use crate::simd::F32x16;

/// Two tiles of A, by two of B: four tiles of sums, of the eight there are.
pub(super) const ROWS: usize = 32;

/// Lines of a panel beside which as many of two tiles of A fit a 48 KiB first-level cache.
pub(super) const RESIDENT: usize = 10;

/// The instruction TDPBF16PS.
#[derive(Clone, Copy)]
pub(super) struct Amx;

impl Amx {
    /// The emulation's, for the same bits.
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
    const RESIDENT: usize = RESIDENT;

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

    #[inline(always)]
    unsafe fn rows(
        rows: usize,
        lines: usize,
        a: *const f32,
        b: *const f32,
        to: *mut f32,
        more: bool,
    ) {
        let mut done = 0;
        if lines == 2 && !more {
            done = rows / ROWS * ROWS;
            sum_by_two_lines(done / ROWS, a, b, to);
        } else if rows > ROWS && rows <= 48 && more {
            sum_to_48_rows(rows, lines, a, b, to);
            return;
        }
        while done < rows {
            let some = ROWS.min(rows - done);
            let a = Shifted::packed(a.add(done * lines * LINE), some, lines);
            sum_bf16(some, a, b, Ahead::NONE, to.add(done * 2 * LINE), more);
            done += some;
        }
    }

    #[inline(always)]
    unsafe fn powers(keys: usize, scores: *const f32, highest: *const f32, to: *mut f32) -> bool {
        powers::registers::powers(keys, scores, highest, to)
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
    /// Bytes from the end of one part of the panel to the next, and of what is asked for.
    skips: [usize; 2],
}

impl Job {
    fn new(a: Shifted, ahead: Ahead, to: *mut f32) -> Self {
        Self {
            from: a.from,
            lines: a.lines,
            to,
            ahead: ahead.lines,
            skips: [
                (4 * a.panel).wrapping_sub(a.lines * 2048),
                (ahead.step).wrapping_sub(a.lines * ahead.lines * 64),
            ],
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
                    "add {b}, [{job} + 32]",
                    "add {next}, [{job} + 40]",
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
                    "add {b}, [{job} + 32]",
                    "add {next}, [{job} + 40]",
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

/// Sums of `count` times 32 packed rows of two lines with a panel, whose four tiles stay where they
/// are meanwhile.
#[inline(never)]
unsafe fn sum_by_two_lines(count: usize, a: *const f32, b: *const f32, to: *mut f32) {
    if count == 0 {
        return;
    }
    core::arch::asm!(
        "tileloadd tmm4, [{b} + {row}]",
        "tileloadd tmm5, [{b} + {row} + 64]",
        "tileloadd tmm6, [{b} + {row} + 2048]",
        "tileloadd tmm7, [{b} + {row} + 2112]",
        "2:",
        "tilezero tmm0",
        "tilezero tmm1",
        "tileloadd tmm2, [{a} + {line}]",
        "tdpbf16ps tmm0, tmm2, tmm4",
        "tdpbf16ps tmm1, tmm2, tmm5",
        "tileloadd tmm3, [{a} + {line} + 2048]",
        "tdpbf16ps tmm0, tmm3, tmm6",
        "tdpbf16ps tmm1, tmm3, tmm7",
        "tilestored [{to} + {row}], tmm0",
        "tilestored [{to} + {row} + 64], tmm1",
        "tilezero tmm0",
        "tilezero tmm1",
        "tileloadd tmm2, [{a} + {line} + 1024]",
        "tdpbf16ps tmm0, tmm2, tmm4",
        "tdpbf16ps tmm1, tmm2, tmm5",
        "tileloadd tmm3, [{a} + {line} + 3072]",
        "tdpbf16ps tmm0, tmm3, tmm6",
        "tdpbf16ps tmm1, tmm3, tmm7",
        "tilestored [{to} + {row} + 2048], tmm0",
        "tilestored [{to} + {row} + 2112], tmm1",
        "add {a}, 4096",
        "add {to}, 4096",
        "dec {count}",
        "jnz 2b",
        a = inout(reg) a => _,
        to = inout(reg) to => _,
        count = inout(reg) count => _,
        b = in(reg) b,
        row = in(reg) 128usize,
        line = in(reg) 64usize,
        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
        options(nostack)
    );
}

/// Adds the products of 33 to 48 packed rows with a panel to what is there, six tiles of sums.
#[inline(never)]
unsafe fn sum_to_48_rows(rows: usize, lines: usize, a: *const f32, b: *const f32, to: *mut f32) {
    core::arch::asm!(
        "tileloadd tmm0, [{to} + {row}]",
        "tileloadd tmm1, [{to} + {row} + 64]",
        "tileloadd tmm2, [{to} + {row} + 2048]",
        "tileloadd tmm3, [{to} + {row} + 2112]",
        "tileloadd tmm4, [{to} + {row} + 4096]",
        "tileloadd tmm5, [{to} + {row} + 4160]",
        "2:",
        "tileloadd tmm7, [{b} + {row}]",
        "tileloadd tmm6, [{a} + {line}]",
        "tdpbf16ps tmm0, tmm6, tmm7",
        "tileloadd tmm6, [{a} + {line} + 1024]",
        "tdpbf16ps tmm2, tmm6, tmm7",
        "tileloadd tmm6, [{last} + {line}]",
        "tdpbf16ps tmm4, tmm6, tmm7",
        "tileloadd tmm7, [{b} + {row} + 64]",
        "tdpbf16ps tmm5, tmm6, tmm7",
        "tileloadd tmm6, [{a} + {line} + 1024]",
        "tdpbf16ps tmm3, tmm6, tmm7",
        "tileloadd tmm6, [{a} + {line}]",
        "tdpbf16ps tmm1, tmm6, tmm7",
        "add {a}, 2048",
        "add {b}, 2048",
        "add {last}, {step}",
        "dec {lines}",
        "jnz 2b",
        "tilestored [{to} + {row}], tmm0",
        "tilestored [{to} + {row} + 64], tmm1",
        "tilestored [{to} + {row} + 2048], tmm2",
        "tilestored [{to} + {row} + 2112], tmm3",
        "tilestored [{to} + {row} + 4096], tmm4",
        "tilestored [{to} + {row} + 4160], tmm5",
        a = inout(reg) a => _,
        last = inout(reg) a.add(ROWS * lines * LINE) => _,
        step = in(reg) 4 * LINE * (rows - ROWS),
        b = inout(reg) b => _,
        to = in(reg) to,
        lines = inout(reg) lines => _,
        row = in(reg) 128usize,
        line = in(reg) 64usize,
        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
        options(nostack)
    );
}
