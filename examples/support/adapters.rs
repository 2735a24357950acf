//! Arguments for what people share to change a model.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use sd_pipeline::models::LoadOptions;
use sd_pipeline::models::lora::AdapterReport;
use sd_pipeline::{
    BlockScales, Control, ImagePrompt, IpAdapter, IpAdapterFiles, Lora, OpenOptions, Pipeline,
    Residency, StepScales, TextualInversion, read_picture,
};
use serde_json::json;

/// Adapters of a model.
#[derive(Args)]
pub(crate) struct Adapters {
    /// A LoRA or one of its kin, a file or peft's folder, and its strength [default: 1]; may be
    /// given several times. Behind that further factors, as in style.safetensors:0.8:IN=0,OUT05=0.5:
    /// of blocks, BASE (text encoders), IN00 to IN11, MID, OUT00 to OUT11, IN and OUT alone for all
    /// of a side; or with --lora-at-run-time from a share of the steps on, as in 0.5=0
    #[arg(long = "lora", value_name = "FILE[:SCALE][:FACTORS]", value_parser = given)]
    loras: Vec<Given>,
    /// Have the LoRAs act beside the weights instead of merging them: opening takes less time and each
    /// step more, and strengths may change with the steps
    #[arg(long)]
    pub(crate) lora_at_run_time: bool,
    /// A textual inversion; its word in prompts is the file's name without the ending. May be given
    /// several times
    #[arg(long = "embedding", value_name = "FILE")]
    embeddings: Vec<PathBuf>,
    /// An IP-Adapter, a folder of its file and image_encoder, a picture that says with the prompt what
    /// to draw, and its scale [default: 1]; may be given several times
    #[arg(long = "ip-adapter", value_name = "DIR,PICTURE[,SCALE]", value_parser = image_prompt)]
    image_prompts: Vec<ImagePromptPaths>,
    /// Draw with what of an adapter the model has, even if that is not all
    #[arg(long)]
    lenient: bool,
    /// Print what of each adapter the model has, and draw nothing
    #[arg(long = "adapters")]
    pub(crate) report_only: bool,
}

impl Adapters {
    /// The files of changes, opened.
    pub(crate) fn loras(&self) -> sd_pipeline::Result<Vec<Lora>> {
        let all = self.loras.iter().map(|given| {
            Ok(Lora {
                strength: given.strength,
                lenient: self.lenient,
                blocks: given.blocks.clone(),
                steps: given.steps.clone(),
                ..Lora::open(&given.file)?
            })
        });
        all.collect()
    }

    /// The words, with the vectors they stand for.
    pub(crate) fn words(&self) -> sd_pipeline::Result<Vec<TextualInversion>> {
        let words = self.embeddings.iter().map(TextualInversion::open);
        Ok(words.collect::<Result<_, _>>()?)
    }

    /// The folders of IP-Adapters, each once.
    fn image_folders(&self) -> Vec<&Path> {
        let mut folders: Vec<&Path> = Vec::new();
        for prompt in &self.image_prompts {
            if !folders.contains(&&*prompt.adapter) {
                folders.push(&prompt.adapter);
            }
        }
        folders
    }

    /// `pipeline` with the IP-Adapters, which are read when they are needed, to compute as `options`
    /// say.
    pub(crate) fn with_image_adapters(
        &self,
        mut pipeline: Pipeline,
        options: &OpenOptions,
    ) -> sd_pipeline::Result<Pipeline> {
        let spec = pipeline.denoiser.spec();
        let options = LoadOptions {
            weight_storage: options.weight_storage,
            unknown_settings: options.unknown_settings,
            ..LoadOptions::new(&spec.device).in_precision(spec.dtype)
        };
        for folder in self.image_folders() {
            let adapter = IpAdapter::slot(folder, &options, Residency::PerPhase)?;
            pipeline = pipeline.with_image_prompt(adapter)?;
        }
        Ok(pipeline)
    }

    /// The image prompts, their pictures read.
    pub(crate) fn image_prompts(&self) -> sd_pipeline::Result<Vec<ImagePrompt>> {
        let folders = self.image_folders();
        let prompts = self.image_prompts.iter().map(|prompt| {
            let adapter = folders.iter().position(|folder| *folder == prompt.adapter);
            Ok(ImagePrompt {
                adapter: adapter.unwrap_or_default(),
                ..ImagePrompt::new(read_picture(&prompt.picture)?).scale(prompt.scale)
            })
        });
        prompts.collect()
    }

