//! Guiders and caches as words: `NAME[:key=value,…]`.

use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sd_pipeline::core::Linear;
use sd_pipeline::{
    Combination, Composed, Contrast, FreeU, PerpendicularNegative, Perturbation, Perturbed,
    Projected, ScaleCurve, StepCache, Thresholded, Tiles, ZeroStar,
};

/// Help on `--guider`, whose names and keys these are.
pub(crate) const GUIDERS: &str = "\
A way to guide; several go together, of the first kind one alone.
  what becomes of the outputs under prompt and negative prompt, where the guidance scale is above 1:
    cfg
    apg:eta=1,momentum=0,rescale=15,formula=diffusers
                        adaptive projected guidance; rescale 0 is no limit, formula paper the paper's
    cfg-zero:steps=1    CFG-Zero*; steps whose output is zero
    threshold:mimic=7,percentile=1
                        dynamic thresholding to the range of a lower scale
    perp-neg:weight=1   perpendicular negative prompt
  the guidance scale over the steps:
    schedule:from=SCALE,to=1,shape=linear
                        or shape=cosine
  contrasts to a weakened network, which cost an evaluation more:
    pag:scale=3,adaptive=0,layers=mid_block,start=0,stop=1
                        perturbed attention
    seg:scale=3,sigma=inf,layers=mid_block,start=0,stop=1
                        smoothed energy; sigma of the blur, in tokens
    slg:scale=2.8,layers=mid_block,start=0.01,stop=0.2
                        skipped layers
    autoguidance:model=PATH,scale=2,start=0,stop=1
                        a weaker model of the same family, a folder or file; its path without a comma
  layers are paths joined by +, such as mid_block+up_blocks.1; start and stop are fractions of the steps";

/// Help on `--cache`.
pub(crate) const CACHES: &str = "\
Features of earlier steps in the place of new ones: faster, and another picture.
  deep:interval=3,depth=0    DeepCache: each third evaluation is whole, the others go down to the
                             skip connection of that number
  first-block:threshold=0.1  whole where the first layer's change differs by more than that share";

/// One `--guider`.
#[derive(Debug, Clone)]
pub(crate) enum Guider {
    Combination(Arc<dyn Combination>),
    Schedule {
        from: Option<f64>,
        to: f64,
        cosine: bool,
    },
    Contrast(Contrast),
    /// A contrast to a second model.
    Second {
        contrast: Contrast,
        model: PathBuf,
    },
}

/// Windows of tiled diffusion, in pixels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Windows {
    /// Height and width.
    window: [usize; 2],
    stride: Option<usize>,
    circular: bool,
}

pub(crate) fn guider(text: &str) -> Result<Guider, String> {
    let (name, mut keys) = Keys::of(text)?;
    let guider = match name {
        "cfg" => Guider::Combination(Arc::new(Linear)),
        "apg" => {
            let default = Projected::default();
            Guider::Combination(Arc::new(Projected {
                eta: keys.number("eta", default.eta)?,
                momentum: keys.number("momentum", default.momentum)?,
                rescale: keys.number("rescale", default.rescale)?,
                from_prompt: keys.choice("formula", ["diffusers", "paper"])? == 1,
            }))
        }
        "cfg-zero" => Guider::Combination(Arc::new(ZeroStar {
            zero_steps: keys.whole("steps", ZeroStar::default().zero_steps)?,
        })),
        "threshold" => {
            let default = Thresholded::default();
            Guider::Combination(Arc::new(Thresholded {
                mimic: keys.number("mimic", default.mimic)?,
                percentile: keys.number("percentile", default.percentile)?,
            }))
        }
        "perp-neg" => Guider::Combination(Arc::new(PerpendicularNegative {
            weight: keys.number("weight", PerpendicularNegative::default().weight)?,
        })),
        "schedule" => Guider::Schedule {
            from: keys
                .take("from")
                .map(|text| number("from", text))
                .transpose()?,
            to: keys.number("to", 1.0)?,
            cosine: keys.choice("shape", ["linear", "cosine"])? == 1,
        },
        "pag" => keys.contrast(Perturbation::IdentityAttention, 3.0, 0.0..1.0)?,
        "seg" => {
            let sigma = match keys.take("sigma") {
                Some("inf") | None => f64::INFINITY,
                Some(sigma) => number("sigma", sigma)?,
            };
            keys.contrast(Perturbation::BlurredQueries { sigma }, 3.0, 0.0..1.0)?
        }
        "autoguidance" => {
            let model = keys.take("model").filter(|path| !path.is_empty());
            let model =
                model.ok_or("'autoguidance' needs the key 'model': a second model's path")?;
            let interval = keys.number("start", 0.0)?..keys.number("stop", 1.0)?;
            Guider::Second {
                contrast: Contrast {
                    interval,
                    ..Contrast::second_network(keys.number("scale", 2.0)?)
                },
                model: model.into(),
            }
        }
        "slg" => keys.contrast(Perturbation::Skipped, 2.8, 0.01..0.2)?,
        _ => {
            let known =
                "cfg, apg, cfg-zero, threshold, perp-neg, schedule, pag, seg, slg, autoguidance";
            return Err(format!("no guider is called '{name}', known are {known}"));
        }
    };
    keys.finish(name).map(|()| guider)
}

