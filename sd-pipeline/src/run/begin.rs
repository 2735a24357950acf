//! The latent that a run begins with.

use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use image::RgbImage;
use sd_core::{Autoencoder, Level, Noise, Plan, SeededNoise, placed};

use crate::control;
use crate::finite::is_finite;
use crate::memory::{ENCODE, Phases};
use crate::synchronized::synchronized;
use crate::{MaskRule, PictureStart, Pipeline, Request, Result, Start};

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

/// A check that the run begins with what the denoiser needs, for it was trained on that, and that the
/// request does not contradict itself.
pub(super) fn check(pipeline: &Pipeline, request: &Request) -> Result<()> {
    control::check(pipeline, request)?;
    let spec = pipeline.denoiser.spec();
    if spec.embeds_aesthetic_score && matches!(request.start, Start::Noise) {
        let expected = "a refiner begins with a picture (Start::Picture) or with the latents of a \
                        base model (Start::Handover, Pipeline::generate_refined)";
        return Err(sd_core::Error::invalid("start", "noise", expected).into());
    }
    for prompt in &request.image_prompts {
        prompt.check(pipeline)?;
    }
    let Start::Picture(PictureStart {
        inpaint: Some(inpaint),
        ..
    }) = &request.start
    else {
        return Ok(());
    };
    if inpaint.rule == MaskRule::Soft && pipeline.scheduler.steps_each_image() {
        let expected = "expected step or model: this scheduler chooses its own steps";
        return Err(sd_core::Error::invalid("rule", "soft", expected).into());
    }
    if request.end.is_some() {
        let expected = "expected none: the model that goes on knows nothing of the mask";
        return Err(sd_core::Error::invalid("end", "some", expected).into());
    }
    if inpaint.keep_unmasked && request.watermark.is_some() {
        let expected = "expected none: it would change what keep_unmasked keeps";
        return Err(sd_core::Error::invalid("watermark", "some", expected).into());
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

/// The pixels of `picture` in `[-1, 1]`, one after the other.
pub(crate) fn pixels(picture: &RgbImage) -> Vec<f32> {
    let values = picture.as_raw().iter();
    values.map(|v| f32::from(*v) / 127.5 - 1.0).collect()
}

/// The clean latents of pictures of the [`pixels`], one behind the other, one for each of the run's
/// `count` images or one for all, f32, on the denoiser's device: samples, with a draw of `noise`, or
/// the means without.
pub(crate) fn encoded(
    pipeline: &Pipeline,
    pixels: Vec<f32>,
    size: [usize; 2],
    count: usize,
    noise: Option<&mut SeededNoise>,
    phases: &Phases,
) -> Result<Tensor<4>> {
    let noise = noise.map(|noise| noise as &mut dyn Noise);
    latents(pipeline, pixels, size, phases, |autoencoder, pixels| {
        let times = count / pixels.dims()[0].max(1);
        autoencoder.encode(pixels.repeat_dim(0, times), noise)
    })
}

/// The latent `[1, c, h, w]` of a picture to change, as it goes beside the one that is denoised.
pub(super) fn beside(
    pipeline: &Pipeline,
    picture: &RgbImage,
    phases: &Phases,
) -> Result<Tensor<4>> {
    let scales = pipeline.kind.scales_picture;
    let size = [picture.height(), picture.width()].map(|side| side as usize);
    let encode = |autoencoder: &dyn Autoencoder, pixels| match scales {
        true => autoencoder.encode(pixels, None),
        false => autoencoder.encode_unscaled(pixels),
    };
    latents(pipeline, pixels(picture), size, phases, encode)
}

/// What `encode` makes of the [`pixels`] of pictures of one size, as `[n, 3, h, w]`; f32, on the
/// denoiser's device.
fn latents(
    pipeline: &Pipeline,
    pixels: Vec<f32>,
    size: [usize; 2],
    phases: &Phases,
    encode: impl FnOnce(&dyn Autoencoder, Tensor<4>) -> sd_core::Result<Tensor<4>>,
) -> Result<Tensor<4>> {
    let spec = pipeline.autoencoder.spec();
    let [height, width] = size;
    let pictures = pixels.len() / (3 * height * width).max(1);
    let data = TensorData::new(pixels, [pictures, height, width, 3]);
    let latents = phases.watch(ENCODE, || {
        synchronized(&[&spec.device], "encoding the picture", || {
            let pixels = Tensor::<4>::from_data(data, (&spec.device, DType::F32));
            let pixels = pixels.permute([0, 3, 1, 2]);
            let autoencoder = pipeline.autoencoder.get()?;
            let latents = encode(&*autoencoder, pixels.cast(spec.dtype))?;
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