    /// Prints what of each adapter `pipeline`'s model has.
    pub(crate) fn print(&self, pipeline: &Pipeline, as_json: bool) -> Result<(), Box<dyn Error>> {
        let (loras, words) = (self.loras()?, self.words()?);
        let mut reports = pipeline.match_loras(&loras)?;
        reports.extend(pipeline.match_words(&words));
        let options = LoadOptions::new(&pipeline.denoiser.spec().device);
        let mut images = Vec::new();
        for folder in self.image_folders() {
            images.push(IpAdapterFiles::open(folder, &options)?);
        }
        reports.extend(
            images
                .iter()
                .map(|files| pipeline.match_image_adapter(files)),
        );
        reports.extend(pipeline.controls.iter().map(Control::report));
        let mut out = std::io::stdout().lock();
        if as_json {
            writeln!(out, "{}", json!({ "adapters": reports }))?;
            return Ok(());
        }
        let paths = loras.iter().map(|lora| lora.file.path());
        let paths = paths.chain(words.iter().map(TextualInversion::path));
        let paths = paths.chain(images.iter().map(IpAdapterFiles::path));
        let controls = pipeline
            .controls
            .iter()
            .map(|control| Path::new(&control.name));
        let paths = paths.chain(controls);
        for (path, report) in paths.zip(&reports) {
            let AdapterReport {
                kind,
                family,
                matched,
                ..
            } = report;
            let family = family.as_deref().unwrap_or("unknown");
            let path = path.display();
            writeln!(out, "{path}: {kind}, family {family}, {matched} matched")?;
            for name in &report.unmatched {
                writeln!(out, "  unmatched {name}")?;
            }
            for name in &report.misshapen {
                writeln!(out, "  misshapen {name}")?;
            }
        }
        Ok(())
    }
}

/// An IP-Adapter, its picture and the strength of that.
#[derive(Clone)]
struct ImagePromptPaths {
    adapter: PathBuf,
    picture: PathBuf,
    scale: f64,
}

/// Two paths, and a number behind the last comma or none.
fn image_prompt(text: &str) -> Result<ImagePromptPaths, String> {
    let expected = "expected a folder, a picture and perhaps a scale, DIR,PICTURE[,SCALE]";
    let (paths, scale) = match text.rsplit_once(',') {
        None => return Err(expected.into()),
        Some((paths, scale)) => match scale.trim().parse::<f64>() {
            Ok(scale) if scale.is_finite() => (paths, scale),
            Ok(scale) => return Err(format!("the scale is {scale}, expected a finite number")),
            Err(_) => (text, 1.0),
        },
    };
    // Of the places to cut at, one that leaves two paths that are there.
    let cuts: Vec<(&str, &str)> = (paths.match_indices(','))
        .map(|(at, _)| (&paths[..at], &paths[at + 1..]))
        .collect();
    let is_there = |cut: &&(&str, &str)| Path::new(cut.0).exists() && Path::new(cut.1).exists();
    let cut = cuts
        .iter()
        .find(is_there)
        .or(cuts.first())
        .ok_or(expected)?;
    let (adapter, picture) = *cut;
    if adapter.is_empty() || picture.is_empty() {
        return Err(expected.into());
    }
    Ok(ImagePromptPaths {
        adapter: adapter.into(),
        picture: picture.into(),
        scale,
    })
}

/// A LoRA's file, how strongly it acts, and where.
#[derive(Debug, Clone, PartialEq)]
struct Given {
    file: PathBuf,
    strength: f32,
    blocks: BlockScales,
    steps: StepScales,
}

/// A path with a scale behind it, and factors of blocks and from shares of the steps on behind that.
fn given(text: &str) -> Result<Given, String> {
    let split = text.rsplit_once(':');
    let split = split.filter(|(_, last)| last.contains('=') && !PathBuf::from(text).exists());
    let (rest, factors) = split.unwrap_or((text, ""));
    let (file, strength) = scaled(rest)?;
    let is_step = |part: &&str| {
        let name = part.split('=').next();
        name.is_some_and(|name| name.parse::<f64>().is_ok())
    };
    let factors = factors.split(',').filter(|part| !part.is_empty());
    let (steps, blocks): (Vec<&str>, Vec<&str>) = factors.partition(is_step);
    let some = |parts: &[&str]| (!parts.is_empty()).then(|| parts.join(","));
    Ok(Given {
        file,
        strength,
        blocks: some(&blocks).map_or(Ok(BlockScales::default()), |text| text.parse())?,
        steps: some(&steps).map_or(Ok(StepScales::default()), |text| text.parse())?,
    })
}

/// A path with a number behind its last colon, or a path alone.
fn scaled(text: &str) -> Result<(PathBuf, f32), String> {
    let whole = || (PathBuf::from(text), 1.0);
    let Some((path, scale)) = text.rsplit_once(':') else {
        return Ok(whole());
    };
    match scale.parse::<f32>() {
        Ok(scale) if scale.is_finite() => Ok((path.into(), scale)),
        Ok(scale) => Err(format!("the scale is {scale}, expected a finite number")),
        // A drive's letter, or a name with a colon.
        Err(_) if scale.contains(['/', '\\', '.']) || PathBuf::from(text).exists() => Ok(whole()),
        Err(_) => Err(format!("the scale is {scale:?}, expected a number")),
    }
}
