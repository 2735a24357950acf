//! Memory that a run will take, told before anything of it is taken.

use std::path::Path;

use burn::tensor::Device;
use sd_core::{BranchEvaluation, WeightBytes};
use sd_models::OutputReplay;
use sd_models::memory::{kept_bytes, resident_bytes};

use crate::beside;
use crate::devices;
use crate::memory::weights_of;
use crate::run;
use crate::slot::Component;
use crate::work::Work;
use crate::{
    Control, Error, OpenOptions, PhasePeaks, Pipeline, PipelineMemory, Request, Residency, Result,
    Slot, Start, Upscale,
};

/// Memory that a run will take: what [`Run::memory_peaks`](crate::Run::memory_peaks) will measure on
/// a CPU; on another device, what is taken of that.
///
/// On the flex device in f32 the layers' outputs are replayed by their sizes: what is then measured
/// is within 15 % of it, nearer the more it is. Files that are part of the program are not counted.
/// Elsewhere it is a rough guess, since backends differ in what they copy and keep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Estimate {
    /// Bytes that each component's weights take once they are loaded.
    pub weights: PipelineMemory,
    /// Bytes that are taken besides: by the rest of the process, or on another device by others
    /// than this pipeline.
    pub occupied: u64,
    /// The most bytes in each phase, all of the above that are there then among them.
    pub peaks: PhasePeaks,
    /// Components that are not of this library, which are counted as nothing or by their weights
    /// alone.
    pub unknown: Vec<&'static str>,
}

impl Estimate {
    /// The most bytes in any phase.
    pub fn most(&self) -> u64 {
        let PhasePeaks {
            text,
            encode,
            denoise,
            decode,
            safety,
        } = self.peaks;
        let peaks = [text, encode, denoise, decode, safety];
        peaks.into_iter().flatten().max().unwrap_or(0)
    }

    /// An [`Error::MemoryLimit`] where it is more than `limit`.
    pub(crate) fn check(self, limit: Option<u64>) -> Result<()> {
        match limit.filter(|limit| self.most() > *limit) {
            None => Ok(()),
            Some(limit) => Err(Error::MemoryLimit {
                limit,
                estimate: Box::new(self),
            }),
        }
    }
}

impl std::fmt::Display for Estimate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let peaks = &self.peaks;
        let phases = [
            ("text", peaks.text),
            ("encode", peaks.encode),
            ("denoise", peaks.denoise),
            ("decode", peaks.decode),
            ("safety", peaks.safety),
        ];
        let phases = phases.into_iter().filter_map(|(name, peak)| {
            let peak = peak?;
            Some(format!("{name} {}", Bytes(peak)))
        });
        let phases: Vec<String> = phases.collect();
        let (weights, occupied) = (Bytes(self.weights.total()), Bytes(self.occupied));
        write!(
            f,
            "{} (weights {weights}, besides {occupied})",
            phases.join(", ")
        )
    }
}

/// A number of bytes in words.
pub(crate) struct Bytes(pub(crate) u64);

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            bytes @ 1_000_000_000.. => write!(f, "{:.2} GB", bytes as f64 / 1e9),
            bytes => write!(f, "{:.1} MB", bytes as f64 / 1e6),
        }
    }
}

/// Components, in the order in which a run needs them.
const TEXT: usize = 0;
const DENOISER: usize = 1;
const AUTOENCODER: usize = 2;
const SAFETY: usize = 3;

/// A component, as far as memory is concerned.
struct Part {
    weights: Option<WeightBytes>,
    /// Weights that are there now.
    held: u64,
    /// Bytes of the weights of networks beside it.
    beside: u64,
    /// Of a component that the program gave, the denoiser's.
    device: Device,
    residency: Residency,
    /// True where it need not be loaded any more.
    is_there: bool,
}

impl Part {
    fn of<T: Component + ?Sized>(slot: &Slot<T>, device: &Device) -> Self {
        let held = slot.weights();
        let footprint = slot.footprint();
        Self {
            // What is there is not asked for again: of int8, telling is reading.
            weights: match held == WeightBytes::default() {
                true => footprint.and_then(|files| files.weight_bytes()),
                false => Some(held),
            },
            held: held.total(),
            beside: 0,
            device: footprint.map_or(device, |files| files.device()).clone(),
            residency: slot.residency(),
            is_there: footprint.is_none() || held.total() > 0,
        }
    }

    /// The denoiser with the networks that are beside it whenever it is at work.
    fn with(mut self, controls: &[Control]) -> Self {
        for control in controls {
            let part = Self::of(&control.network, &self.device);
            self.held += part.held;
            self.beside += part.bytes();
        }
        self
    }

    fn bytes(&self) -> u64 {
        self.weights.unwrap_or_default().total() + self.beside
    }
}

impl Pipeline {
    /// The memory that a run of `request` will take. Nothing is loaded, and nothing is computed.
    ///
    /// # Errors
    /// A number in the request that is out of range; those of an autoencoder that cannot keep its
    /// limits.
    pub fn estimate(&self, request: &Request) -> Result<Estimate> {
        self.estimate_as(request, None)
    }

