//! Needs of a command-line program around the library: arguments, a progress bar, a report.

pub(crate) mod adapters;
mod controls;
mod drawing;
mod guiders;
mod memory;
mod model;
mod regions;

use std::collections::hash_map::RandomState;
use std::error::Error;
use std::fmt::Display;
use std::hash::{BuildHasher, Hasher};
use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, ValueEnum};
pub(crate) use drawing::Drawing;
use guiders::{CACHES, GUIDERS, Guider};
use indicatif::{ProgressBar, ProgressStyle};
use memory::peak_memory;
pub(crate) use model::open_model;
use sd_pipeline::{
    ComponentFolders, Extensions, FloatDType, FreeU, Guidance, HiRes, OnFlagged, OutputFile,
    PhasePeaks, PictureFormat, Pipeline, PipelineMemory, PredictionType, Prompt, Region, Request,
    StepCache, Syntax, UnknownSettings, Upscale, Watermark, WeightBytes, WeightStorage,
};
use serde_json::json;

/// What a picture's record says, and nobody else then.
const RECORDED: [&str; 33] = [
    "prompt",
    "negative",
    "regions",
    "second",
    "negative_second",
    "prompt_syntax",
    "clip_skip",
    "refiner",
    "width",
    "height",
    "steps",
    "hires",
    "hires_strength",
    "hires_steps",
    "upscaler",
    "guidance",
    "guider",
    "guidance_rescale",
    "guidance_interval",
    "freeu",
    "cache",
    "tiles",
    "scheduler",
    "seed",
    "count",
    "dtype",
    "compute",
    "weights",
    "latents_in",
    "image_prompts",
    "watermark",
    "controls",
    "guess_mode",
];
/// The bits of SDXL's watermark.
const SDXL_MARK: &str = "101100111110110010010000011110111011000110011110";

