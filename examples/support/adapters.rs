//! Arguments for what people share to change a model.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use sd_pipeline::models::lora::AdapterReport;
use sd_pipeline::{Control, Lora, Pipeline, TextualInversion};
use serde_json::json;

/// Adapters of a model.
#[derive(Args)]
pub(crate) struct Adapters {
    /// A LoRA or one of its kin, a file or peft's folder, and its strength [default: 1]; may be
    /// given several times
    #[arg(long = "lora", value_name = "FILE[:SCALE]", value_parser = scaled)]
    loras: Vec<(PathBuf, f32)>,
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
        let all = self.loras.iter().map(|(file, strength)| {
            Ok(Lora {
                strength: *strength,
                lenient: self.lenient,
                ..Lora::open(file)?
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
        reports.extend(pipeline.controls.iter().map(Control::report));
        let mut out = std::io::stdout().lock();
        if as_json {
            writeln!(out, "{}", json!({ "adapters": reports }))?;
            return Ok(());
        }
        let paths = loras.iter().map(|lora| lora.file.path());
        let paths = paths.chain(words.iter().map(TextualInversion::path));
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
