/// Numbers that a kind of pipeline takes where a program gives none: diffusers' defaults of that
/// pipeline class.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Defaults {
    /// Steps of the scheduler.
    pub steps: usize,
    /// Guidance scale.
    pub guidance_scale: f64,
    /// Guidance scale of the picture, of a network that sees one beside the latent.
    pub image_guidance_scale: f64,
    /// Share of the run that is taken of a picture to start from.
    pub strength: f64,
}

impl Defaults {
    /// Those of `StableDiffusionPipeline`, and of pipelines made of components.
    pub(crate) const STABLE_DIFFUSION: Self = Self {
        steps: 50,
        guidance_scale: 7.5,
        image_guidance_scale: 1.5,
        strength: 0.8,
    };
}

/// All that the kind of a pipeline says to its runs.
#[derive(Debug, Clone)]
pub(crate) struct Kind {
    pub(crate) defaults: Defaults,
    /// The things that go into the channels beside the latent, where there are such.
    pub(crate) beside: &'static str,
    /// `true` where the latent of the picture to change is scaled as all others are.
    pub(crate) scales_picture: bool,
    /// The hint that it is a model for few steps.
    pub(crate) distilled: Option<crate::recipe::Distilled>,
}

impl Default for Kind {
    fn default() -> Self {
        Self {
            defaults: Defaults::STABLE_DIFFUSION,
            beside: "a mask and a picture",
            scales_picture: false,
            distilled: None,
        }
    }
}