/// Draws pictures from a prompt.
#[derive(Parser)]
pub(crate) struct Arguments {
    /// The prompt: what the picture should show
    #[arg(default_value = sd_tiny::PROMPT)]
    pub(crate) prompt: String,
    /// A model: a single file (.safetensors, .ckpt, .gguf), a folder in diffusers layout, or
    /// hf:OWNER/NAME[/FILE][@REVISION] of a hub [default: the embedded tiny model]
    #[arg(long, value_name = "PATH")]
    pub(crate) model: Option<PathBuf>,
    /// Take a hub's model from the cache alone
    #[arg(long)]
    pub(crate) offline: bool,
    /// Meaning of the U-Net's output, where the model's files say it wrongly or not at all
    #[arg(long, value_enum)]
    prediction: Option<Meaning>,
    /// Family of a model in a single file, such as sd2_base or sdxl_turbo [default: told from it]
    #[arg(long, value_name = "NAME", requires = "model")]
    pub(crate) family: Option<String>,
    /// A folder in diffusers layout with settings for a model in a single file; no weights are read
    #[arg(long, value_name = "DIR", requires = "model")]
    pub(crate) config: Option<PathBuf>,
    /// Variant of the model's weights, such as fp16 or non_ema [default: those without a name]
    #[arg(long, value_name = "NAME")]
    pub(crate) variant: Option<String>,
    /// Settings in the model's files that nobody here knows: an error, or a warning
    #[arg(long, value_enum, default_value_t = Unknown::Refuse)]
    unknown_settings: Unknown,
    /// The negative prompt: what the picture should not show
    #[arg(long, value_name = "TEXT")]
    pub(crate) negative: Option<String>,
    /// The prompt of the second text encoder, where a model has two (SDXL) [default: the prompt]
    #[arg(long, value_name = "TEXT")]
    pub(crate) second: Option<String>,
    /// The negative prompt of the second text encoder [default: the negative prompt]
    #[arg(long, value_name = "TEXT", requires = "negative")]
    pub(crate) negative_second: Option<String>,
    /// Grammar of the prompts: that of A1111's webui, of ComfyUI or of compel [default: plain text, cut
    /// where it does not fit]
    #[arg(long, value_name = "NAME", default_value_t = Syntax::Plain, hide_default_value = true)]
    pub(crate) prompt_syntax: Syntax,
    /// Layers left out of those that the text encoders read, as diffusers counts them: A1111's "clip
    /// skip 2" is 1. As in diffusers a plain negative prompt leaves out none
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) clip_skip: usize,
    /// A prompt for a part of the picture: a rectangle of its left, upper, right and lower edge in
    /// fractions of the sides, or a mask's white (grey is a share); and the share of its prompt there,
    /// of which the whole picture's prompt has the rest [default: 1]. May be given several times
    #[arg(long = "region", value_name = "L,T,R,B|MASK[:SHARE]=PROMPT", value_parser = regions::region)]
    regions: Vec<regions::RegionArgument>,
    /// Another autoencoder: a file or a folder of its own or of a model
    #[arg(long, value_name = "PATH")]
    pub(crate) vae: Option<PathBuf>,
    /// Another U-Net, likewise
    #[arg(long, value_name = "PATH")]
    pub(crate) unet: Option<PathBuf>,
    /// Another text encoder, likewise
    #[arg(long, value_name = "PATH")]
    pub(crate) text_encoder: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) adapters: adapters::Adapters,
    #[command(flatten)]
    pub(crate) controls: controls::Controls,
    /// A refiner's file, folder or hf:OWNER/NAME: it goes on where the model hands over (SDXL)
    #[arg(long, value_name = "PATH")]
    pub(crate) refiner: Option<PathBuf>,
    /// Share of the noise schedule that the model draws before the refiner goes on
    #[arg(
        long,
        value_name = "SHARE",
        default_value_t = 0.8,
        requires = "refiner"
    )]
    pub(crate) handover: f64,
    /// Width in pixels, a multiple of 8 [default: what the model was trained at]
    #[arg(long)]
    pub(crate) width: Option<usize>,
    /// Height in pixels, a multiple of 8 [default: what the model was trained at]
    #[arg(long)]
    pub(crate) height: Option<usize>,
    /// Steps of the scheduler [default: what the model's kind has, mostly 50; the embedded model's 20]
    #[arg(long)]
    steps: Option<usize>,
    /// Guidance scale; 1 or less switches guidance off [default: what the model's kind has, mostly
    /// 7.5 or 5; the embedded model's 2]
    #[arg(long, allow_negative_numbers = true)]
    guidance: Option<f64>,
    #[arg(long, value_name = "NAME[:KEY=VALUE,…]", value_parser = guiders::guider)]
    #[arg(help = "A way to guide: apg, pag, …; several go together [see --help]", long_help = GUIDERS)]
    guider: Vec<Guider>,
    /// Share of the guided output that is scaled to the prompt's own deviation, 0 to 1
    #[arg(long, value_name = "SHARE", value_parser = guiders::rescale)]
    guidance_rescale: Option<f64>,
    /// Part of the run that is guided, in fractions of the steps; elsewhere the prompt alone is
    /// evaluated
    #[arg(long, value_name = "A,B", value_parser = guiders::interval)]
    guidance_interval: Option<Range<f64>>,
    /// FreeU's factors in the U-Net's first two blocks on the way up
    #[arg(long, value_name = "B1,B2,S1,S2", value_parser = guiders::freeu)]
    freeu: Option<FreeU>,
    #[arg(long, value_name = "NAME[:KEY=VALUE,…]", value_parser = guiders::cache)]
    #[arg(help = "Features of earlier steps used again: deep, first-block [see --help]", long_help = CACHES)]
    cache: Option<StepCache>,
    /// Windows of that many pixels through which the network sees a large picture, with
    /// stride=PIXELS from one to the next [default: half a window], and circular=yes for a panorama of
    /// 360 degrees (MultiDiffusion)
    #[arg(long, value_name = "SIDE|WxH[:KEY=VALUE,…]", value_parser = guiders::windows)]
    tiles: Option<guiders::Windows>,
    /// Scheduler, for example "DPM++ 2M Karras" [default: the model's own]
    #[arg(long, value_name = "NAME")]
    pub(crate) scheduler: Option<String>,
    /// Seed of the first picture; the next ones count on from it. -1 takes a random one
    #[arg(long, default_value = "0", value_parser = seed, allow_negative_numbers = true)]
    pub(crate) seed: Seed,
    /// Number of pictures
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) count: usize,
    /// Backend: flex, ndarray, wgpu, vulkan, cuda, cpu, … as far as compiled in
    #[arg(long, default_value = "flex")]
    pub(crate) device: String,
    /// Precision to compute in; bf16 on flex: that of the products, where the processor has such
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    dtype: Precision,
    /// Precision of the U-Net's linear layers and convolutions in place of that, where they lose little
    /// by it and the processor has such products; on flex
    #[arg(long, value_enum)]
    pub(crate) compute: Option<Compute>,
    /// Memory for half-precision weights, which may stay half; the picture is the same
    #[arg(long, value_enum, default_value_t = Spend::Fastest)]
    memory: Spend,
    /// Bits of weights that are kept quantised, in blocks of 32 with a scale: a quarter or an eighth
    /// of the memory, another picture
    #[arg(long, value_enum, conflicts_with = "memory")]
    weights: Option<Quantized>,
    /// Initial noise of unit variance: a safetensors file with one tensor `latents`
    #[arg(long, value_name = "FILE")]
    pub(crate) latents_in: Option<PathBuf>,
    /// File for the final latents, before decoding
    #[arg(long, value_name = "FILE")]
    pub(crate) latents_out: Option<PathBuf>,
    /// Sides of a second pass in those of the first, 1 or more: the picture is drawn small, enlarged
    /// and drawn on
    #[arg(long, value_name = "FACTOR", allow_negative_numbers = true)]
    hires: Option<f64>,
    /// Share of the second pass's steps that is taken [default: 0.7]
    #[arg(
        long,
        value_name = "SHARE",
        requires = "hires",
        allow_negative_numbers = true
    )]
    hires_strength: Option<f64>,
    /// Steps of the second pass, of which that share is taken [default: those of the first]
    #[arg(long, value_name = "N", requires = "hires")]
    hires_steps: Option<usize>,
    /// Way to the larger size: of the latent (latent, latent-nearest, latent-bicubic) or of the
    /// picture (lanczos, bicubic, bilinear, box, nearest)
    #[arg(
        long,
        value_name = "NAME",
        requires = "hires",
        default_value = "latent"
    )]
    upscaler: Upscale,
    /// Write a preview behind every so many steps but the last: NAME-step-5.png beside NAME.png,
    /// with --count NAME-0-step-5.png
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) preview_every: Option<u64>,
    /// A picture of this program: draw it again, from the record in it
    #[arg(long, value_name = "PICTURE", conflicts_with_all = RECORDED)]
    pub(crate) redraw: Option<PathBuf>,
    /// Put an invisible watermark into the picture: SDXL's, or --watermark=0101…
    #[arg(long, value_name = "BITS", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = SDXL_MARK)]
    pub(crate) watermark: Option<Watermark>,
    /// Write no record of how it was drawn into the picture
    #[arg(long)]
    pub(crate) no_record: bool,
    /// File for the picture, .png, .jpg or .webp; with --count, NAME-0.png, NAME-1.png, …
    #[arg(long, value_name = "FILE", default_value = "out.png")]
    output: PathBuf,
    /// Fate of a picture that the model's safety checker flags, or no check at all [default: black]
    #[arg(long, value_enum)]
    safety: Option<Safety>,
    /// The most memory that it may take, such as 2500000000 or 2.5GB: what would take more is an error
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(crate) memory_limit: Option<u64>,
    /// Draw nothing: print the memory that it would take, from the files' headers alone
    #[arg(long)]
    pub(crate) estimate: bool,
    /// Print one line of JSON: seconds for each part, and the peak memory
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Precision {
    F32,
    F16,
    Bf16,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Compute {
    Int8,
}

#[derive(Clone, Copy, ValueEnum)]
enum Meaning {
    Epsilon,
    V,
    Sample,
}

#[derive(Clone, Copy, ValueEnum)]
enum Unknown {
    Refuse,
    Warn,
}

#[derive(Clone, Copy, ValueEnum)]
enum Spend {
    Fastest,
    Smallest,
}

#[derive(Clone, Copy, ValueEnum)]
enum Quantized {
    Q8,
    Q4,
}

#[derive(Clone, Copy, ValueEnum)]
enum Safety {
    Black,
    Blur,
    Flag,
    Refuse,
    Off,
}

impl Arguments {
    pub(crate) fn memory(&self) -> WeightStorage {
        match (self.weights, self.memory) {
            (Some(Quantized::Q8), _) => WeightStorage::Q8,
            (Some(Quantized::Q4), _) => WeightStorage::Q4,
            (None, Spend::Fastest) => WeightStorage::F32,
            (None, Spend::Smallest) => WeightStorage::AsStored,
        }
    }

    pub(crate) fn prediction(&self) -> Option<PredictionType> {
        Some(match self.prediction? {
            Meaning::Epsilon => PredictionType::Epsilon,
            Meaning::V => PredictionType::VPrediction,
            Meaning::Sample => PredictionType::Sample,
        })
    }

    pub(crate) fn unknown_settings(&self) -> UnknownSettings {
        match self.unknown_settings {
            Unknown::Refuse => UnknownSettings::Refuse,
            Unknown::Warn => UnknownSettings::Warn,
        }
    }

    pub(crate) fn safety(&self) -> Option<OnFlagged> {
        match self.safety.unwrap_or(Safety::Black) {
            Safety::Black => Some(OnFlagged::Black),
            Safety::Blur => Some(OnFlagged::Blur),
            Safety::Flag => Some(OnFlagged::Flag),
            Safety::Refuse => Some(OnFlagged::Refuse),
            Safety::Off => None,
        }
    }

    /// Says that a choice among flagged pictures is in vain where nothing flags any.
    pub(crate) fn check_safety(&self, pipeline: &Pipeline) {
        let asked = self.safety.is_some() && self.safety().is_some();
        if asked && pipeline.safety_checker.is_none() {
            tell("the model has no safety checker: pictures are not checked");
        }
    }

    pub(crate) fn dtype(&self) -> FloatDType {
        match self.dtype {
            Precision::F32 => FloatDType::F32,
            Precision::F16 => FloatDType::F16,
            Precision::Bf16 => FloatDType::BF16,
        }
    }

    /// The files and folders of components in place of the model's own.
    pub(crate) fn folders(&self) -> ComponentFolders {
        let mut folders = ComponentFolders::default();
        folders.text_encoder.clone_from(&self.text_encoder);
        folders.denoiser.clone_from(&self.unet);
        folders.autoencoder.clone_from(&self.vae);
        folders
    }

    /// The request to `pipeline`, whose kind says what the arguments do not.
    pub(crate) fn request(&self, pipeline: &Pipeline) -> Result<Request, Box<dyn Error>> {
        let prompt = |text: &String, second: &Option<String>| match second {
            Some(second) => Prompt::from(text).with_second(second),
            None => text.into(),
        };
        let syntax = self.prompt_syntax;
        let negative = self.negative.as_deref();
        // Programs in which a prompt has a field beside it for the negative one have it empty.
        let negative = negative.or((!syntax.encodes_together()).then_some(""));
        let negative = negative.map(|text| {
            let negative = prompt(&text.to_owned(), &self.negative_second).in_syntax(syntax);
            match syntax {
                Syntax::Plain => negative,
                _ => negative.with_clip_skip(self.clip_skip),
            }
        });
        let positive = prompt(&self.prompt, &self.second);
        let request = match self.model {
            Some(_) => Request::for_pipeline(pipeline, ""),
            None => sd_tiny::request(""),
        };
        let guidance_scale = self.guidance.unwrap_or(request.guidance_scale);
        let (rescale, interval) = (self.guidance_rescale, self.guidance_interval.clone());
        let guidance = guiders::guidance(guidance_scale, &self.guider, rescale, interval)?;
        if guidance.is_some() && pipeline.denoiser.spec().embeds_guidance {
            return Err(
                "the network embeds the guidance scale, and takes no other guidance".into(),
            );
        }
        let mut extensions = Extensions::new();
        if let Some(freeu) = self.freeu {
            extensions.insert(freeu);
        }
        if let Some(cache) = self.cache {
            extensions.insert(cache);
        }
        Ok(Request {
            prompt: positive.in_syntax(syntax).with_clip_skip(self.clip_skip),
            negative_prompt: negative,
            regions: self.regions(syntax)?,
            guidance_scale,
            guidance: guidance.map(|guidance| Arc::new(guidance) as Arc<dyn Guidance>),
            extensions,
            image_prompts: self.adapters.image_prompts()?,
            tiles: match self.tiles {
                Some(windows) => Some(windows.tiles(pipeline.autoencoder.spec().factor)?),
                None => None,
            },
            steps: self.steps.unwrap_or(request.steps),
            width: self.width,
            height: self.height,
            count: self.count,
            hires: self.hires.map(|factor| self.second_pass(factor)),
            end: self.refiner.as_ref().map(|_| self.handover),
            ..request
        })
    }

    /// The regions, their masks read.
    fn regions(&self, syntax: Syntax) -> Result<Vec<Region>, Box<dyn Error>> {
        let region = |region: &regions::RegionArgument| {
            let mut region = region.read()?;
            region.prompt = (region.prompt.in_syntax(syntax)).with_clip_skip(self.clip_skip);
            Ok(region)
        };
        self.regions.iter().map(region).collect()
    }

    /// The path of the weaker model that guides.
    pub(crate) fn second_model(&self) -> Result<Option<&Path>, String> {
        guiders::second_model(&self.guider)
    }

    fn second_pass(&self, factor: f64) -> HiRes {
        let default = HiRes::new(factor);
        HiRes {
            strength: self.hires_strength.unwrap_or(default.strength),
            steps: self.hires_steps,
            upscaler: self.upscaler.clone(),
            ..default
        }
    }

    /// One file per picture for the previews behind step number `step`.
    pub(crate) fn preview_files(&self, step: usize) -> impl Iterator<Item = PathBuf> {
        let files = self.output_files();
        files.map(move |file| suffixed_file(&file, &format!("step-{step}")))
    }

    /// One file per picture; a device or a pipe takes them all.
    pub(crate) fn output_files(&self) -> impl Iterator<Item = PathBuf> {
        let stream = OutputFile::new(&self.output).is_ok_and(|place| place.is_stream());
        let numbered = self.count != 1 && !stream;
        (0..self.count).map(move |k| match numbered {
            true => suffixed_file(&self.output, &k.to_string()),
            false => self.output.clone(),
        })
    }

    /// Finds out before the work, not after it, that its result cannot be written.
    pub(crate) fn check_output(&self) -> Result<(), Box<dyn Error>> {
        let latents = match &self.latents_out {
            Some(file) => Some(OutputFile::new(file)?),
            None => None,
        };
        // Whoever wants more pictures will not get them.
        for file in self.output_files().take(1000) {
            let place = OutputFile::new(&file)?;
            if place.is_stream() && self.preview_every.is_some() {
                let file = file.display();
                return Err(format!("--preview-every writes files beside {file}, no file").into());
            }
            if !place.is_stream() {
                PictureFormat::of(&file)?;
            }
            if latents
                .as_ref()
                .is_some_and(|latents| latents.same_as(&place))
            {
                let file = file.display();
                return Err(format!("--output and --latents-out are both {file}").into());
            }
        }
        Ok(())
    }
}

/// `NAME-SUFFIX.png` for `NAME.png`.
fn suffixed_file(output: &Path, suffix: &str) -> PathBuf {
    let mut name = output.file_stem().unwrap_or_default().to_os_string();
    name.push(format!("-{suffix}."));
    name.push(output.extension().unwrap_or("png".as_ref()));
    output.with_file_name(name)
}

/// A seed, given or drawn.
#[derive(Clone, Copy)]
pub(crate) struct Seed {
    pub(crate) value: u64,
    pub(crate) random: bool,
}

fn seed(text: &str) -> Result<Seed, String> {
    if text == "-1" {
        // The standard library keys its hashers at random. Other programs' seeds have 32 bits.
        let value = RandomState::new().build_hasher().finish() >> 32;
        let random = true;
        return Ok(Seed { value, random });
    }
    let value = text.parse().map_err(|_| {
        let most = u64::MAX;
        format!("expected a number from 0 to {most}, or -1 for a random one")
    })?;
    let random = false;
    Ok(Seed { value, random })
}

/// A number of bytes, with or without a unit.
fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 7] = [
        ("KiB", 1024.0),
        ("MiB", 1_048_576.0),
        ("GiB", 1_073_741_824.0),
        ("KB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("B", 1.0),
    ];
    let lower = text.to_lowercase();
    let unit = UNITS.iter().find_map(|(unit, bytes)| {
        let number = lower.strip_suffix(&unit.to_lowercase())?;
        Some((number.trim_end(), *bytes))
    });
    let (number, unit) = unit.unwrap_or((&lower, 1.0));
    match number.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok((number * unit) as u64),
        _ => Err("expected a number of bytes, such as 2500000000, 2.5GB or 900MiB".into()),
    }
}

