//! A U-Net of nine channels, Stable Diffusion's for inpainting: beside the latent it sees a mask and
//! the latent of the picture without what the mask hides.
//!
//! ```no_run
//! # use sd_pipeline::{GrayImage, OpenOptions, Pipeline, Request, RgbImage, device, write_png};
//! # fn draw(picture: &RgbImage, mask: &GrayImage) -> sd_pipeline::Result<()> {
//! let options = OpenOptions::new(&device("flex")?);
//! let pipeline = Pipeline::open("stable-diffusion-inpainting", &options)?;
//! let request = Request {
//!     concat: Some(outside::nine_channels::beside(&pipeline, picture, mask)?),
//!     ..Request::new("a lighthouse in a storm")
//! };
//! write_png(&pipeline.generate(&request)?[0], "lighthouse.png")?;
//! # Ok(())
//! # }
//! ```

use sd_pipeline::burn::tensor::{DType, Tensor, TensorData};
use sd_pipeline::{GrayImage, Pipeline, Result, RgbImage};

/// The five channels `[1, 5, h, w]` beside the latent of a picture whose `mask`, of the same size,
/// is white where it is to be drawn anew.
///
/// # Errors
/// Those of the autoencoder.
pub fn beside(pipeline: &Pipeline, picture: &RgbImage, mask: &GrayImage) -> Result<Tensor<4>> {
    let spec = pipeline.autoencoder.spec();
    let [width, height] = [picture.width(), picture.height()].map(|side| side as usize);
    let hidden = |x: u32, y: u32| mask.get_pixel(x, y).0[0] > 127;

    // What is hidden is grey to the autoencoder.
    let seen = picture.enumerate_pixels().flat_map(|(x, y, pixel)| {
        let value = |v: u8| f32::from(v) / 127.5 - 1.0;
        pixel.0.map(|v| if hidden(x, y) { 0.0 } else { value(v) })
    });
    let seen = TensorData::new(seen.collect::<Vec<f32>>(), [1, height, width, 3]);
    let seen = Tensor::<4>::from_data(seen, (&spec.device, DType::F32)).permute([0, 3, 1, 2]);
    let latent = pipeline
        .autoencoder
        .get()?
        .encode(seen.cast(spec.dtype), None)?;

    // The mask at the latent's size, each of its pixels that of the corner (diffusers).
    let [_, _, h, w] = latent.dims();
    let at = |i: usize, side: usize| (i * spec.factor).min(side - 1) as u32;
    let value = |i: usize| f32::from(u8::from(hidden(at(i % w, width), at(i / w, height))));
    let mask = TensorData::new((0..h * w).map(value).collect(), [1, 1, h, w]);
    let mask = Tensor::<4>::from_data(mask, (&spec.device, DType::F32)).cast(spec.dtype);
    Ok(Tensor::cat(vec![mask, latent], 1))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use safetensors::{SafeTensors, tensor::TensorView};
    use sd_pipeline::Request;
    use sd_tiny::micro::Family;
    use serde_json::Value;

    use super::*;
    use crate::testing::{self, difference, files, micro, open, request};

    /// The micro model with five input channels more, whose weights are zeros, as they are before
    /// training, or copies of the others.
    fn nine_channels(zeros: bool) -> Pipeline {
        let mut files: HashMap<_, _> = files(Family::Sd1).into_iter().collect();
        let config = files.get_mut("unet/config.json").unwrap();
        let mut settings: Value = serde_json::from_slice(config).unwrap();
        settings["in_channels"] = 9.into();
        *config = serde_json::to_vec(&settings).unwrap();

        let weights = files
            .get_mut("unet/diffusion_pytorch_model.safetensors")
            .unwrap();
        let bytes = std::mem::take(weights);
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let first = tensors.tensor("conv_in.weight").unwrap();
        let [channels, 4, 3, 3] = first.shape() else {
            panic!("{:?}", first.shape())
        };
        // f16, nine numbers for each pair of channels.
        let row = 4 * 9 * size_of::<u16>();
        let wider = first.data().chunks(row).flat_map(|row| {
            let more = row.iter().cycle().take(row.len() / 4 * 5);
            row.iter()
                .copied()
                .chain(more.map(|byte| if zeros { 0 } else { *byte }))
        });
        let wider: Vec<u8> = wider.collect();
        let wider = TensorView::new(first.dtype(), vec![*channels, 9, 3, 3], &wider).unwrap();
        let all = tensors
            .tensors()
            .into_iter()
            .map(|(name, tensor)| match name.as_str() {
                "conv_in.weight" => (name, wider.clone()),
                _ => (name, tensor),
            });
        *weights = safetensors::serialize(all, None).unwrap();

        open(files)
    }

    fn drawn(pipeline: &Pipeline, concat: Option<Tensor<4>>) -> Tensor<4> {
        testing::drawn(
            pipeline,
            &Request {
                concat,
                ..request()
            },
        )
    }

    /// A picture, and a mask that hides all right of `column`.
    fn picture(column: u32) -> (RgbImage, GrayImage) {
        let picture = RgbImage::from_fn(64, 64, |x, y| [4 * x as u8, 4 * y as u8, 99].into());
        let mask = GrayImage::from_fn(64, 64, |x, _| [if x < column { 0 } else { 255 }].into());
        (picture, mask)
    }

    #[test]
    fn what_stands_beside_the_latent_decides_what_is_drawn() {
        let plain = drawn(&micro(), None);
        let untrained = nine_channels(true);
        let trained = nine_channels(false);
        let [half, less] = [32, 16].map(|column| {
            let (picture, mask) = picture(column);
            beside(&trained, &picture, &mask).unwrap()
        });
        assert_eq!(half.dims(), [1, 5, 8, 8]);
        let mask = half.clone().narrow(1, 0, 1).sum().into_scalar::<f32>();
        assert_eq!(mask, 32.0);

        assert!(difference(&drawn(&untrained, Some(half.clone())), &plain) < 1e-4);
        let [half, less] = [half, less].map(|beside| drawn(&trained, Some(beside)));
        assert!(difference(&half, &plain) > 1e-2);
        assert!(difference(&half, &less) > 1e-2);
    }

    #[test]
    fn channels_that_are_missing_or_of_no_use_are_refused_by_name() {
        let nine = nine_channels(false);
        let refused = |pipeline: &Pipeline, concat| {
            let request = Request {
                concat,
                ..request()
            };
            pipeline.start(&request).unwrap_err().to_string()
        };
        let error = refused(&nine, None);
        assert!(
            error.starts_with("concat is absent; this network takes 5 channels beside the latent"),
            "{error}"
        );
        let (picture, mask) = picture(32);
        let beside = beside(&nine, &picture, &mask).unwrap();
        let error = refused(&nine, Some(beside.clone().narrow(1, 0, 4)));
        assert!(
            error.contains("this network takes 5 channels beside the latent"),
            "{error}"
        );
        let error = refused(&micro(), Some(beside));
        assert_eq!(error, "the U-Net does not read channels beside the latent");
    }
}
