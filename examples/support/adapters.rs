//! Arguments for what people share to change a model.

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use sd_pipeline::models::lora::AdapterReport;
use sd_pipeline::{BlockScales, Lora, Pipeline, StepScales, TextualInversion};
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

    /// Prints what of each adapter `pipeline`'s model has.
    pub(crate) fn print(&self, pipeline: &Pipeline, as_json: bool) -> Result<(), Box<dyn Error>> {
        let (loras, words) = (self.loras()?, self.words()?);
        let mut reports = pipeline.match_loras(&loras)?;
        reports.extend(pipeline.match_words(&words));
        let mut out = std::io::stdout().lock();
        if as_json {
            writeln!(out, "{}", json!({ "adapters": reports }))?;
            return Ok(());
        }
        let paths = loras.iter().map(|lora| lora.file.path());
        let paths = paths.chain(words.iter().map(TextualInversion::path));
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
