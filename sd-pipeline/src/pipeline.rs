use std::path::Path;
use std::sync::Arc;

use burn::tensor::Tensor;
use image::RgbImage;
use sd_core::{Autoencoder, Denoiser, Scheduler, SeededNoise, TextEncoder};
use sd_schedulers::{ConfigError, SchedulerConfig, SchedulerName};

use crate::beside::Beside;
use crate::defaults::{Defaults, Kind};
use crate::memory::Phases;
use crate::record::Fingerprint;
use crate::run::{encoded, pixels};
use crate::synchronized::synchronized;
use crate::{
    Control, IpAdapter, LatentRgb, OnFlagged, Picture, Request, Result, Run, SafetyChecker,
    SampleMode, Slot,
};

/// Four components that together make pictures from text, and perhaps one that looks at them.
///
/// Each is swapped by assignment; `into()` puts a component of any origin into its [`Slot`].
/// Cloning a pipeline shares the components; it is `Send + Sync`, and any number of threads may
/// generate on one at once.
#[derive(Clone)]
pub struct Pipeline {
    /// Prompts to embeddings.
    pub text_encoder: Slot<dyn TextEncoder>,
    /// The network that predicts noise.
    pub denoiser: Slot<dyn Denoiser>,
    /// Latents to pixels and back.
    pub autoencoder: Slot<dyn Autoencoder>,
    /// The solver. What is assigned here is used with its own settings alone; to have the model
    /// folder's settings apply, use [`set_scheduler`](Self::set_scheduler).
    pub scheduler: Arc<dyn Scheduler>,
    /// Networks beside the denoiser, each of which has a picture of
    /// [`Request::controls`] steer it; see [`with_controls`](Self::with_controls).
    pub controls: Vec<Control>,
    /// The judge of all pictures that runs hand out; `None`: they are not checked.
    pub safety_checker: Option<Slot<dyn SafetyChecker>>,
    /// The fate of a picture that the safety checker flags.
    pub on_flagged: OnFlagged,
    /// Adapters that make prompts of pictures; see [`with_image_prompt`](Self::with_image_prompt).
    pub image_adapters: Vec<Slot<IpAdapter>>,
    /// Colours of the latents, for [previews](Run::preview): of a folder that was opened those of its
    /// kind. `None`: they are not known.
    pub latent_rgb: Option<LatentRgb>,
    /// The most bytes that a run may take, as [`estimate`](Self::estimate) counts them; `None`: whatever
    /// there is.
    pub memory_limit: Option<u64>,
    /// Name of the model in the records of its pictures; of a folder that was opened, its name.
    pub name: Option<String>,
    /// Adapters in the weights and words in the vocabulary, for the records of its pictures.
    pub(crate) adapters: Vec<String>,
    /// LoRAs that the components are told.
    pub(crate) beside: Vec<Beside>,
    /// Of the folder that was opened.
    pub(crate) fingerprint: Fingerprint,
    /// The scheduler that was chosen by name: the one above, unless that was assigned.
    pub(crate) scheduler_name: Option<(String, Arc<dyn Scheduler>)>,
    pub(crate) scheduler_config: Option<SchedulerConfig>,
    pub(crate) kind: Kind,
}

impl Pipeline {
    /// A pipeline of components of any origin.
    pub fn new(
        text_encoder: impl TextEncoder + 'static,
        denoiser: impl Denoiser + 'static,
        autoencoder: impl Autoencoder + 'static,
        scheduler: impl Scheduler + 'static,
    ) -> Self {
        Self {
            text_encoder: text_encoder.into(),
            denoiser: denoiser.into(),
            autoencoder: autoencoder.into(),
            scheduler: Arc::new(scheduler),
            controls: Vec::new(),
            safety_checker: None,
            on_flagged: OnFlagged::default(),
            image_adapters: Vec::new(),
            latent_rgb: None,
            memory_limit: None,
            name: None,
            adapters: Vec::new(),
            beside: Vec::new(),
            fingerprint: Fingerprint::default(),
            scheduler_name: None,
            scheduler_config: None,
            kind: Kind::default(),
        }
    }

    /// Numbers for a program that has none of its own: those of the folder's pipeline class in
    /// diffusers.
    pub fn defaults(&self) -> Defaults {
        self.kind.defaults
    }

    /// Changes to the scheduler called `name`.
    ///
    /// A user's name such as "DPM++ 2M Karras" says the algorithm, its order and kind, and the
    /// spread of σ. From the model folder's `scheduler_config.json` come all other keys that the
    /// scheduler knows: timestep spacing and offset, `set_alpha_to_one`, `clip_sample`, thresholding,
    /// the final σ, zero terminal SNR. The noise schedule and the prediction type are the model's
    /// and stay. A class's name, `DPMSolverMultistepScheduler`, is diffusers' `from_config`: every
    /// key of the file applies. With a program's prefix, `a1111:DPM2`, none does.
    ///
    /// # Errors
    /// A name that is not known; the error lists the known ones.
    pub fn set_scheduler(&mut self, name: &str) -> Result<()> {
        let parsed: SchedulerName = name.parse().map_err(ConfigError::from)?;
        self.scheduler = match &self.scheduler_config {
            Some(config) => config.named(&parsed)?,
            None => parsed.scheduler()?,
        };
        self.scheduler_name = Some((name.into(), self.scheduler.clone()));
        Ok(())
    }