pub(crate) fn cache(text: &str) -> Result<StepCache, String> {
    let (name, mut keys) = Keys::of(text)?;
    let cache = match name {
        "deep" => StepCache::Deep {
            interval: keys.whole("interval", 3)?,
            depth: keys.whole("depth", 0)?,
        },
        "first-block" => StepCache::FirstBlock {
            threshold: keys.number("threshold", 0.1)?,
        },
        _ => {
            return Err(format!(
                "no cache is called '{name}', known are deep, first-block"
            ));
        }
    };
    keys.finish(name).map(|()| cache)
}

pub(crate) fn freeu(text: &str) -> Result<FreeU, String> {
    let [b1, b2, s1, s2] = list(text, "four numbers B1,B2,S1,S2")?;
    Ok(FreeU::new([b1, b2], [s1, s2]))
}

/// The second model that `guiders` ask for.
///
/// # Errors
/// More than one.
pub(crate) fn second_model(guiders: &[Guider]) -> Result<Option<&Path>, String> {
    let models = guiders.iter().filter_map(|guider| match guider {
        Guider::Second { model, .. } => Some(model.as_path()),
        _ => None,
    });
    match models.collect::<Vec<_>>()[..] {
        [] => Ok(None),
        [model] => Ok(Some(model)),
        _ => Err("one second model can guide: autoguidance is there twice".into()),
    }
}

pub(crate) fn windows(text: &str) -> Result<Windows, String> {
    let (size, mut keys) = Keys::of(text)?;
    let pixels = |key: &str, text: &str, expected: &str| {
        let pixels = text.parse::<usize>().ok().filter(|pixels| *pixels > 0);
        pixels.ok_or_else(|| wrong(key, text, expected))
    };
    let side = |text: &str| pixels("the window", text, "SIDE or WIDTHxHEIGHT in pixels");
    let (width, height) = size.split_once('x').unwrap_or((size, size));
    let stride = keys.take("stride");
    let stride = stride.map(|text| pixels("stride", text, "a number of pixels above 0"));
    let windows = Windows {
        window: [side(height)?, side(width)?],
        stride: stride.transpose()?,
        circular: keys.choice("circular", ["no", "yes"])? == 1,
    };
    keys.finish("--tiles").map(|()| windows)
}

impl Windows {
    /// The same in latents, of `factor` pixels each.
    pub(crate) fn tiles(self, factor: usize) -> Result<Tiles, String> {
        let latents = |pixels: usize| match pixels.is_multiple_of(factor) {
            true => Ok(pixels / factor),
            false => Err(format!("--tiles: {pixels} is no multiple of {factor}")),
        };
        let [height, width] = self.window;
        let window = [latents(height)?, latents(width)?];
        let stride = match self.stride {
            Some(stride) => [latents(stride)?; 2],
            None => window.map(|side| side.div_ceil(2)),
        };
        Ok(Tiles {
            window,
            stride,
            circular: self.circular,
        })
    }
}

pub(crate) fn interval(text: &str) -> Result<Range<f64>, String> {
    let [start, end] = list(text, "two fractions A,B of the steps")?;
    match 0.0 <= start && start <= end && end <= 1.0 {
        true => Ok(start..end),
        false => Err("expected A and B from 0 to 1, B not less than A".into()),
    }
}

pub(crate) fn rescale(text: &str) -> Result<f64, String> {
    let share: f64 = number("the rescale", text)?;
    match (0.0..=1.0).contains(&share) {
        true => Ok(share),
        false => Err("expected a number from 0 to 1".into()),
    }
}

