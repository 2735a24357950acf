//! Settings that several classes have, and those of the model.

use sd_core::{BetaSchedule, NoiseSchedule, Parameterization};
use serde_json::Value;

use super::Fields;
use super::fields::wrong;
use crate::ConfigError;
use crate::levels::{Conventions, FinalSigma, Levels, SigmaSchedule, Spacing, positive};
use crate::solver::{Algorithm, SolverType, Thresholding};

/// β that a class has where its file says nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DefaultBetas {
    pub(crate) start: f64,
    pub(crate) end: f64,
    pub(crate) kind: &'static str,
}

/// Kind of noise schedule that a class's models were trained on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Training {
    /// A table of β.
    Betas(DefaultBetas),
    /// A straight line between picture and noise.
    Flow {
        /// The key that holds its shift.
        shift: &'static str,
    },
    /// Continuous levels, with Karras et al.'s preconditioning.
    Edm,
}

/// The model's.
impl Fields<'_> {
    pub(crate) fn parameterization(&self) -> Result<Parameterization, ConfigError> {
        let options = [
            ("epsilon", Parameterization::Epsilon),
            ("v_prediction", Parameterization::VPrediction),
            ("sample", Parameterization::Sample),
            ("original_sample", Parameterization::Sample),
            ("flow_prediction", Parameterization::Flow),
        ];
        self.choice("prediction_type", Parameterization::Epsilon, &options)
    }

    /// Meaning of the output of a model with Karras et al.'s preconditioning.
    pub(super) fn edm_parameterization(&self) -> Result<Parameterization, ConfigError> {
        let sigma_data = self.number("sigma_data", 0.5)?;
        positive("sigma_data", sigma_data)?;
        let kind = self.parameterization()?;
        if kind == Parameterization::Flow {
            let (key, expected) = ("prediction_type", "expected epsilon or v_prediction");
            return Err(wrong(key, self.get(key), expected));
        }
        Ok(Parameterization::Edm {
            sigma_data,
            v_prediction: kind == Parameterization::VPrediction,
        })
    }

    /// Kind of schedule of a class of kind `class`: a file that asks for a flow's σ is of a flow.
    pub(super) fn training(&self, class: Training) -> Result<Training, ConfigError> {
        let (kind, flow) = ("prediction_type", "use_flow_sigmas");
        let Training::Betas(_) = class else {
            return Ok(class);
        };
        let predicts_flow = self.parameterization()? == Parameterization::Flow;
        match (self.flag(flow, false)?, predicts_flow) {
            (true, true) => Ok(Training::Flow {
                shift: "flow_shift",
            }),
            (false, false) => Ok(class),
            (true, false) => {
                let expected = "expected flow_prediction, because of use_flow_sigmas";
                Err(wrong(kind, self.get(kind), expected))
            }
            (false, true) => {
                let expected = "expected use_flow_sigmas beside it";
                Err(wrong(kind, self.get(kind), expected))
            }
        }
    }

    /// The schedule of a flow. With dynamic shifting the shift is not the file's but each run's.
    pub(super) fn flow_schedule(&self, shift: &str) -> Result<NoiseSchedule, ConfigError> {
        let shift = match self.flag("use_dynamic_shifting", false)? {
            true => 1.0,
            false => self.number(shift, 1.0)?,
        };
        let steps = self.count("num_train_timesteps", 1000)?;
        Ok(NoiseSchedule::flow_in(shift, steps)?)
    }

    pub(super) fn edm_schedule(&self) -> Result<NoiseSchedule, ConfigError> {
        let sigma_min = self.number("sigma_min", 0.002)?;
        let sigma_max = self.number("sigma_max", 80.0)?;
        Ok(NoiseSchedule::edm(sigma_min, sigma_max)?)
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
}