    /// Begins to draw what `request` asks for; the text is encoded here, the first step is taken
    /// when the run is first asked for one.
    ///
    /// # Errors
    /// A number in the request that is out of range, and those of the text encoder;
    /// [`Error::MemoryLimit`](crate::Error::MemoryLimit) where it would take more than the pipeline
    /// may.
    pub fn start(&self, request: &Request) -> Result<Run> {
        self.check_limit(request)?;
        let device = &self.denoiser.spec().device;
        synchronized(&[device], "starting the run", || Run::new(self, request))
    }

    /// Continues the run that [`Run::save`] wrote to the file `path`. `request` and the scheduler
    /// must be those it was started with; the result is then the same as without the
    /// interruption.
    ///
    /// # Errors
    /// Those of [`start`](Self::start), and [`Error::SavedRun`](crate::Error::SavedRun) when the
    /// file is damaged or of another request.
    pub fn resume(&self, request: &Request, path: impl AsRef<Path>) -> Result<Run> {
        self.check_limit(request)?;
        let device = &self.denoiser.spec().device;
        synchronized(&[device], "resuming the run", || {
            Run::resume(self, request, path.as_ref())
        })
    }

    fn check_limit(&self, request: &Request) -> Result<()> {
        match self.memory_limit {
            None => Ok(()),
            limit => self.estimate(request)?.check(limit),
        }
    }

    /// Draws what `request` asks for with this base model and then with `refiner`: the base draws
    /// the share `at` of the noise schedule, the refiner the rest (diffusers' `denoising_end` and
    /// `denoising_start`; SDXL's authors take 0.8).
    ///
    /// It is the loop over two runs: of `request` with its [`end`](Request::end) at `at`, and of
    /// [`Request::refining`].
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn generate_refined(
        &self,
        refiner: &Self,
        request: &Request,
        at: f64,
    ) -> Result<Vec<Picture>> {
        let request = Request {
            end: Some(at),
            ..request.clone()
        };
        let mut base = self.start(&request)?;
        for step in &mut base {
            step?;
        }
        refiner.generate(&request.refining(base.hand_over()?))
    }

    /// The clean latents `[count, c, height/8, width/8]` of `picture`, f32, on the denoiser's device, as
    /// a run that starts from the picture takes them: image `k` draws its sample with the noise of
    /// `seed + k`.
    ///
    /// A [`Handover`](crate::Handover) of them goes on at any place of the noise schedule as if they
    /// were what another model left there (diffusers' `denoising_start` with a picture):
    ///
    /// ```
    /// # use sd_pipeline::{Handover, Level, Pipeline, Request, RgbImage, SampleMode, Start};
    /// # fn draw(pipeline: &Pipeline, picture: &RgbImage) -> sd_pipeline::Result<()> {
    /// let latents = pipeline.encode(picture, SampleMode::Sample, 7, 1)?;
    /// let mut handover = Handover::new(latents, Level::variance_exploding(0.0, 0.0), 0.8);
    /// // The sample was the first draw of the seed.
    /// handover.draws = 1;
    /// let request = Request {
    ///     seed: 7,
    ///     start: Start::Handover(Box::new(handover)),
    ///     ..Request::new("a lighthouse in a storm")
    /// };
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// A side of the picture that is no multiple of the autoencoder's factor, and the autoencoder's.
    pub fn encode(
        &self,
        picture: &RgbImage,
        mode: SampleMode,
        seed: u64,
        count: usize,
    ) -> Result<Tensor<4>> {
        let devices = [
            &self.denoiser.spec().device,
            &self.autoencoder.spec().device,
        ];
        synchronized(&devices, "encoding the picture", || {
            let mut noise = SeededNoise::new(seed, count);
            let noise = (mode == SampleMode::Sample).then_some(&mut noise);
            let size = [picture.height(), picture.width()].map(|side| side as usize);
            let phases = Phases::default();
            encoded(self, pixels(picture), size, count, noise, &phases)
        })
    }

    /// Draws what `request` asks for: the loop over [`start`](Self::start)'s run.
    ///
    /// # Errors
    /// Those of [`start`](Self::start), of a step and of the decoding.
    pub fn generate(&self, request: &Request) -> Result<Vec<Picture>> {
        let mut run = self.start(request)?;
        for step in &mut run {
            step?;
        }
        run.images()
    }
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline")
            .field("denoiser", self.denoiser.spec())
            .field("autoencoder", self.autoencoder.spec())
            .field("scheduler", &self.scheduler)
            .finish_non_exhaustive()
    }
}
