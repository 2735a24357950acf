//! Work that a run asks of a component, for an estimate of the memory it takes.

use burn::tensor::Device;
use sd_core::WeightBytes;
use sd_models::unet::{UNetFiles, UNetWork};
use sd_models::vae::{Direction, TinyVaeFiles, VaeFiles};
use sd_models::{ClipPairFiles, ClipTextFiles, OutputReplay};

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
    /// Encoding of one picture.
    Encode {
        /// Height and width in pixels.
        size: [usize; 2],
    },
    /// Decoding of one picture.
    Decode {
        /// Height and width in pixels.
        size: [usize; 2],
    },
}

/// Footprint of a component that is not loaded.
pub trait Footprint {
    /// Device that it is loaded to.
    fn device(&self) -> &Device;

    /// Bytes that its weights will take; `None` where its files do not tell.
    fn weight_bytes(&self) -> Option<WeightBytes>;

    /// The most bytes that `work` will take besides, behind what `outputs` saw before; `None` for work
    /// of another component, and for what it cannot do within its limits.
    fn work_bytes(&self, work: Work, outputs: &mut OutputReplay) -> Option<u64>;
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

    fn work_bytes(&self, work: Work, _: &mut OutputReplay) -> Option<u64> {
        match work {
            Work::Text { prompts } => Some(Self::work_bytes(self, prompts)),
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

    fn work_bytes(&self, work: Work, _: &mut OutputReplay) -> Option<u64> {
        match work {
            Work::Text { prompts } => Some(Self::work_bytes(self, prompts)),
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

    fn work_bytes(&self, work: Work, outputs: &mut OutputReplay) -> Option<u64> {
        let Work::Denoise { samples, latent } = work else {
            return None;
        };
        let work = UNetWork {
            samples,
            latent,
            tokens: TOKENS,
        };
        Some(Self::work_bytes(self, work, outputs))
    }
}

impl Footprint for VaeFiles {
    fn device(&self) -> &Device {
        &self.spec().device
    }

    fn weight_bytes(&self) -> Option<WeightBytes> {
        Self::weight_bytes(self).ok()
    }

    fn work_bytes(&self, work: Work, outputs: &mut OutputReplay) -> Option<u64> {
        let (direction, size) = picture(work)?;
        Self::work_bytes(self, direction, size, outputs).ok()
    }
}

impl Footprint for TinyVaeFiles {
    fn device(&self) -> &Device {
        &self.spec().device
    }

    fn weight_bytes(&self) -> Option<WeightBytes> {
        Self::weight_bytes(self).ok()
    }

    fn work_bytes(&self, work: Work, outputs: &mut OutputReplay) -> Option<u64> {
        let (direction, size) = picture(work)?;
        Self::work_bytes(self, direction, size, outputs).ok()
    }
}

/// Work of an autoencoder. Of several pictures each is by itself.
fn picture(work: Work) -> Option<(Direction, [usize; 2])> {
    match work {
        Work::Decode { size } => Some((Direction::Decode, size)),
        Work::Encode { size } => Some((Direction::Encode, size)),
        _ => None,
    }
}