/// Time that each part took, and memory that it needed.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) load: Duration,
    pub(crate) encode: Duration,
    pub(crate) steps: Vec<Duration>,
    pub(crate) decode: Duration,
    /// While the steps are taken.
    pub(crate) weights: PipelineMemory,
    pub(crate) peaks: PhasePeaks,
    /// Of each picture, whether the safety checker flags it.
    pub(crate) flagged: Vec<bool>,
}

impl Report {
    /// Takes the peaks of one run more.
    pub(crate) fn watch(&mut self, peaks: PhasePeaks) {
        let own = &mut self.peaks;
        own.text = own.text.max(peaks.text);
        own.encode = own.encode.max(peaks.encode);
        own.denoise = own.denoise.max(peaks.denoise);
        own.decode = own.decode.max(peaks.decode);
        own.safety = own.safety.max(peaks.safety);
    }

    pub(crate) fn json(&self) -> String {
        let steps: Vec<f64> = self.steps.iter().map(Duration::as_secs_f64).collect();
        let bytes = |w: WeightBytes| json!({ "plain": w.plain, "packed": w.packed });
        json!({
            "seed": self.seed,
            "load_seconds": self.load.as_secs_f64(),
            "encode_seconds": self.encode.as_secs_f64(),
            "step_seconds": steps,
            "decode_seconds": self.decode.as_secs_f64(),
            "peak_memory_bytes": peak_memory(),
            "denoise_weight_bytes": {
                "text_encoder": bytes(self.weights.text_encoder),
                "denoiser": bytes(self.weights.denoiser),
                "autoencoder": bytes(self.weights.autoencoder),
            },
            "text_peak_bytes": self.peaks.text,
            "encode_peak_bytes": self.peaks.encode,
            "denoise_peak_bytes": self.peaks.denoise,
            "decode_peak_bytes": self.peaks.decode,
            "safety_peak_bytes": self.peaks.safety,
            "flagged": self.flagged,
        })
        .to_string()
    }
}

/// A program: warnings and errors go to the terminal.
pub(crate) fn run(program: impl FnOnce() -> Result<(), Box<dyn Error>>) -> ExitCode {
    print_warnings();
    match program() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// A bar on a terminal, nothing elsewhere.
fn progress_bar(steps: usize) -> ProgressBar {
    let template = "{bar:40} {pos}/{len} steps, {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar());
    ProgressBar::new(steps as u64).with_style(style)
}

/// The library warns through `tracing`; here the warnings go to the terminal. In a file they have
/// no colours.
fn print_warnings() {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(std::io::stderr)
        .with_ansi(wanted && std::io::stderr().is_terminal())
        .log_internal_errors(false)
        .without_time()
        .init();
}

/// Words for whoever sits before the program. That nobody listens is no reason to fail.
fn tell(words: impl Display) {
    let _ = writeln!(std::io::stderr(), "{words}");
}