    /// The memory that a run of `request` on the model at `path` will take, opened with `options`,
    /// from the headers of its files, or with [`int8`](OpenOptions::int8) from the numbers of linear
    /// layers too.
    ///
    /// # Errors
    /// Those of [`open`](Self::open) and [`estimate`](Self::estimate).
    pub fn estimate_path(
        path: impl AsRef<Path>,
        options: &OpenOptions,
        request: &Request,
    ) -> Result<Estimate> {
        let unloaded = OpenOptions {
            residency: Residency::PerPhase,
            memory_limit: None,
            ..options.clone()
        };
        Self::open(path, &unloaded)?.estimate_as(request, Some(options.residency))
    }

    /// The parts, with another residency where one is given.
    fn parts(&self, residency: Option<Residency>) -> Vec<Part> {
        let device = &self.denoiser.spec().device;
        let mut parts = vec![
            Part::of(&self.text_encoder, device),
            Part::of(&self.denoiser, device).with(&self.controls),
            Part::of(&self.autoencoder, &self.autoencoder.spec().device),
        ];
        parts.extend((self.safety_checker.as_ref()).map(|slot| Part::of(slot, device)));
        parts.extend((self.image_adapters.iter()).map(|slot| Part::of(slot, device)));
        if let Some(residency) = residency {
            for part in parts.iter_mut().filter(|part| !part.is_there) {
                part.residency = residency;
            }
        }
        parts
    }

    /// Bytes that the weights of the networks beside the denoiser will take.
    fn control_weights(&self) -> WeightBytes {
        let weights = self.controls.iter().map(|control| {
            let footprint = control.network.footprint();
            let files = footprint.and_then(|files| files.weight_bytes());
            files.unwrap_or_else(|| control.network.weights())
        });
        weights_of(weights)
    }

    /// The estimate of what loading all components at once takes.
    pub(crate) fn estimate_weights(&self) -> Estimate {
        let parts = self.parts(Some(Residency::Always));
        let device = &self.denoiser.spec().device;
        let mut estimate = Estimate::of(&parts, device, self.image_adapters.len());
        estimate.peaks.denoise = Some(estimate.occupied + resident(&parts, &[], &[], device));
        estimate
    }

    fn estimate_as(&self, request: &Request, residency: Option<Residency>) -> Result<Estimate> {
        let starts_there = matches!(request.start, Start::Picture(_));
        let encodes = starts_there || request.picture.is_some();
        let Some(hires) = &request.hires else {
            return self.estimate_pass(request, encodes, residency);
        };
        let spec = self.denoiser.spec();
        let factor = self.autoencoder.spec().factor;
        let [_, _, h, w] = request.latent_shape(spec, self.autoencoder.spec())?;
        let [height, width] = hires.size([h, w].map(|side| side * factor), factor)?;
        let second = Request {
            width: Some(width),
            height: Some(height),
            start: Start::Noise,
            ..request.clone()
        };
        let enlarges_pictures = !matches!(hires.upscaler, Upscale::Latent(_));
        let mut estimate = self.estimate_pass(&second, enlarges_pictures, residency)?;
        estimate.cover(&self.estimate_pass(request, encodes, residency)?);
        Ok(estimate)
    }

