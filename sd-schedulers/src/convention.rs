use serde::{Deserialize, Serialize};

/// Whose habits settle what a solver's settings leave open. They change a picture slightly: by what
/// timestep the network is told of a σ, how strong the initial noise is, and where a sigma schedule
/// begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Convention {
    /// diffusers': each class rounds timesteps or not in its own way; initial noise has the first
    /// σ, with leading spacing `√(1 + σ²)`; most schedules cover what the spacing covers.
    #[default]
    Diffusers,
    /// k-diffusion's, A1111's and stable-diffusion.cpp's: a σ between two timesteps has a fraction
    /// between them; initial noise has the first σ; schedules cover the model's whole range.
    KDiffusion,
    /// ComfyUI's: a σ between two timesteps has the nearest; initial noise at the model's largest σ
    /// is `√(1 + σ²)`; schedules cover the model's whole range.
    ComfyUi,
}

impl Convention {
    /// Whether every timestep that is looked up is rounded.
    pub(crate) fn rounds_timesteps(self) -> bool {
        self == Self::ComfyUi
    }

    /// Whether timesteps are what diffusers' class makes of them.
    pub(crate) fn is_diffusers(self) -> bool {
        self == Self::Diffusers
    }
}
