use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{
    AutoencoderSpec, BranchEvaluation, ClassifierFree, DenoiserSpec, Embedded, Error, Extensions,
    Guidance, Layer, Prompt, SizeConditioning, TextAndPicture, Tiles, Unguided,
};

use crate::{
    ControlPicture, Handover, HiRes, ImagePrompt, Marking, PictureStart, PictureToChange, Pipeline,
    Region,
};

/// Order for one run: what to draw, and how.
///
/// ```
/// use sd_pipeline::Request;
///
/// let request = Request {
///     negative_prompt: Some("blurry".into()),
///     seed: 7,
///     ..Request::new("a red cube on top of a blue sphere")
/// };
/// ```
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
pub struct Request {
    /// Text that says what the picture should show.
    pub prompt: Prompt,
    /// Text that says what it should not show: that of the unconditional branch. Without one the
    /// text encoder puts in what it has for that, which for some models is not an empty prompt.
    pub negative_prompt: Option<Prompt>,
    /// Parts of the picture with prompts of their own; elsewhere the [`prompt`](Self::prompt) holds.
    pub regions: Vec<Region>,
    /// Guidance scale (Ho & Salimans 2022, arXiv:2207.12598): distance to go beyond the
    /// unconditional prediction. At 1 or below guidance is off, and only the prompt is evaluated.
    /// A network that embeds the scale (LCM) gets it whatever it is.
    pub guidance_scale: f64,
    /// Guidance scale of the [`picture`](Self::picture), for a network that takes one: how near to
    /// it the result stays. Below 1 all guidance is off, as in diffusers. `None`: what the model's
    /// kind has, 1.5.
    pub image_guidance_scale: Option<f64>,
    /// Guidance of another kind, in which [`guidance_scale`](Self::guidance_scale) has no say.
    #[cfg_attr(feature = "serde", serde(with = "crate::serde_values::absent"))]
    pub guidance: Option<Arc<dyn Guidance>>,
    /// Steps of the scheduler.
    pub steps: usize,
    /// Picture width in pixels, a multiple of the autoencoder's factor (8). `None`: that of the
    /// latents to start from, that of the picture to start from down to such a multiple, else what
    /// the model was trained at.
    pub width: Option<usize>,
    /// Picture height, likewise.
    pub height: Option<usize>,
    /// Seed of the first image; image `k` uses `seed + k`.
    pub seed: u64,
    /// Number of images to draw at once. Memory grows with it.
    pub count: usize,
    /// Latent to start from.
    pub start: Start,
    /// Sizes and crops, for a model that is told of them (SDXL). `None`: those of an uncropped
    /// picture of the size that is drawn.
    pub size: Option<SizeConditioning>,
    /// Sizes and crops of the unconditional branch. `None`: those of the prompt's; of a refiner with
    /// a lower aesthetic score and no crop, as in diffusers.
    pub negative_size: Option<SizeConditioning>,
    /// Second pass at a larger size; none without one. Width and height are then the first's.
    pub hires: Option<HiRes>,
    /// Share of the noise schedule at which another model goes on, between 0 and 1 (diffusers'
    /// `denoising_end`). `None`: the run goes to the end. [`Run::hand_over`](crate::Run::hand_over)
    /// gives what it leaves.
    pub end: Option<f64>,
    /// Picture to change, for a network that takes its latent beside the one it denoises
    /// (InstructPix2Pix, Brooks et al. 2023, arXiv:2211.09800). The prompt says what to change. No
    /// noise is drawn for it, and the run begins as [`start`](Self::start) says.
    pub picture: Option<PictureToChange>,
    /// Pictures that say with the prompt what to draw, for a pipeline with an adapter for them
    /// ([`Pipeline::with_image_prompt`]).
    pub image_prompts: Vec<ImagePrompt>,
    /// Pictures that steer what is drawn: one for each of the pipeline's
    /// [`controls`](crate::Pipeline::controls), in their order.
    pub controls: Vec<ControlPicture>,
    /// Steering without a prompt's help ("guess mode", Zhang et al. 2023): of ControlNets alone the prompt's
    /// branch is steered, at the finest resolution a tenth as much as at the coarsest. Guidance of 3 to
    /// 5 goes with it.
    pub guess_mode: bool,
    /// Windows through which the network sees a large latent (MultiDiffusion); it sees all at once
    /// without.
    pub tiles: Option<Tiles>,
    /// Channels beside the latent, `[1 or count, c, height/8, width/8]`, for a network that takes
    /// some (inpainting).
    #[cfg_attr(
        feature = "serde",
        serde(with = "crate::serde_values::optional_tensor")
    )]
    pub concat: Option<Tensor<4>>,
    /// Further conditioning of every branch, for components that read it.
    #[cfg_attr(feature = "serde", serde(with = "crate::serde_values::absent"))]
    pub extensions: Extensions,
    /// Layers around the model, the innermost first.
    #[cfg_attr(feature = "serde", serde(with = "crate::serde_values::absent"))]
    pub layers: Vec<Arc<dyn Layer>>,
    /// Order in which guidance's branches are evaluated: together, or in turn where memory is
    /// short.
    pub evaluation: BranchEvaluation,
    /// Invisible watermark of all pictures; none without one.
    pub watermark: Option<Marking>,
}