/// Noise levels.
impl Fields<'_> {
    pub(crate) fn spacing(&self, default: Spacing) -> Result<Spacing, ConfigError> {
        let options = [
            ("leading", Spacing::Leading),
            ("linspace", Spacing::Linspace),
            ("trailing", Spacing::Trailing),
        ];
        self.choice("timestep_spacing", default, &options)
    }

    /// This library's own key `timesteps`, a list of one's own.
    pub(crate) fn own_timesteps(&self) -> Result<Option<Vec<usize>>, ConfigError> {
        let own = self.counts("timesteps")?;
        Ok(Some(own).filter(|own| !own.is_empty()))
    }

    /// This library's own key `convention`.
    pub(crate) fn conventions(&self, default: Conventions) -> Result<Conventions, ConfigError> {
        let options = [
            ("diffusers", Conventions::diffusers()),
            ("k_diffusion", Conventions::k_diffusion()),
            ("comfy_ui", Conventions::comfyui()),
        ];
        self.choice("convention", default, &options)
    }

    /// Spacing, offset, and this library's own keys.
    pub(crate) fn spaced_levels(&self, default: Levels) -> Result<Levels, ConfigError> {
        Ok(Levels {
            spacing: self.spacing(default.spacing)?,
            steps_offset: self.count("steps_offset", default.steps_offset)?,
            discard_penultimate: self.flag("discard_penultimate", default.discard_penultimate)?,
            shift_terminal: self
                .optional_number("shift_terminal")?
                .or(default.shift_terminal),
            conventions: self.conventions(default.conventions)?,
            sigmas: self.own_schedule()?.unwrap_or(default.sigmas),
            ..default
        })
    }

    /// [`spaced_levels`](Self::spaced_levels) and the flags for Karras', exponential and beta σ.
    pub(crate) fn levels(&self, default: Levels) -> Result<Levels, ConfigError> {
        let mut levels = self.spaced_levels(default)?;
        if self.own_schedule()?.is_none()
            && let Some(flagged) = self.flagged_schedule()?
        {
            levels.sigmas = flagged;
        }
        Ok(levels)
    }

    /// [`levels`](Self::levels) and the smallest, the largest and the last σ.
    pub(crate) fn levels_with_ends(&self, default: Levels) -> Result<Levels, ConfigError> {
        Ok(Levels {
            sigma_min: self.optional_number("sigma_min")?.or(default.sigma_min),
            sigma_max: self.optional_number("sigma_max")?.or(default.sigma_max),
            final_sigma: self.final_sigma(default.final_sigma)?,
            ..self.levels(default)?
        })
    }

    /// Levels between the ends of a model with Karras et al.'s preconditioning.
    pub(crate) fn edm_levels(&self, default: Levels) -> Result<Levels, ConfigError> {
        let rho = self.number("rho", 7.0)?;
        let karras = SigmaSchedule::Karras { rho };
        let schedules = [
            ("karras", karras.clone()),
            ("exponential", SigmaSchedule::Exponential),
        ];
        Ok(Levels {
            sigmas: self.choice("sigma_schedule", karras, &schedules)?,
            final_sigma: self.final_sigma(default.final_sigma)?,
            ..default
        })
    }

    fn flagged_schedule(&self) -> Result<Option<SigmaSchedule>, ConfigError> {
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
        if chosen.is_some() && self.flag("use_flow_sigmas", false)? {
            let expected = "expected no other σ beside it: diffusers makes these of a table of β";
            return Err(wrong(
                "use_flow_sigmas",
                self.get("use_flow_sigmas"),
                expected,
            ));
        }
        Ok(chosen)
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
    pub(crate) fn final_sigma(&self, default: FinalSigma) -> Result<FinalSigma, ConfigError> {
        if let Some(sigma) = self.optional_number("final_sigma")? {
            return Ok(FinalSigma::At(sigma));
        }
        let options = [
            ("zero", FinalSigma::Zero),
            ("sigma_min", FinalSigma::SigmaMin),
        ];
        self.choice("final_sigmas_type", default, &options)
    }
}

/// Thresholding of x₀.
impl Fields<'_> {
    /// Dynamic thresholding, or `otherwise`.
    pub(crate) fn thresholding(
        &self,
        otherwise: Thresholding,
    ) -> Result<Thresholding, ConfigError> {
        if !self.flag("thresholding", false)? {
            return Ok(otherwise);
        }
        Ok(Thresholding::Dynamic {
            ratio: self.number("dynamic_thresholding_ratio", 0.995)?,
            max: self.number("sample_max_value", 1.0)?,
        })
    }

    /// The clamp that `clip_sample` asks for.
    pub(crate) fn clip_sample(&self, default: Thresholding) -> Result<Thresholding, ConfigError> {
        let range = match default {
            Thresholding::Range(range) => range,
            _ => 1.0,
        };
        let range = self.number("clip_sample_range", range)?;
        Ok(match self.flag("clip_sample", !default.is_off())? {
            true => Thresholding::Range(range),
            false => Thresholding::Off,
        })
    }

    /// Dynamic thresholding, or the clamp that `clip_sample` asks for.
    pub(crate) fn clip_or_thresholding(
        &self,
        default: Thresholding,
    ) -> Result<Thresholding, ConfigError> {
        self.thresholding(self.clip_sample(default)?)
    }
}

/// DPM-Solver's.
impl Fields<'_> {
    pub(crate) fn algorithm(&self, default: Algorithm) -> Result<Algorithm, ConfigError> {
        let algorithms = [
            ("dpmsolver", Algorithm::Ode),
            ("dpmsolver++", Algorithm::OdePlusPlus),
            ("sde-dpmsolver", Algorithm::Sde),
            ("sde-dpmsolver++", Algorithm::SdePlusPlus),
            // What other classes leave in a file counts as the default.
            ("deis", Algorithm::OdePlusPlus),
        ];
        self.choice("algorithm_type", default, &algorithms)
    }

    pub(crate) fn solver_type(&self, default: SolverType) -> Result<SolverType, ConfigError> {
        let options = [
            ("midpoint", SolverType::Midpoint),
            ("heun", SolverType::Heun),
            // What other classes leave in a file counts as the default.
            ("logrho", SolverType::Midpoint),
            ("bh1", SolverType::Midpoint),
            ("bh2", SolverType::Midpoint),
        ];
        self.choice("solver_type", default, &options)
    }
}
