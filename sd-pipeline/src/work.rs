//! Work that a run asks of a component, for an estimate of the memory it takes.

use burn::tensor::Device;
use sd_core::WeightBytes;
use sd_models::unet::{UNetFiles, UNetWork};
use sd_models::vae::{DecodePlan, Direction, TinyVaeFiles, VaeFiles};
use sd_models::{ClipPairFiles, ClipTextFiles};

/// Work that a run asks of one component at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Work {
    /// Encoding so many texts.
    Text {
        /// Their number.
        prompts: usize,
    },
    /// One evaluation of the denoiser.
    Denoise {
        /// Samples at once: pictures times branches.
        samples: usize,
        /// Height and width of the latent.
        latent: [usize; 2],
    },
    /// Encoding of the same picture so many times.
    Encode {
        /// Their number.
        pictures: usize,
        /// Height and width in pixels.
        size: [usize; 2],
    },
    /// Decoding of one picture.
    Decode {
        /// Height and width in pixels.
        size: [usize; 2],
    },
}

/// Bytes that [`Work`] takes of a device besides the component's weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkBytes {
    /// The most at once.
    pub most: u64,
    /// What stays taken when it is done, to be used again by whatever comes next.
    pub kept: u64,
}

impl WorkBytes {
    /// Work that keeps nothing.
    pub fn most(most: u64) -> Self {
        Self { most, kept: 0 }
    }
}

/// Footprint of a component that is not loaded.
pub trait Footprint {
    /// Device that it is loaded to.
    fn device(&self) -> &Device;

    /// Bytes that its weights will take; `None` where its files do not tell.
    fn weight_bytes(&self) -> Option<WeightBytes>;

    /// Bytes that `work` will take besides; `None` for work of another component, and for what it
    /// cannot do within its limits.
    fn work_bytes(&self, work: Work) -> Option<WorkBytes>;
}

/// Tokens of CLIP's prompts.
const TOKENS: usize = 77;

impl Footprint for ClipTextFiles {
    fn device(&self) -> &Device {
        Self::device(self)
    }

    fn weight_bytes(&self) -> Option<WeightBytes> {
        Self::weight_bytes(self).ok()
    }

    fn work_bytes(&self, work: Work) -> Option<WorkBytes> {
        match work {
            Work::Text { prompts } => Some(WorkBytes::most(Self::work_bytes(self, prompts))),
            _ => None,
        }
    }
}

impl Footprint for ClipPairFiles {
    fn device(&self) -> &Device {
        Self::device(self)
    }

    fn weight_bytes(&self) -> Option<WeightBytes> {
        Self::weight_bytes(self).ok()
    }

    fn work_bytes(&self, work: Work) -> Option<WorkBytes> {
        match work {
            Work::Text { prompts } => Some(WorkBytes::most(Self::work_bytes(self, prompts))),
            _ => None,
        }
    }
}

impl Footprint for UNetFiles {
    fn device(&self) -> &Device {
        &self.spec().device
    }

    fn weight_bytes(&self) -> Option<WeightBytes> {
        Self::weight_bytes(self).ok()
    }

    fn work_bytes(&self, work: Work) -> Option<WorkBytes> {
        let Work::Denoise { samples, latent } = work else {
            return None;
        };
        let [most, kept] = Self::work_bytes(
            self,
            UNetWork {
                samples,
                latent,
                tokens: TOKENS,
            },
        );
        Some(WorkBytes { most, kept })
    }
}

impl Footprint for VaeFiles {
    fn device(&self) -> &Device {
        &self.spec().device
    }

    fn weight_bytes(&self) -> Option<WeightBytes> {
        Self::weight_bytes(self).ok()
    }

    fn work_bytes(&self, work: Work) -> Option<WorkBytes> {
        pictures(work, |direction, size| self.plan(direction, size).ok())
    }
}

impl Footprint for TinyVaeFiles {
    fn device(&self) -> &Device {
        &self.spec().device
    }

    fn weight_bytes(&self) -> Option<WeightBytes> {
        Self::weight_bytes(self).ok()
    }

    fn work_bytes(&self, work: Work) -> Option<WorkBytes> {
        pictures(work, |direction, size| self.plan(direction, size).ok())
    }
}

/// Work of an autoencoder that plans it.
fn pictures(
    work: Work,
    plan: impl Fn(Direction, [usize; 2]) -> Option<DecodePlan>,
) -> Option<WorkBytes> {
    let (plan, at_once) = match work {
        Work::Decode { size } => (plan(Direction::Decode, size)?, 1),
        Work::Encode { pictures, size } => (plan(Direction::Encode, size)?, pictures as u64),
        _ => return None,
    };
    // In strips each picture is by itself.
    let at_once = if plan.strips.is_some() { 1 } else { at_once };
    Some(WorkBytes::most(plan.peak_bytes.saturating_mul(at_once)))
}
