use sd_core::{BetaSchedule, PredictionType};
use serde_json::{Map, Value};

use crate::error::shortened;
use crate::levels::Levels;
use crate::{Clip, ConfigError, Convention, FinalSigma, SigmaSchedule, Spacing};

/// β that a class has where its file says nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DefaultBetas {
    pub(crate) start: f64,
    pub(crate) end: f64,
    pub(crate) kind: &'static str,
}

/// A configuration's keys with their types checked. A key that is absent, or `null` as Python's
/// `None`, has the default.
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
}

/// The error of a key that holds something else than it should.
pub(crate) fn wrong(key: &str, value: Option<&Value>, expected: impl Into<String>) -> ConfigError {
    ConfigError::Value {
        key: key.into(),
        value: value.map_or("absent".into(), |v| match v {
            Value::Array(list) => format!("a list of {}", list.len()),
            Value::Object(_) => "an object".into(),
            other => shortened(&other.to_string()),
        }),
        expected: expected.into(),
    }
}

impl<'a> Fields<'a> {
    pub(crate) fn new(map: &'a Map<String, Value>) -> Self {
        Self { map }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool, ConfigError> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            other => Err(wrong(key, other, "expected true or false")),
        }
    }

    /// A number; `NaN` is none.
    pub(crate) fn number(&self, key: &str, default: f64) -> Result<f64, ConfigError> {
        Ok(self.optional_number(key)?.unwrap_or(default))
    }

    pub(crate) fn optional_number(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        let number = match self.get(key) {
            None => return Ok(None),
            Some(Value::Number(number)) => number.as_f64(),
            Some(Value::String(text)) if text == "Infinity" => Some(f64::INFINITY),
            Some(Value::String(text)) if text == "-Infinity" => Some(f64::NEG_INFINITY),
            Some(_) => None,
        };
        let expected = "expected a number";
        number
            .map(Some)
            .ok_or_else(|| wrong(key, self.get(key), expected))
    }

    /// A whole number from 0 to 100,000.
    pub(crate) fn count(&self, key: &str, default: usize) -> Result<usize, ConfigError> {
        let value = self.get(key);
        let count = match value {
            None => return Ok(default),
            // Python does not tell 1 from 1.0 either.
            Some(Value::Number(number)) => number.as_f64().filter(|n| n.fract() == 0.0),
            Some(_) => None,
        };
        match count.filter(|n| (0.0..=100_000.0).contains(n)) {
            Some(count) => Ok(count as usize),
            None => Err(wrong(
                key,
                value,
                "expected a whole number from 0 to 100000",
            )),
        }
    }

    /// A list of whole numbers.
    pub(crate) fn counts(&self, key: &str) -> Result<Vec<usize>, ConfigError> {
        let value = self.get(key);
        let read = match value {
            None => return Ok(Vec::new()),
            Some(value) => serde_json::from_value(value.clone()),
        };
        read.map_err(|_| wrong(key, value, "expected a list of whole numbers"))
    }

    /// This library's own key `timesteps`, a list of one's own.
    pub(crate) fn own_timesteps(&self) -> Result<Option<Vec<usize>>, ConfigError> {
        let own = self.counts("timesteps")?;
        Ok(Some(own).filter(|own| !own.is_empty()))
    }

    /// One of `options`.
    pub(crate) fn choice<T: Clone>(
        &self,
        key: &str,
        default: T,
        options: &[(&str, T)],
    ) -> Result<T, ConfigError> {
        let value = self.get(key);
        let found = match value {
            None => return Ok(default),
            Some(Value::String(text)) => options.iter().find(|(name, _)| name == text),
            Some(_) => None,
        };
        let names: Vec<_> = options.iter().map(|(name, _)| *name).collect();
        let expected = || format!("expected one of {}", names.join(", "));
        match found {
            Some((_, choice)) => Ok(choice.clone()),
            None => Err(wrong(key, value, expected())),
        }
    }

    pub(crate) fn prediction_type(&self) -> Result<PredictionType, ConfigError> {
        let options = [
            ("epsilon", PredictionType::Epsilon),
            ("v_prediction", PredictionType::VPrediction),
            ("sample", PredictionType::Sample),
            ("original_sample", PredictionType::Sample),
        ];
        self.choice("prediction_type", PredictionType::Epsilon, &options)
    }

    pub(crate) fn betas(&self, default: DefaultBetas) -> Result<BetaSchedule, ConfigError> {
        if let Some(trained) = self.get("trained_betas") {
            let expected = "expected a list of numbers";
            let error = || wrong("trained_betas", Some(trained), expected);
            let list = trained.as_array().ok_or_else(error)?.iter();
            let betas: Option<Vec<f32>> = list.map(|b| Some(b.as_f64()? as f32)).collect();
            return betas.map(BetaSchedule::Trained).ok_or_else(error);
        }
        let start = self.number("beta_start", default.start)?;
        let end = self.number("beta_end", default.end)?;
        let linear = BetaSchedule::Linear { start, end };
        let options = [
            ("linear", linear),
            ("scaled_linear", BetaSchedule::ScaledLinear { start, end }),
            ("squaredcos_cap_v2", BetaSchedule::SquaredCosCapV2),
            ("sigmoid", BetaSchedule::Sigmoid { start, end }),
        ];
        let by_name = |name| options.iter().find(|(n, _)| *n == name);
        let default = by_name(default.kind).unwrap_or(&options[0]).1.clone();
        self.choice("beta_schedule", default, &options)
    }

    pub(crate) fn spacing(&self, default: Spacing) -> Result<Spacing, ConfigError> {
        let options = [
            ("leading", Spacing::Leading),
            ("linspace", Spacing::Linspace),
            ("trailing", Spacing::Trailing),
        ];
        self.choice("timestep_spacing", default, &options)
    }

    /// This library's own key `convention`.
    pub(crate) fn convention(&self) -> Result<Convention, ConfigError> {
        let options = [
            ("diffusers", Convention::Diffusers),
            ("k_diffusion", Convention::KDiffusion),
            ("comfy_ui", Convention::ComfyUi),
        ];
        self.choice("convention", Convention::Diffusers, &options)
    }

    /// Spacing and offset alone.
    pub(crate) fn spaced_levels(&self, spacing: Spacing) -> Result<Levels, ConfigError> {
        Ok(Levels {
            steps_offset: self.count("steps_offset", 0)?,
            sigmas: self.own_schedule()?.unwrap_or_default(),
            discard_penultimate: self.flag("discard_penultimate", false)?,
            convention: self.convention()?,
            ..Levels::spaced(self.spacing(spacing)?)
        })
    }

    /// Spacing, offset, and the flags for Karras', exponential and beta σ.
    pub(crate) fn levels(&self, spacing: Spacing) -> Result<Levels, ConfigError> {
        let spaced = self.spaced_levels(spacing)?;
        let sigmas = match self.own_schedule()? {
            Some(own) => own,
            None => self.sigma_flags()?,
        };
        Ok(Levels { sigmas, ..spaced })
    }

    fn sigma_flags(&self) -> Result<SigmaSchedule, ConfigError> {
        let flags = [
            ("use_karras_sigmas", SigmaSchedule::KARRAS),
            ("use_exponential_sigmas", SigmaSchedule::Exponential),
            ("use_beta_sigmas", SigmaSchedule::BETA),
        ];
        let mut chosen = None;
        for (key, schedule) in flags {
            if self.flag(key, false)? && chosen.replace(schedule).is_some() {
                let expected = "expected at most one of use_karras_sigmas, \
                                use_exponential_sigmas and use_beta_sigmas";
                return Err(wrong(key, self.get(key), expected));
            }
        }
        Ok(chosen.unwrap_or_default())
    }

    /// This library's own key `sigmas`, for schedules that diffusers or the class has no flag for:
    /// a name, or a [`SigmaSchedule`] as it is serialized.
    fn own_schedule(&self) -> Result<Option<SigmaSchedule>, ConfigError> {
        let read = match self.get("sigmas") {
            None => return Ok(None),
            Some(Value::String(name)) => SigmaSchedule::named(name),
            Some(value) => serde_json::from_value(value.clone()).ok(),
        };
        let expected = "expected a sigma schedule";
        let error = || wrong("sigmas", self.get("sigmas"), expected);
        read.map(Some).ok_or_else(error)
    }

    /// `final_sigmas_type`, or this library's own key `final_sigma`, a number.
    pub(crate) fn final_sigma(&self) -> Result<FinalSigma, ConfigError> {
        if let Some(sigma) = self.optional_number("final_sigma")? {
            return Ok(FinalSigma::At(sigma));
        }
        let options = [
            ("zero", FinalSigma::Zero),
            ("sigma_min", FinalSigma::SigmaMin),
        ];
        self.choice("final_sigmas_type", FinalSigma::Zero, &options)
    }

    /// Dynamic thresholding, or `otherwise`.
    pub(crate) fn thresholding(&self, otherwise: Clip) -> Result<Clip, ConfigError> {
        if !self.flag("thresholding", false)? {
            return Ok(otherwise);
        }
        Ok(Clip::Dynamic {
            ratio: self.number("dynamic_thresholding_ratio", 0.995)?,
            max: self.number("sample_max_value", 1.0)?,
        })
    }

    /// The clamp that `clip_sample` asks for.
    pub(crate) fn clamp(&self, default: bool) -> Result<Clip, ConfigError> {
        let range = self.number("clip_sample_range", 1.0)?;
        let clip = self.flag("clip_sample", default)?;
        Ok(if clip { Clip::Range(range) } else { Clip::Off })
    }

    /// Thresholding, or the clamp that `clip_sample` asks for.
    pub(crate) fn clip(&self, default: bool) -> Result<Clip, ConfigError> {
        self.thresholding(self.clamp(default)?)
    }
}
