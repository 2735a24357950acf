//! `scheduler_config.json` of diffusers.

mod classes;
mod fields;
mod json;
mod shared;

use std::sync::Arc;

use sd_core::{NoiseSchedule, Parameterization, Scheduler};
use serde_json::{Map, Value};

pub(crate) use classes::Built;
use classes::Class;
pub(crate) use fields::Fields;
pub(crate) use shared::{DefaultBetas, Training};

use crate::ConfigError;
use crate::names::SchedulerName;

/// A diffusers `scheduler_config.json`: a solver with its settings, and what it says of the model,
/// its noise schedule and prediction type.
///
/// Keys that do not change the mathematics are ignored, and so are those of another class's
/// settings, which diffusers leaves in a file when a scheduler is changed.
#[derive(Debug, Clone)]
pub struct SchedulerConfig {
    class: &'static Class,
    map: Map<String, Value>,
}

impl SchedulerConfig {
    /// Reads the text of a `scheduler_config.json` as diffusers' `StableDiffusionPipeline` does
    /// when it loads a folder: `steps_offset` counts as 1 and `clip_sample` as false, whatever the
    /// file says and also where it says nothing.
    ///
    /// # Errors
    /// [`ConfigError::Json`] for text that is no JSON object, [`ConfigError::UnknownClass`] with
    /// the known names, [`ConfigError::Value`] for a key of the wrong type.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let corrections = [("steps_offset", 1.into()), ("clip_sample", false.into())];
        Self::from_json_with(text, corrections)
    }

    /// Reads the text of a `scheduler_config.json` as the scheduler class alone does, and as
    /// pipelines do that correct nothing (SDXL's).
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json).
    pub fn from_json_verbatim(text: &str) -> Result<Self, ConfigError> {
        Self::from_json_with(text, [])
    }

    /// Reads the text of a `scheduler_config.json` with `settings` in place of its own: what is known
    /// better than the file says, the class (`_class_name`) included.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json).
    pub fn from_json_with<'a>(
        text: &str,
        settings: impl IntoIterator<Item = (&'a str, Value)>,
    ) -> Result<Self, ConfigError> {
        let mut map = json::parse_object(text)?;
        let settings = settings.into_iter();
        map.extend(settings.map(|(key, value)| (key.to_string(), value)));
        let class = match map.get("_class_name") {
            Some(Value::String(name)) => Class::named(name)?,
            other => {
                let expected = "expected the name of a scheduler class";
                return Err(fields::wrong("_class_name", other, expected));
            }
        };
        Ok(Self { class, map })
    }

    /// The class the file names, `PNDMScheduler` for example.
    pub fn class_name(&self) -> &'static str {
        self.class.name
    }

    /// The file's own scheduler.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for a key of the wrong type, [`ConfigError::Settings`] for settings
    /// that exclude each other.
    pub fn scheduler(&self) -> Result<Arc<dyn Scheduler>, ConfigError> {
        (self.class.build)(&Fields::new(&self.map))
    }

    /// The scheduler of that name for this model. A user's name says the algorithm, its order and
    /// kind and the spread of σ ("DPM++ 2M Karras"), whatever the file has of these. Of the file
    /// come all other keys that the class knows: the noise schedule and the prediction type, timestep
    /// spacing and offset, `set_alpha_to_one`, `clip_sample`, thresholding, the final σ. The class's
    /// defaults fill the rest. A class's name is diffusers' `Class.from_config(config)`, key by key.
    /// A name with a program's prefix is that program's variant, in which the file has no say.
    ///
    /// # Errors
    /// As [`scheduler`](Self::scheduler).
    pub fn named(&self, name: &SchedulerName) -> Result<Arc<dyn Scheduler>, ConfigError> {
        let mut map = self.map.clone();
        if name.is_variant() {
            // What the program would know of the model.
            map.retain(|key, _| key == "prediction_type");
        }
        name.apply(&mut map);
        (Class::named(name.class())?.build)(&Fields::new(&map))
    }

    /// The noise levels the model was trained on. A flow with dynamic shifting is not shifted yet:
    /// [`NoiseSchedule::with_shift`] takes `exp(μ)` of the pipelines' μ, with
    /// `"time_shift_type": "linear"` μ itself.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for a key of the wrong type, [`ConfigError::Settings`] for a β out of
    /// range, a shift that is not above 0, or a number of timesteps other than 1 to 100,000.
    pub fn noise_schedule(&self) -> Result<Arc<NoiseSchedule>, ConfigError> {
        let fields = Fields::new(&self.map);
        let betas = match fields.training(self.class.training)? {
            Training::Betas(default) => fields.betas(default)?,
            Training::Flow { shift } => return Ok(Arc::new(fields.flow_schedule(shift)?)),
            Training::Edm => return Ok(Arc::new(fields.edm_schedule()?)),
        };
        let steps = fields.count("num_train_timesteps", 1000)?;
        let schedule = NoiseSchedule::betas(&betas, steps)?;
        let zero = fields.flag("rescale_betas_zero_snr", false)?;
        Ok(Arc::new(match zero {
            true => schedule.with_zero_terminal_snr(),
            false => schedule,
        }))
    }

    /// Meaning of the model's output.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for a kind other than `epsilon`, `v_prediction` and `sample`, of a
    /// flow other than `flow_prediction`.
    pub fn parameterization(&self) -> Result<Parameterization, ConfigError> {
        let fields = Fields::new(&self.map);
        match fields.training(self.class.training)? {
            Training::Betas(_) => fields.parameterization(),
            Training::Flow { .. } => Ok(Parameterization::Flow),
            Training::Edm => fields.edm_parameterization(),
        }
    }
}

impl SchedulerName {
    /// The scheduler of that name with its class's default settings.
    ///
    /// # Errors
    /// None for any name that was parsed.
    pub fn scheduler(&self) -> Result<Arc<dyn Scheduler>, ConfigError> {
        let mut map = Map::new();
        self.apply(&mut map);
        (Class::named(self.class())?.build)(&Fields::new(&map))
    }
}