    /// The estimate of one pass, which `encodes` a picture or not.
    fn estimate_pass(
        &self,
        request: &Request,
        encodes: bool,
        residency: Option<Residency>,
    ) -> Result<Estimate> {
        let spec = self.denoiser.spec();
        let [count, _, h, w] = request.latent_shape(spec, self.autoencoder.spec())?;
        let factor = self.autoencoder.spec().factor;
        let size = [h, w].map(|side| side * factor);
        let parts = self.parts(residency);
        let adapters = self.image_adapters.len();
        let mut estimate = Estimate::of(&parts, &spec.device, adapters);
        estimate.weights.controls = self.control_weights();
        estimate.weights.loras = beside::weights(&self.beside);

        let guidance = request.guidance(self);
        let texts = guidance.texts().len();
        let prompts = run::parts(request)?;
        // What is made of the prompt is there once for each of its parts.
        let further = prompts.saturating_sub(1);
        let branches = (0..request.steps.min(1000)).map(|step| {
            let one = guidance.evaluations(step, request.steps);
            one + further * (one + 1).saturating_sub(texts)
        });
        let together = match request.evaluation {
            BranchEvaluation::Together => branches.max().unwrap_or(texts),
            BranchEvaluation::InTurn => 1,
        };
        let at_once = match self.scheduler.steps_each_image() {
            true => 1,
            false => count,
        };
        // A run does one after the other, and what is kept of the memory of one serves the next.
        let mut outputs = OutputReplay::new(true);
        let encode_text = Work::Text {
            prompts: texts + further,
        };
        let text = self.text_encoder.work_bytes(encode_text, &mut outputs);
        let encode = encodes.then(|| {
            let encode = Work::Encode { size };
            self.autoencoder.work_bytes(encode, &mut outputs)
        });
        let window = request.tiles.map_or([h, w], |tiles| tiles.window);
        let denoise = Work::Denoise {
            samples: (together * at_once).max(1),
            latent: [h.min(window[0]), w.min(window[1])],
        };
        let beside = self.controls.iter();
        let beside = beside.filter_map(|c| c.network.work_bytes(denoise, &mut outputs));
        let beside: u64 = beside.sum();
        let denoise = self.denoiser.work_bytes(denoise, &mut outputs);
        let denoise = denoise.map(|bytes| bytes + beside);
        let decode = self
            .autoencoder
            .work_bytes(Work::Decode { size }, &mut outputs);

        // Bytes of the phase that needs the parts `needed`, behind those that needed `before`.
        let phase = |needed: &[usize], before: &[usize], work: Option<u64>| {
            let device = &parts[needed[0]].device;
            let own = resident(&parts, needed, before, device);
            Some(occupied(&parts, device) + own + work.unwrap_or(0) + code(device))
        };
        let peaks = &mut estimate.peaks;
        peaks.text = phase(&[TEXT], &[], text);
        if let Some(encode) = encode {
            peaks.encode = phase(&[AUTOENCODER, DENOISER], &[TEXT], encode);
        }
        let first_adapter = parts.len() - adapters;
        let mut before: Vec<usize> = vec![TEXT];
        for prompt in &request.image_prompts {
            // Their work is little beside the encoder's weights.
            let adapter = first_adapter + prompt.adapter.min(adapters.saturating_sub(1));
            if adapter < parts.len() {
                peaks.encode = peaks.encode.max(phase(&[adapter], &before, None));
                before.push(adapter);
            }
        }
        peaks.denoise = phase(&[DENOISER], &before, denoise);
        // The finished pictures, one after the other.
        let pictures = (count * size[0] * size[1] * 3) as u64;
        let decode = Some(decode.unwrap_or(0) + pictures);
        before.push(DENOISER);
        peaks.decode = phase(&[AUTOENCODER], &before, decode);
        if self.safety_checker.is_some() {
            before.push(AUTOENCODER);
            peaks.safety = phase(&[SAFETY], &before, Some(pictures));
        }
        Ok(estimate)
    }
}

impl Estimate {
    /// Takes the peaks of `other` where they are higher.
    fn cover(&mut self, other: &Self) {
        let (own, other) = (&mut self.peaks, &other.peaks);
        for (own, other) in [
            (&mut own.text, other.text),
            (&mut own.encode, other.encode),
            (&mut own.denoise, other.denoise),
            (&mut own.decode, other.decode),
            (&mut own.safety, other.safety),
        ] {
            *own = (*own).max(other);
        }
    }

    /// The estimate of `parts`, the last `adapters` of which are for image prompts.
    fn of(parts: &[Part], device: &Device, adapters: usize) -> Self {
        let (own, images) = parts.split_at(parts.len() - adapters);
        let weights = |part: usize| own.get(part).and_then(|part| part.weights);
        let names = ["text_encoder", "denoiser", "autoencoder", "safety_checker"];
        let unknown = own.iter().zip(names);
        let unknown = unknown.chain(images.iter().map(|part| (part, "image_adapters")));
        let unknown = unknown.filter(|(part, _)| part.weights.is_none());
        Self {
            weights: PipelineMemory {
                text_encoder: weights(TEXT).unwrap_or_default(),
                denoiser: weights(DENOISER).unwrap_or_default(),
                autoencoder: weights(AUTOENCODER).unwrap_or_default(),
                controls: WeightBytes::default(),
                loras: WeightBytes::default(),
                safety_checker: weights(SAFETY).unwrap_or_default(),
                image_adapters: weights_of(images.iter().filter_map(|part| part.weights)),
                device: None,
            },
            occupied: occupied(parts, device),
            peaks: PhasePeaks::default(),
            unknown: unknown.map(|(_, name)| name).collect(),
        }
    }
}

/// Bytes of the parts that are on `device` while those of `needed` are at work, behind those of
/// `before`.
fn resident(parts: &[Part], needed: &[usize], before: &[usize], device: &Device) -> u64 {
    let is_there = |index: usize, part: &Part| match part.residency {
        Residency::Always => true,
        Residency::OnDemand => part.is_there || needed.contains(&index) || before.contains(&index),
        Residency::PerPhase => needed.contains(&index),
    };
    let parts = parts.iter().enumerate();
    let parts = parts.filter(|(index, part)| part.device == *device && is_there(*index, part));
    parts.map(|(_, part)| part.bytes()).sum()
}

/// Bytes taken of `device`, those of `parts` not counted.
fn occupied(parts: &[Part], device: &Device) -> u64 {
    let own = parts.iter().filter(|part| part.device == *device);
    let own: u64 = own.map(|part| part.held).sum();
    let all = match devices::pool(device) {
        Some(pool) => pool.in_use,
        // What is kept of earlier runs is used again.
        None => resident_bytes().unwrap_or(0).saturating_sub(kept_bytes()),
    };
    all.saturating_sub(own)
}

/// Bytes of the program itself that a first run brings into memory: its instructions, and stacks of
/// its threads. As measured.
fn code(device: &Device) -> u64 {
    match devices::pool(device) {
        Some(_) => 0,
        None => 3 << 20,
    }
}