/// Latent that a run starts from.
#[derive(Debug, Clone, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Start {
    /// Noise of the seed.
    #[default]
    Noise,
    /// This noise, `[count, c, height/8, width/8]`, of unit variance.
    Initial(#[cfg_attr(feature = "serde", serde(with = "crate::serde_values::tensor"))] Tensor<4>),
    /// What another model left, as it is: no noise is added, and the run takes the rest of the noise
    /// schedule (diffusers' `denoising_start`).
    Handover(Box<Handover>),
    /// Clean latents with noise on them, as those of a picture.
    Latents {
        /// The latents `[count, c, height/8, width/8]`, of about unit variance.
        #[cfg_attr(feature = "serde", serde(with = "crate::serde_values::tensor"))]
        latents: Tensor<4>,
        /// Share of the run that is taken, as of a picture.
        strength: f64,
        /// Draws of noise that went into them: the seeds' noise goes on behind these. Of a sample
        /// of an autoencoder's posterior 1, else 0.
        draws: u64,
    },
    /// A picture with noise on it.
    Picture(PictureStart),
}

/// No side of a picture may be longer, in pixels.
const MAX_SIDE: usize = 16_384;
/// No run may have more pixels in all its pictures together.
const MAX_PIXELS: usize = 1 << 28;

impl Default for Request {
    /// An empty prompt with the settings of [`new`](Self::new).
    fn default() -> Self {
        Self::new("")
    }
}

impl Start {
    /// Width and height of the finished pictures where they are not those that are drawn.
    pub(crate) fn result_size(&self) -> Option<[u32; 2]> {
        match self {
            Self::Picture(start) => start.result_size(),
            _ => None,
        }
    }
}

impl Request {
    /// One image of `prompt` with the defaults of diffusers' `StableDiffusionPipeline`: 50 steps,
    /// guidance 7.5, seed 0, the size the model was trained at. Other kinds of models have others:
    /// [`for_pipeline`](Self::for_pipeline).
    pub fn new(prompt: impl Into<Prompt>) -> Self {
        Self {
            prompt: prompt.into(),
            negative_prompt: None,
            regions: Vec::new(),
            guidance_scale: 7.5,
            image_guidance_scale: None,
            guidance: None,
            steps: 50,
            width: None,
            height: None,
            seed: 0,
            count: 1,
            start: Start::Noise,
            size: None,
            negative_size: None,
            hires: None,
            end: None,
            picture: None,
            image_prompts: Vec::new(),
            controls: Vec::new(),
            guess_mode: false,
            tiles: None,
            concat: None,
            extensions: Extensions::new(),
            layers: Vec::new(),
            evaluation: BranchEvaluation::Together,
            watermark: None,
        }
    }

    /// One image of `prompt` with the [defaults](Pipeline::defaults) of `pipeline`'s kind, which are
    /// diffusers': seed 0, the size the model was trained at.
    pub fn for_pipeline(pipeline: &Pipeline, prompt: impl Into<Prompt>) -> Self {
        let defaults = pipeline.defaults();
        Self {
            steps: defaults.steps,
            guidance_scale: defaults.guidance_scale,
            ..Self::new(prompt)
        }
    }

    /// This request to a base model as one to a refiner, which goes on with what the base left. The
    /// refiner has one text encoder, and gets the prompt without the second encoder's text, as in
    /// diffusers, and neither image prompts nor control pictures, whose networks are the base model's.
    pub fn refining(&self, handover: Handover) -> Self {
        let alone = |prompt: &Prompt| {
            let mut prompt = prompt.clone();
            prompt.second = None;
            prompt
        };
        Self {
            prompt: alone(&self.prompt),
            negative_prompt: self.negative_prompt.as_ref().map(alone),
            regions: (self.regions.iter())
                .map(|region| Region {
                    prompt: alone(&region.prompt),
                    ..region.clone()
                })
                .collect(),
            start: Start::Handover(Box::new(handover)),
            end: None,
            image_prompts: Vec::new(),
            // A refiner has no networks of its base's.
            controls: Vec::new(),
            guess_mode: false,
            ..self.clone()
        }
    }

