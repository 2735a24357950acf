use serde::{Deserialize, Serialize};

/// Conventions in what a solver's settings leave open, on which programs differ. They change a
/// picture slightly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Conventions {
    /// Rounding of every timestep that is looked up for a σ; without it a σ between two timesteps
    /// has a fraction between them.
    pub rounds_timesteps: bool,
    /// Fractions in the timesteps of σ that a schedule has spread, for the solvers whose diffusers
    /// classes make them whole: the exponential multistep ones, and DPM2 on Karras' σ.
    pub fractional_timesteps: bool,
    /// Share of the picture in the initial noise.
    pub picture_share: PictureShare,
    /// Ends of a schedule at the first and last σ of the [`Spacing`](super::Spacing); without it at
    /// the model's largest and smallest.
    pub spaced_ends: bool,
}

/// Share of the picture in the initial noise: with it the noise is as strong as a noisy picture of
/// variance 1, `√(σ² + 1)` in k-diffusion's scale, without it as the noise in one, σ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PictureShare {
    /// Never.
    Never,
    /// In a run that begins at the model's largest σ.
    AtLargestSigma,
    /// In the variance-preserving scale always; in k-diffusion's with leading spacing alone, whose
    /// first level is not quite the last of training.
    #[default]
    ByScale,
}

impl Conventions {
    /// diffusers': each class rounds timesteps or not in its own way; initial noise has the first
    /// σ, with leading spacing `√(1 + σ²)`; most schedules cover what the spacing covers.
    pub fn diffusers() -> Self {
        Self {
            rounds_timesteps: false,
            fractional_timesteps: false,
            picture_share: PictureShare::ByScale,
            spaced_ends: true,
        }
    }

    /// k-diffusion's, A1111's and stable-diffusion.cpp's: a σ between two timesteps has a fraction
    /// between them; initial noise has the first σ; schedules cover the model's whole range.
    pub fn k_diffusion() -> Self {
        Self {
            rounds_timesteps: false,
            fractional_timesteps: true,
            picture_share: PictureShare::Never,
            spaced_ends: false,
        }
    }

    /// ComfyUI's: a σ between two timesteps has the nearest; initial noise at the model's largest σ
    /// is `√(1 + σ²)`; schedules cover the model's whole range.
    pub fn comfyui() -> Self {
        Self {
            rounds_timesteps: true,
            picture_share: PictureShare::AtLargestSigma,
            ..Self::k_diffusion()
        }
    }
}

impl Default for Conventions {
    /// [`diffusers`](Self::diffusers).
    fn default() -> Self {
        Self::diffusers()
    }
}
