//! How far a device may be from diffusers, in each precision.

use sd_pipeline::FloatDType;

/// The largest differences from diffusers in f32 that are allowed.
pub(crate) struct Tolerance {
    /// Of text embeddings, which are of the order of 1 to 3.
    pub(crate) text: f64,
    /// Of the U-Net's output, of the order of 1.
    pub(crate) unet: f64,
    /// Of the autoencoder's latents and pixels, of the order of 1.
    pub(crate) vae: f64,
    /// Of the final latents, of the order of 1 to 4: errors of every step have added up.
    pub(crate) latents: f64,
    /// PSNR of the picture in dB, at least.
    pub(crate) picture: f64,
    /// The distance between neighbouring numbers, relative.
    pub(crate) epsilon: f64,
}

/// The tolerances of one precision.
///
/// A mistake in a formula shows as a difference of 10⁻² or more in these networks, whose
/// activations are of the order of 1, and a wrong ε of a normalisation as 10⁻³.
pub(crate) fn of(dtype: FloatDType) -> Tolerance {
    match dtype {
        // 11 bits: 5e-4 relative in every layer's result, and about thirty layers one behind the
        // other, whose errors add up as a random walk does.
        FloatDType::F16 => Tolerance {
            text: 1e-2,
            unet: 1e-2,
            vae: 1e-2,
            latents: 2e-2,
            picture: 60.0,
            epsilon: 1.0 / 1024.0,
        },
        // 8 bits: eight times as far as f16, and the weights, stored in f16, are rounded too.
        FloatDType::BF16 => Tolerance {
            text: 8e-2,
            unet: 8e-2,
            vae: 8e-2,
            latents: 2e-1,
            picture: 45.0,
            epsilon: 1.0 / 128.0,
        },
        // 24 bits. Only the order of the sums differs between devices.
        _ => Tolerance {
            text: 1e-5,
            unet: 1e-4,
            vae: 1e-4,
            latents: 1e-4,
            picture: 70.0,
            epsilon: 1.0 / 8_388_608.0,
        },
    }
}