/// The guidance at `scale` that the arguments make; `None` where they ask for none.
pub(crate) fn guidance(
    scale: f64,
    guiders: &[Guider],
    rescale: Option<f64>,
    interval: Option<Range<f64>>,
) -> Result<Option<Composed>, String> {
    if guiders.is_empty() && rescale.is_none() && interval.is_none() {
        return Ok(None);
    }
    let (mut combinations, mut curves, mut contrasts) = (Vec::new(), Vec::new(), Vec::new());
    for guider in guiders {
        match guider.clone() {
            Guider::Combination(combination) => combinations.push(combination),
            Guider::Schedule { from, to, cosine } => {
                let from = from.unwrap_or(scale);
                curves.push(match cosine {
                    false => ScaleCurve::Linear(from, to),
                    true => ScaleCurve::Cosine(from, to),
                });
            }
            Guider::Contrast(contrast) | Guider::Second { contrast, .. } => {
                contrasts.push(contrast);
            }
        }
    }
    if combinations.len() > 1 || curves.len() > 1 {
        return Err(
            "of cfg, apg, cfg-zero, threshold and perp-neg one alone can guide, and one schedule"
                .into(),
        );
    }
    let scaled = scale > 1.0 || !curves.is_empty();
    let asked = combinations.pop();
    if !scaled && (asked.is_some() || contrasts.is_empty()) {
        return Err(format!(
            "at a guidance scale of {scale} the prompt alone is evaluated: nothing is guided"
        ));
    }
    let plain = || -> Arc<dyn Combination> { Arc::new(Linear) };
    Ok(Some(Composed {
        scale: curves.pop().unwrap_or(ScaleCurve::Constant(scale)),
        combination: scaled.then(|| asked.unwrap_or_else(plain)),
        contrasts,
        rescale: rescale.unwrap_or(0.0),
        interval: interval.unwrap_or(0.0..1.0),
    }))
}

/// What stands behind a name's colon.
struct Keys<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Keys<'a> {
    fn of(text: &'a str) -> Result<(&'a str, Self), String> {
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        let mut keys: Vec<(&str, &str)> = Vec::new();
        for part in rest.split(',').filter(|_| text.contains(':')) {
            let pair = part.split_once('=');
            let pair = pair.ok_or_else(|| format!("'{part}' is no key=value"))?;
            if keys.iter().any(|(key, _)| *key == pair.0) {
                return Err(format!("'{}' is there twice", pair.0));
            }
            keys.push(pair);
        }
        Ok((name, Self(keys)))
    }

    fn take(&mut self, key: &str) -> Option<&'a str> {
        let found = self.0.iter().position(|(name, _)| *name == key)?;
        Some(self.0.swap_remove(found).1)
    }

    fn number(&mut self, key: &str, default: f64) -> Result<f64, String> {
        self.take(key).map_or(Ok(default), |text| number(key, text))
    }

    fn whole(&mut self, key: &str, default: usize) -> Result<usize, String> {
        let whole = |text: &str| text.parse().map_err(|_| wrong(key, text, "a whole number"));
        self.take(key).map_or(Ok(default), whole)
    }

    /// The number of the choice, the first where none is made.
    fn choice(&mut self, key: &str, choices: [&str; 2]) -> Result<usize, String> {
        let Some(text) = self.take(key) else {
            return Ok(0);
        };
        let found = choices.iter().position(|choice| *choice == text);
        found.ok_or_else(|| wrong(key, text, choices.join(" or ")))
    }

    fn contrast(
        &mut self,
        perturbation: Perturbation,
        scale: f64,
        interval: Range<f64>,
    ) -> Result<Guider, String> {
        let layers = self.take("layers").unwrap_or("mid_block");
        let perturbed = Perturbed {
            layers: layers.split('+').map(String::from).collect(),
            perturbation,
        };
        let adaptive = match perturbation {
            Perturbation::IdentityAttention => self.number("adaptive", 0.0)?,
            _ => 0.0,
        };
        let scale = self.number("scale", scale)?;
        Ok(Guider::Contrast(Contrast {
            adaptive,
            interval: self.number("start", interval.start)?..self.number("stop", interval.end)?,
            ..Contrast::perturbed(perturbed, scale)
        }))
    }

    fn finish(self, name: &str) -> Result<(), String> {
        match self.0.first() {
            Some((key, _)) => Err(format!("'{name}' has no key '{key}': see --help")),
            None => Ok(()),
        }
    }
}

fn list<const N: usize>(text: &str, expected: &str) -> Result<[f64; N], String> {
    let numbers = text.split(',').map(|part| number("one of them", part));
    let numbers: Vec<f64> = numbers.collect::<Result<_, _>>()?;
    <[f64; N]>::try_from(numbers).map_err(|_| format!("expected {expected}"))
}

fn number(key: &str, text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| wrong(key, text, "a finite number"))
}

fn wrong(key: &str, text: &str, expected: impl Display) -> String {
    format!("{key} is '{text}', expected {expected}")
}
