//! Arguments for pictures that steer what is drawn.

use std::error::Error;
use std::path::{Path, PathBuf};

use clap::Args;
use sd_pipeline::{Control, ControlPicture, OpenOptions, Pipeline, read_picture};

/// Control networks and their pictures.
#[derive(Args)]
pub(crate) struct Controls {
    /// A ControlNet or a T2I-Adapter, a folder or a single file, or a Control-LoRA, its picture, how strongly that steers
    /// [default: 1], and the shares of the run between which it does [default: 0,1]; for a network of
    /// several kinds of pictures the kind's number behind them. May be given several times
    #[arg(long = "control", value_name = "DIR,PICTURE[,SCALE[,START,END[,KIND]]]", value_parser = control)]
    controls: Vec<Steering>,
    /// Steer the prompt's branch alone, the less the finer: for prompts that say little
    #[arg(long, requires = "controls")]
    pub(crate) guess_mode: bool,
}

#[derive(Clone)]
struct Steering {
    network: PathBuf,
    picture: PathBuf,
    scale: f64,
    range: [f64; 2],
    kind: Option<usize>,
}

impl Controls {
    /// The networks for `pipeline`, which was opened from `model`, found sound; one that is named twice
    /// is one.
    pub(crate) fn networks(
        &self,
        pipeline: &Pipeline,
        model: Option<&Path>,
        options: &OpenOptions,
    ) -> sd_pipeline::Result<Vec<Control>> {
        // A copy of the model's U-Net has what no shape tells from there.
        let model = model.filter(|model| model.is_dir()).map(PathBuf::from);
        let options = OpenOptions {
            config: options.config.clone().or(model),
            ..options.clone()
        };
        let mut networks: Vec<Control> = Vec::new();
        for (k, steering) in self.controls.iter().enumerate() {
            let before = self.controls[..k].iter();
            let known = before
                .zip(&networks)
                .find(|(other, _)| other.network == steering.network);
            networks.push(match known {
                Some((_, control)) => control.clone(),
                None => Control::open_beside(&steering.network, pipeline, &options)?,
            });
        }
        Ok(networks)
    }

    /// The pictures.
    pub(crate) fn pictures(&self) -> Result<Vec<ControlPicture>, Box<dyn Error>> {
        let read = |steering: &Steering| {
            let [start, end] = steering.range;
            let picture = ControlPicture::new(read_picture(&steering.picture)?);
            Ok(ControlPicture {
                kind: steering.kind,
                ..picture.scale(steering.scale).between(start..end)
            })
        };
        self.controls.iter().map(read).collect()
    }
}

/// A network and a picture, and perhaps numbers behind them.
fn control(text: &str) -> Result<Steering, String> {
    const FORM: &str = "expected DIR,PICTURE[,SCALE[,START,END[,KIND]]]";
    let parts: Vec<&str> = text.split(',').collect();
    let (paths, numbers) = parts.split_at(parts.len().min(2));
    let [network, picture] = paths else {
        return Err(FORM.into());
    };
    if network.is_empty() || picture.is_empty() {
        return Err(FORM.into());
    }
    let number = |text: &str| match text.trim().parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err(format!("{text:?} is no number; {FORM}")),
    };
    let kind = |text: &str| {
        let kind = text.trim().parse();
        kind.map_err(|_| format!("{text:?} is no kind's number; {FORM}"))
    };
    let (scale, range, kind) = match numbers {
        [] => (1.0, [0.0, 1.0], None),
        [scale] => (number(scale)?, [0.0, 1.0], None),
        [scale, start, end] => (number(scale)?, [number(start)?, number(end)?], None),
        [scale, start, end, last] => {
            let range = [number(start)?, number(end)?];
            (number(scale)?, range, Some(kind(last)?))
        }
        _ => return Err(FORM.into()),
    };
    Ok(Steering {
        network: network.into(),
        picture: picture.into(),
        scale,
        range,
        kind,
    })
}
