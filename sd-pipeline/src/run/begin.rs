//! The latent that a run begins with.

use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use image::{GrayImage, RgbImage};
use sd_core::{Level, Mask, Noise, Plan, SeededNoise, placed};

use crate::finite::is_finite;
use crate::memory::{ENCODE, Phases};
use crate::synchronized::synchronized;
use crate::{Pipeline, Request, Result, Start};

/// Noise of unit variance, f32.
pub(super) fn noise(
    noise: &mut SeededNoise,
    shape: [usize; 4],
    device: &Device,
) -> Result<Tensor<4>> {
    Ok(Tensor::from_data(
        noise.normal(shape)?,
        (device, DType::F32),
    ))
}

/// A check that the run begins with what the denoiser needs: it was trained on that.
pub(super) fn check(pipeline: &Pipeline, request: &Request) -> Result<()> {
    let spec = pipeline.denoiser.spec();
    if spec.embeds_aesthetic_score && matches!(request.start, Start::Noise) {
        let expected = "a refiner begins with a picture (Start::Picture) or with the latents of a \
                        base model (Start::Handover, Pipeline::generate_refined)";
        return Err(sd_core::Error::invalid("start", "noise", expected).into());
    }
    Ok(())
}

/// Takes the `draws` of `noise` that are behind latents handed over.
pub(super) fn skip(
    noise: &mut SeededNoise,
    draws: u64,
    shape: [usize; 4],
    plan: &Plan,
) -> Result<()> {
    // No solver draws as often in one step; a file that claims it would keep us drawing.
    let most = 16 * (plan.stages.len() as u64 + 2);
    if draws > most {
        let expected = format!("expected at most {most}");
        return Err(sd_core::Error::invalid("draws of the handover", draws, expected).into());
    }
    while noise.draws() < draws {
        noise.normal(shape)?;
    }
    Ok(())
}

/// A sample of the clean latents of `picture`, one for each of the run's images, f32, on the
/// denoiser's device. Takes a draw of `noise`.
pub(super) fn encoded(
    pipeline: &Pipeline,
    picture: &RgbImage,
    count: usize,
    noise: &mut SeededNoise,
    phases: &Phases,
) -> Result<Tensor<4>> {
    let spec = pipeline.autoencoder.spec();
    let (width, height) = picture.dimensions();
    let values = picture.as_raw().iter();
    let values: Vec<f32> = values.map(|v| f32::from(*v) / 127.5 - 1.0).collect();
    let data = TensorData::new(values, [1, height as usize, width as usize, 3]);
    let latents = phases.watch(ENCODE, || {
        synchronized(&[&spec.device], "encoding the picture", || {
            let pixels = Tensor::<4>::from_data(data, (&spec.device, DType::F32));
            let pixels = pixels.permute([0, 3, 1, 2]).repeat_dim(0, count);
            let autoencoder = pipeline.autoencoder.get()?;
            let latents = autoencoder.encode(pixels.cast(spec.dtype), Some(noise))?;
            match is_finite(&latents)? {
                true => Ok(latents),
                false => Err(sd_core::Error::NotFinite {
                    component: "the autoencoder",
                    step: None,
                    dtype: spec.dtype.into(),
                }
                .into()),
            }
        })
    })?;
    let device = &pipeline.denoiser.spec().device;
    Ok(placed(latents, device, FloatDType::F32)?)
}

/// `clean` with `noise` on it, at `level`.
pub(super) fn noised(clean: &Tensor<4>, noise: &Tensor<4>, level: Level) -> Tensor<4> {
    clean.clone() * level.alpha + noise.clone() * level.sigma
}

/// The layer that keeps `known` where `mask`, of the picture's size, is black.
pub(super) fn mask(mask: &GrayImage, known: &Tensor<4>) -> Mask {
    let [_, _, h, w] = known.dims();
    let values = bilinear(mask, [h, w]);
    let data = TensorData::new(values, [1, 1, h, w]);
    Mask {
        mask: Tensor::from_data(data, (&known.device(), DType::F32)),
        known: known.clone(),
    }
}

/// `mask` at the latent's size, within 0 and 1: linear between the four nearest pixels of each
/// latent pixel's centre, as torch's `interpolate` without antialiasing and ComfyUI do it.
fn bilinear(mask: &GrayImage, [h, w]: [usize; 2]) -> Vec<f32> {
    let (width, height) = mask.dimensions();
    let place = |i: usize, to: usize, from: u32| {
        let at = (i as f64 + 0.5) * f64::from(from) / to as f64 - 0.5;
        let at = at.clamp(0.0, f64::from(from - 1));
        let low = at.floor();
        let high = (low + 1.0).min(f64::from(from - 1));
        (low as u32, high as u32, (at - low) as f32)
    };
    let at = |x: u32, y: u32| f32::from(mask.get_pixel(x, y).0[0]) / 255.0;
    let mix = |a: f32, b: f32, share: f32| a + (b - a) * share;
    let value = |i: usize| {
        let (left, right, x) = place(i % w, w, width);
        let (top, bottom, y) = place(i / w, h, height);
        let above = mix(at(left, top), at(right, top), x);
        mix(above, mix(at(left, bottom), at(right, bottom), x), y)
    };
    (0..h * w).map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_linear_between_its_pixels() {
        let ramp = GrayImage::from_fn(16, 8, |x, _| image::Luma([(x * 17) as u8]));
        // Centres of eight pixels lie between the fourth and the fifth.
        let found = bilinear(&ramp, [1, 2]);
        let expected = [3.5f32, 11.5].map(|x| x * 17.0 / 255.0);
        assert!(
            found
                .iter()
                .zip(expected)
                .all(|(a, b)| (a - b).abs() < 1e-6),
            "{found:?}"
        );
    }
}
