//! Pictures that steer what is drawn, through networks beside the denoiser: ControlNet, T2I-Adapter.

mod files;
mod guidance;
mod picture;

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use sd_core::{Conditioning, DenoiserSpec, Error, Guidance};
use sd_models::lora::AdapterReport;
use sd_models::unet::{ControlNetwork, ControlSpec, PreparedAdapter, Steering, UNetAdapter};

use crate::adapters::family;
use crate::slot::Component;
use crate::synchronized::synchronized;
use crate::{OpenOptions, Pipeline, Request, Result, Slot};

pub use picture::ControlPicture;

use guidance::{Controlled, Entry};

impl Component for dyn ControlNetwork {
    type Spec = ControlSpec;

    fn facts(&self) -> &ControlSpec {
        self.spec()
    }
}

/// A network that has a picture steer the denoiser: a ControlNet, a Control-LoRA or a T2I-Adapter.
///
/// It is a part of a [`Pipeline`], swapped as a scheduler is; the picture and how strongly it steers
/// are the request's. Clones share the weights.
///
/// ```no_run
/// use sd_pipeline::{Control, ControlPicture, OpenOptions, Pipeline, Request, RgbImage};
/// # fn draw(options: &OpenOptions, edges: RgbImage) -> sd_pipeline::Result<()> {
///
/// let pipeline = Pipeline::open("stable-diffusion-v1-5", options)?;
/// let canny = Control::open("control_v11p_sd15_canny", options)?;
/// let steered = pipeline.with_controls(&[canny])?;
/// let request = Request {
///     controls: vec![ControlPicture::new(edges).scale(0.8)],
///     ..Request::for_pipeline(&steered, "a lighthouse in a storm")
/// };
/// steered.generate(&request)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Control {
    /// The network.
    pub network: Slot<dyn ControlNetwork>,
    /// Name in messages; of one that was opened its folder's or its file's.
    pub name: String,
}

impl Control {
    /// The network at `path`: a folder with `config.json` and weights, as diffusers saves a
    /// `ControlNetModel`, `ControlNetUnionModel` or `T2IAdapter`, or a single file in the original
    /// code's names or diffusers', of which
    /// [`OpenOptions::config`] may be the folder of the model that it was made for. It computes where and as the denoiser of a model opened with
    /// `options` does. No weights are read yet.
    ///
    /// # Errors
    /// Those of the files; [`sd_models::Error::Unsupported`] for what steers in another way
    /// (ControlNet-LLLite, ControlNet-XS), and for a Control-LoRA, which
    /// [`open_beside`](Self::open_beside) opens.
    pub fn open(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Self> {
        files::open(path.as_ref(), None, options)
    }

    /// The network at `path` as [`open`](Self::open) has it, or a Control-LoRA: a file that has the
    /// network's differences to the U-Net which it steers, `pipeline`'s as it is now. A LoRA that is
    /// [merged](Pipeline::with_loras) into that U-Net is in the network, too.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`sd_models::Error::Adapter`] for a Control-LoRA of another model;
    /// [`sd_models::Error::Unsupported`] for one beside a denoiser that is no U-Net of files.
    pub fn open_beside(
        path: impl AsRef<Path>,
        pipeline: &Pipeline,
        options: &OpenOptions,
    ) -> Result<Self> {
        let denoiser = pipeline.denoiser.source();
        let unet = denoiser.and_then(|source| source.unet());
        files::open(path.as_ref(), unet, options)
    }

    /// Report on it as on other adapters: all its modules, for one that does not fit is refused.
    pub fn report(&self) -> AdapterReport {
        let spec = self.network.spec();
        let family = match (spec.context_width, spec.embeds_size) {
            (Some(width), _) => family(width),
            (None, Some(true)) => Some("sdxl"),
            (None, _) => Some("sd1"),
        };
        AdapterReport {
            kind: spec.kind,
            family: family.map(Into::into),
            matched: spec.modules,
            unmatched: Vec::new(),
            misshapen: Vec::new(),
        }
    }

    /// A check that it steers denoisers such as the one of `spec`.
    fn check(&self, spec: &DenoiserSpec) -> sd_core::Result<()> {
        let own = self.network.spec();
        let misfit = |expected: String| {
            let found = format!("{} ({})", self.name, own.kind);
            Err(Error::invalid("control", found, expected))
        };
        if let Some(width) = own
            .context_width
            .filter(|width| *width != spec.context_width)
        {
            return misfit(format!(
                "expected one for this model, whose prompts are {} wide{}; it is for prompts of {width}{}",
                spec.context_width,
                in_brackets(spec.context_width),
                in_brackets(width),
            ));
        }
        if let Some(embeds) = own.embeds_size.filter(|embeds| *embeds != spec.embeds_size) {
            let [its, models] = [embeds, spec.embeds_size].map(|embeds| match embeds {
                true => "that are told sizes and crops, such as SDXL",
                false => "that are told none",
            });
            return misfit(format!(
                "expected one for models {models}; it is for models {its}"
            ));
        }
        let channels = own.latent_channels;
        if let Some(channels) = channels.filter(|channels| *channels != spec.latent_channels) {
            let expected = spec.latent_channels;
            return misfit(format!(
                "expected one for latents of {expected} channels, not {channels}"
            ));
        }
        if own.device != spec.device || own.dtype != spec.dtype {
            return misfit("expected one on the denoiser's device and in its precision".into());
        }
        Ok(())
    }
}

fn in_brackets(width: usize) -> String {
    family(width).map_or_else(String::new, |family| format!(" ({family})"))
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Control").field(&self.name).finish()
    }
}

