//! Needs of a command-line program around the library: arguments, a progress bar, a report.

mod memory;
mod model;

use std::collections::hash_map::RandomState;
use std::error::Error;
use std::fmt::Display;
use std::hash::{BuildHasher, Hasher};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use memory::peak_memory;
pub(crate) use model::open_model;
use sd_pipeline::{
    ComponentFolders, FloatDType, OnFlagged, OutputFile, PhasePeaks, PictureFormat, Pipeline,
    PipelineMemory, Prompt, Request, UnknownSettings, Watermark, WeightBytes, WeightStorage,
};
use serde_json::json;

/// What a picture's record says, and nobody else then.
const RECORDED: [&str; 15] = [
    "prompt",
    "negative",
    "second",
    "negative_second",
    "refiner",
    "width",
    "height",
    "steps",
    "guidance",
    "scheduler",
    "seed",
    "count",
    "dtype",
    "latents_in",
    "watermark",
];
/// The bits of SDXL's watermark.
const SDXL_MARK: &str = "101100111110110010010000011110111011000110011110";

/// Draws pictures from a prompt.
#[derive(Parser)]
pub(crate) struct Arguments {
    /// The prompt: what the picture should show
    #[arg(default_value = sd_tiny::PROMPT)]
    pub(crate) prompt: String,
    /// A model folder in diffusers layout, or hf:OWNER/NAME[/FILE][@REVISION] of a hub [default: the
    /// embedded tiny model]
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// Take a hub's model from the cache alone
    #[arg(long)]
    pub(crate) offline: bool,
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
    /// A folder with another autoencoder: its own or that of a model
    #[arg(long, value_name = "DIR")]
    pub(crate) vae: Option<PathBuf>,
    /// A folder with another U-Net, likewise
    #[arg(long, value_name = "DIR")]
    pub(crate) unet: Option<PathBuf>,
    /// A folder with another text encoder, likewise
    #[arg(long, value_name = "DIR")]
    pub(crate) text_encoder: Option<PathBuf>,
    /// A refiner's folder, or hf:OWNER/NAME: it goes on where the model hands over (SDXL)
    #[arg(long, value_name = "DIR")]
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
    /// Precision to compute in
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    dtype: Precision,
    /// Memory for half-precision weights, which may stay half; the picture is the same
    #[arg(long, value_enum, default_value_t = Spend::Fastest)]
    memory: Spend,
    /// Initial noise of unit variance: a safetensors file with one tensor `latents`
    #[arg(long, value_name = "FILE")]
    pub(crate) latents_in: Option<PathBuf>,
    /// File for the final latents, before decoding
    #[arg(long, value_name = "FILE")]
    pub(crate) latents_out: Option<PathBuf>,
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
enum Safety {
    Black,
    Blur,
    Flag,
    Refuse,
    Off,
}

impl Arguments {
    pub(crate) fn memory(&self) -> WeightStorage {
        match self.memory {
            Spend::Fastest => WeightStorage::F32,
            Spend::Smallest => WeightStorage::AsStored,
        }
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

    /// The folders of components in place of the model's own.
    pub(crate) fn folders(&self) -> ComponentFolders {
        let mut folders = ComponentFolders::default();
        folders.text_encoder.clone_from(&self.text_encoder);
        folders.denoiser.clone_from(&self.unet);
        folders.autoencoder.clone_from(&self.vae);
        folders
    }

    /// The request to `pipeline`, whose kind says what the arguments do not.
    pub(crate) fn request(&self, pipeline: &Pipeline) -> Request {
        let prompt = |text: &String, second: &Option<String>| match second {
            Some(second) => Prompt::from(text).with_second(second),
            None => text.into(),
        };
        let negative = self.negative.as_ref();
        let request = match self.model {
            Some(_) => Request::for_pipeline(pipeline, ""),
            None => sd_tiny::request(""),
        };
        Request {
            prompt: prompt(&self.prompt, &self.second),
            negative_prompt: negative.map(|text| prompt(text, &self.negative_second)),
            guidance_scale: self.guidance.unwrap_or(request.guidance_scale),
            steps: self.steps.unwrap_or(request.steps),
            width: self.width,
            height: self.height,
            count: self.count,
            end: self.refiner.as_ref().map(|_| self.handover),
            ..request
        }
    }

    /// One file per picture; a device or a pipe takes them all.
    pub(crate) fn output_files(&self) -> impl Iterator<Item = PathBuf> {
        let stream = OutputFile::new(&self.output).is_ok_and(|place| place.is_stream());
        let numbered = self.count != 1 && !stream;
        (0..self.count).map(move |k| match numbered {
            true => numbered_file(&self.output, k),
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

/// `NAME-k.png` for `NAME.png`.
fn numbered_file(output: &Path, k: usize) -> PathBuf {
    let mut name = output.file_stem().unwrap_or_default().to_os_string();
    name.push(format!("-{k}."));
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
            "denoise_peak_bytes": self.peaks.denoise,
            "decode_peak_bytes": self.peaks.decode,
            "safety_peak_bytes": self.peaks.safety,
            "flagged": self.flagged,
        })
        .to_string()
    }
}

/// A bar on a terminal, nothing elsewhere.
pub(crate) fn progress_bar(steps: usize) -> ProgressBar {
    let template = "{bar:40} {pos}/{len} steps, {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar());
    ProgressBar::new(steps as u64).with_style(style)
}

/// The library warns through `tracing`; here the warnings go to the terminal. In a file they have
/// no colours.
pub(crate) fn print_warnings() {
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
pub(crate) fn tell(words: impl Display) {
    let _ = writeln!(std::io::stderr(), "{words}");
}
