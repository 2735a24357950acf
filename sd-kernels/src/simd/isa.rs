use std::sync::OnceLock;

use super::Vector;
use super::portable::F32x4;

/// The instruction set a kernel runs on. A value exists only for a set that this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Isa(Set);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Set {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

/// Body of [`Isa::run`]: implementors put `#[inline(always)]` on [`Kernel::run`].
pub(crate) trait Kernel {
    /// # Safety
    /// Called under the instruction set of `V`.
    unsafe fn run<V: Vector>(self);
}

impl Isa {
    /// The fastest set of this processor, or that of its sets which the environment variable
    /// `SD_KERNELS_ISA` names when this is first called.
    pub fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| {
            let (all, wanted) = (Self::all(), std::env::var("SD_KERNELS_ISA"));
            let named = all.iter().find(|isa| wanted.as_deref() == Ok(isa.name()));
            *named.unwrap_or(&all[0])
        })
    }

    /// Every set of this processor, the fastest first; the last is [`Isa::portable`].
    pub fn all() -> Vec<Self> {
        let mut sets = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let has_avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            // Its kernels use these, too, and a virtual machine may hide some.
            let has_avx512 = has_avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl");
            if has_avx512 {
                sets.push(Self(Set::Avx512));
            }
            if has_avx2 {
                sets.push(Self(Set::Avx2));
            }
        }
        // A part of every processor of this architecture.
        #[cfg(target_arch = "aarch64")]
        sets.push(Self(Set::Neon));
        sets.push(Self::portable());
        sets
    }

    /// Plain Rust, on any processor.
    pub const fn portable() -> Self {
        Self(Set::Portable)
    }

    /// `"avx512"`, `"avx2"`, `"neon"` or `"portable"`.
    pub const fn name(self) -> &'static str {
        match self.0 {
            Set::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Set::Neon => "neon",
        }
    }

    /// Number of f32 in a register.
    pub const fn lanes(self) -> usize {
        match self.0 {
            Set::Portable => 4,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => 8,
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => 16,
            #[cfg(target_arch = "aarch64")]
            Set::Neon => 8,
        }
    }

    /// Rows of a matrix tile.
    pub(crate) fn rows(self) -> usize {
        match self.0 {
            Set::Portable => F32x4::ROWS,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => super::avx2::F32x8::ROWS,
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => super::avx512::F32x16::ROWS,
            #[cfg(target_arch = "aarch64")]
            Set::Neon => super::neon::F32x8::ROWS,
        }
    }

    #[inline]
    pub(crate) fn run(self, kernel: impl Kernel) {
        match self.0 {
            // SAFETY: plain Rust runs everywhere.
            Set::Portable => unsafe { kernel.run::<F32x4>() },
            // SAFETY: the private `Set` is constructed after detection only.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => unsafe { run_avx2(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => unsafe { run_avx512(kernel) },
            // SAFETY: NEON is a part of the architecture.
            #[cfg(target_arch = "aarch64")]
            Set::Neon => unsafe { kernel.run::<super::neon::F32x8>() },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_avx2(kernel: impl Kernel) {
    kernel.run::<super::avx2::F32x8>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx2,fma,f16c")]
unsafe fn run_avx512(kernel: impl Kernel) {
    kernel.run::<super::avx512::F32x16>();
}