impl Pipeline {
    /// The same pipeline with `controls` in place of those it has; each wants a picture in
    /// [`Request::controls`], in this order. This one stays as it is and shares all else.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](sd_core::Error::InvalidArgument) for one of another family; those of
    /// loading.
    pub fn with_controls(&self, controls: &[Control]) -> Result<Self> {
        let spec = self.denoiser.spec();
        controls
            .iter()
            .try_for_each(|control| control.check(spec))?;
        synchronized(&[&spec.device], "loading a control network", || {
            controls
                .iter()
                .try_for_each(|control| control.network.load())
        })?;
        Ok(Self {
            controls: controls.to_vec(),
            ..self.clone()
        })
    }
}

/// A check that `request` has a picture for each network of `pipeline`, and that all numbers are in
/// range.
pub(crate) fn check(pipeline: &Pipeline, request: &Request) -> Result<()> {
    let (networks, pictures) = (pipeline.controls.len(), request.controls.len());
    if networks != pictures {
        let expected = match networks {
            0 => "expected none: the pipeline has no network for them (Pipeline::with_controls)"
                .into(),
            networks => {
                format!("expected {networks}, a picture for each of the pipeline's networks")
            }
        };
        let found = format!("{pictures} pictures");
        return Err(Error::invalid("controls", found, expected).into());
    }
    for (control, picture) in pipeline.controls.iter().zip(&request.controls) {
        control.check(pipeline.denoiser.spec())?;
        picture.check()?;
    }
    if request.guess_mode && pictures == 0 {
        let expected = "expected false: there is no control picture to go by";
        return Err(Error::invalid("guess_mode", true, expected).into());
    }
    Ok(())
}

/// `guidance` with the pipeline's networks beside those of its branches that they steer, for pictures
/// of `size` pixels, height and width, drawn in `steps` steps.
pub(crate) fn steered(
    pipeline: &Pipeline,
    request: &Request,
    guidance: Arc<dyn Guidance>,
    size: [usize; 2],
    steps: usize,
) -> Result<Arc<dyn Guidance>> {
    if request.controls.is_empty() {
        return Ok(guidance);
    }
    let pairs = pipeline.controls.iter().zip(&request.controls);
    let entries = pairs.map(|(control, picture)| {
        let spec = control.network.spec();
        let mut steering = Steering::new(picture.tensor(spec, &request.start, size)?);
        steering.kind = picture.kind;
        steering.scale = picture.scale;
        steering.guess = request.guess_mode;
        Ok(Entry {
            adapter: Arc::new(Beside {
                network: control.network.clone(),
                steering,
            }),
            steps: picture.steps(steps),
            on_prompt: request.guess_mode || spec.is_global,
        })
    });
    let entries = entries.collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(Controlled::new(guidance, entries, steps)))
}

/// A network beside the U-Net, loaded when a run begins.
#[derive(Debug)]
struct Beside {
    network: Slot<dyn ControlNetwork>,
    steering: Steering,
}

impl UNetAdapter for Beside {
    fn prepare(
        &self,
        branches: &[&Conditioning],
        spec: &DenoiserSpec,
    ) -> sd_core::Result<Box<dyn PreparedAdapter>> {
        let network = self.network.get().map_err(|error| match error {
            crate::Error::Component(error) => error,
            error => Error::Other(Box::new(error)),
        })?;
        network.prepare(&self.steering, branches, spec)
    }
}

/// The steps, of `all`, that lie whole between two shares of a run: diffusers' `controlnet_keep`.
fn steps_between(range: &Range<f64>, all: usize) -> Range<usize> {
    let count = all as f64;
    let is_kept = |step: &usize| {
        let [begin, end] = [*step, *step + 1].map(|step| step as f64 / count);
        begin >= range.start && end <= range.end
    };
    let first = (0..all).find(is_kept).unwrap_or(all);
    let kept = (first..all).take_while(is_kept).count();
    first..first + kept
}
