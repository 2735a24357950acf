use sd_core::Extension;

/// The class label of a branch's conditioning, an [`Extension`] for a network that embeds one.
///
/// In Stable Diffusion's upscaler it is the noise level of the small picture beside the latent: the
/// training timestep, from 0 to 999, whose noise was added to it (Ho et al. 2021, arXiv:2106.15282,
/// section 4; diffusers' `StableDiffusionUpscalePipeline` takes 20).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClassLabel(pub usize);

impl Extension for ClassLabel {
    const NAME: &'static str = "a class label";
}