    /// The request for its image `k` alone.
    pub(crate) fn image(&self, k: usize) -> Self {
        let row = |tensor: &Tensor<4>| match tensor.dims()[0] == self.count {
            true => tensor.clone().narrow(0, k, 1),
            false => tensor.clone(),
        };
        let start = match &self.start {
            Start::Initial(latents) => Start::Initial(row(latents)),
            Start::Latents {
                latents,
                strength,
                draws,
            } => Start::Latents {
                latents: row(latents),
                strength: *strength,
                draws: *draws,
            },
            start => start.clone(),
        };
        Self {
            seed: self.seed.wrapping_add(k as u64),
            count: 1,
            start,
            concat: self.concat.as_ref().map(row),
            ..self.clone()
        }
    }

    /// The guidance it asks for on `pipeline`.
    pub(crate) fn guidance(&self, pipeline: &Pipeline) -> Arc<dyn Guidance> {
        let denoiser = pipeline.denoiser.spec();
        let scale = self.guidance_scale;
        let picture_scale = self.image_guidance_scale;
        let picture_scale = picture_scale.unwrap_or(pipeline.defaults().image_guidance_scale);
        match &self.guidance {
            Some(guidance) => guidance.clone(),
            None if denoiser.embeds_guidance => Arc::new(Embedded { scale }),
            None if denoiser.takes_picture() && scale > 1.0 && picture_scale >= 1.0 => {
                Arc::new(TextAndPicture {
                    scale,
                    picture_scale,
                })
            }
            None if denoiser.takes_picture() => Arc::new(Unguided),
            None if scale > 1.0 => Arc::new(ClassifierFree { scale }),
            None => Arc::new(Unguided),
        }
    }

    /// The shape `[count, c, h, w]` of this request's latents, after checking every number in it.
    pub(crate) fn latent_shape(
        &self,
        denoiser: &DenoiserSpec,
        autoencoder: &AutoencoderSpec,
    ) -> sd_core::Result<[usize; 4]> {
        if !self.guidance_scale.is_finite() {
            let expected = "expected a finite number, usually 1 to 15";
            let value = self.guidance_scale;
            return Err(Error::invalid("guidance_scale", value, expected));
        }
        if let Some(scale) = self.image_guidance_scale {
            if !denoiser.takes_picture() {
                let expected = "expected none: this network takes no picture beside the latent";
                return Err(Error::invalid("image_guidance_scale", scale, expected));
            }
            if !scale.is_finite() {
                let expected = "expected a finite number, usually 1 to 2";
                return Err(Error::invalid("image_guidance_scale", scale, expected));
            }
        }
        if self.picture.is_some() {
            if !denoiser.takes_picture() {
                let expected = "expected none: this network takes no picture beside the latent";
                return Err(Error::invalid("picture", "given", expected));
            }
            if self.concat.is_some() {
                let expected = "expected one of the two, for the picture goes into these channels";
                return Err(Error::invalid("concat", "given beside a picture", expected));
            }
        }
        if self.count == 0 {
            return Err(Error::invalid("count", 0, "expected at least 1 image"));
        }
        let factor = autoencoder.factor;
        let asked = [self.height, self.width];
        let pixels = |latents: &Tensor<4>| {
            let [_, _, h, w] = latents.dims();
            [h * factor, w * factor]
        };
        let [h, w] = match (&self.start, &self.picture) {
            (Start::Picture(start), _) => start.size(asked, factor)?,
            (Start::Handover(handover), _) => pixels(&handover.latents),
            (Start::Latents { latents, .. }, _) => pixels(latents),
            (_, Some(picture)) => picture.size(asked, factor)?,
            (_, None) => denoiser.sample_size.map(|side| side * factor),
        };
        let height = side("height", self.height.unwrap_or(h), factor)?;
        let width = side("width", self.width.unwrap_or(w), factor)?;
        if self.count.saturating_mul(width * height) > MAX_PIXELS {
            let expected = format!(
                "at {width}x{height} pixels at most {} at once",
                MAX_PIXELS / (width * height)
            );
            return Err(Error::invalid("count", self.count, expected));
        }
        let channels = denoiser.latent_channels;
        let shape = [self.count, channels, height / factor, width / factor];
        let latents = match &self.start {
            Start::Initial(latents) | Start::Latents { latents, .. } => Some(latents),
            Start::Handover(handover) => Some(&handover.latents),
            _ => None,
        };
        if let Some(latents) = latents.filter(|latents| latents.dims() != shape) {
            let expected = format!("{shape:?}: [count, channels, height/{factor}, width/{factor}]");
            return Err(Error::shape("latents", &latents.dims(), expected));
        }
        if let Start::Picture(start) = &self.start {
            start.check()?;
        }
        Ok(shape)
    }
}

fn side(name: &'static str, pixels: usize, factor: usize) -> sd_core::Result<usize> {
    if pixels == 0 || !pixels.is_multiple_of(factor) || pixels > MAX_SIDE {
        let expected = format!("expected a multiple of {factor} from {factor} to {MAX_SIDE}");
        return Err(Error::invalid(name, pixels, expected));
    }
    Ok(pixels)
}
