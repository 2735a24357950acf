//! Memory that a pipeline and a run take.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sd_core::WeightBytes;
use sd_models::memory::PeakMemory;

use crate::{Pipeline, Slot, beside, devices};

/// The weights a [`Pipeline`]'s components hold in memory now, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PipelineMemory {
    /// The text encoder's.
    pub text_encoder: WeightBytes,
    /// The denoiser's.
    pub denoiser: WeightBytes,
    /// The autoencoder's.
    pub autoencoder: WeightBytes,
    /// Those of networks beside the denoiser.
    pub controls: WeightBytes,
    /// Those of the LoRAs that act at run time.
    pub loras: WeightBytes,
    /// The safety checker's.
    pub safety_checker: WeightBytes,
    /// Those of all adapters for image prompts, with their encoders.
    pub image_adapters: WeightBytes,
    /// The denoiser's device by its own account, with all else that is on it; `None` where it gives
    /// none, as CPUs do.
    pub device: Option<DevicePool>,
}

/// Memory of a device, as the backend that manages it counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct DevicePool {
    /// Bytes that tensors take, weights among them.
    pub in_use: u64,
    /// Bytes that the backend holds: these, and what it keeps to be used again.
    pub reserved: u64,
}

impl PipelineMemory {
    /// All of them.
    pub fn total(&self) -> u64 {
        let parts = [self.text_encoder, self.denoiser, self.autoencoder];
        let parts = parts
            .iter()
            .chain([&self.controls, &self.loras])
            .chain([&self.safety_checker, &self.image_adapters]);
        parts.map(WeightBytes::total).sum()
    }
}

/// The most memory the process occupied during each phase of a [`Run`](crate::Run), in bytes: what
/// the system says of the whole process, weights and all else included. `None` for a phase that is
/// still to come, and where the system does not tell (Linux, macOS, Windows and FreeBSD do).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PhasePeaks {
    /// Encoding the text.
    pub text: Option<u64>,
    /// Encoding the picture to start from and those of image prompts, where there are some.
    pub encode: Option<u64>,
    /// All steps so far.
    pub denoise: Option<u64>,
    /// Decoding the latents.
    pub decode: Option<u64>,
    /// Checking the pictures, where there is a safety checker.
    pub safety: Option<u64>,
}

impl Pipeline {
    /// The weights the components hold in memory now. A component that is not of this library
    /// counts as far as its [`Slot`](crate::Slot) was told.
    pub fn memory(&self) -> PipelineMemory {
        PipelineMemory {
            text_encoder: self.text_encoder.weights(),
            denoiser: self.denoiser.weights(),
            autoencoder: self.autoencoder.weights(),
            controls: weights_of(
                self.controls
                    .iter()
                    .map(|control| control.network.weights()),
            ),
            loras: beside::weights(&self.beside),
            safety_checker: (self.safety_checker.as_ref())
                .map_or_else(WeightBytes::default, Slot::weights),
            image_adapters: weights_of(self.image_adapters.iter().map(Slot::weights)),
            device: devices::pool(&self.denoiser.spec().device),
        }
    }

    /// The time that loading the weights took so far: all of it when everything is loaded at once,
    /// else what was needed until now.
    pub fn load_time(&self) -> Duration {
        let [text, net, auto] = [
            self.text_encoder.load_time(),
            self.denoiser.load_time(),
            self.autoencoder.load_time(),
        ];
        let controls = self
            .controls
            .iter()
            .map(|control| control.network.load_time());
        let controls: Duration = controls.sum();
        let safety = self.safety_checker.as_ref();
        let images: Duration = self.image_adapters.iter().map(Slot::load_time).sum();
        text + net + auto + controls + safety.map_or(Duration::ZERO, Slot::load_time) + images
    }

    /// Gives back the memory of all components that can be loaded again, which are those a
    /// pipeline was opened with. They are loaded again when they are needed; what a run holds stays
    /// until that run needs it no more. A device whose backend keeps memory to be used again is told
    /// to give back what it can.
    pub fn release(&self) {
        self.text_encoder.release();
        self.denoiser.release();
        self.autoencoder.release();
        for control in &self.controls {
            control.network.release();
        }
        if let Some(checker) = &self.safety_checker {
            checker.release();
        }
        self.image_adapters.iter().for_each(Slot::release);
        let denoiser = &self.denoiser.spec().device;
        devices::clean_up(denoiser);
        let autoencoder = &self.autoencoder.spec().device;
        if autoencoder != denoiser {
            devices::clean_up(autoencoder);
        }
    }
}

/// The sum of what several components hold.
pub(crate) fn weights_of(all: impl Iterator<Item = WeightBytes>) -> WeightBytes {
    all.fold(WeightBytes::default(), |sum, own| sum + own)
}

/// A phase's peak among all.
pub(crate) type Phase = fn(&mut PhasePeaks) -> &mut Option<u64>;
pub(crate) const TEXT: Phase = |peaks| &mut peaks.text;
pub(crate) const ENCODE: Phase = |peaks| &mut peaks.encode;
pub(crate) const DENOISE: Phase = |peaks| &mut peaks.denoise;
pub(crate) const DECODE: Phase = |peaks| &mut peaks.decode;
pub(crate) const SAFETY: Phase = |peaks| &mut peaks.safety;

/// The peaks of a run, as they are measured.
#[derive(Debug, Default)]
pub(crate) struct Phases(Mutex<PhasePeaks>);

impl Phases {
    /// Runs `work`, a piece of `phase`.
    pub(crate) fn watch<T>(&self, phase: Phase, work: impl FnOnce() -> T) -> T {
        let watch = PeakMemory::start();
        let result = work();
        let peak = watch.peak();
        let mut peaks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let highest = phase(&mut peaks);
        *highest = (*highest).max(peak);
        result
    }

    pub(crate) fn peaks(&self) -> PhasePeaks {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
