//! A picture in strips against the picture whole.

use burn::tensor::Tensor;
use sd_pipeline::core::Noise;
use sd_pipeline::models::Files;
use sd_pipeline::models::vae::{StripRows, Vae};
use sd_pipeline::{Autoencoder, SeededNoise, burn};

use crate::report::Log;
use crate::{Place, tolerance};

pub(crate) fn check(place: &Place, log: &mut Log) {
    for name in ["vae_four", "vae_two"] {
        let files = Files::directory(sd_fixtures::path(""));
        let vae = Vae::open(&files, name, &place.device, place.dtype).expect("the model opens");
        let spec = vae.spec();
        let noise = |shape: [usize; 4]| {
            let noise = SeededNoise::new(3, shape[0]).normal(shape).expect("noise");
            Tensor::<4>::from_data(noise, &place.device).cast(spec.dtype)
        };
        let (h, w) = (9, 5);
        let latent = noise([1, spec.latent_channels, h, w]);
        let image = noise([1, 3, h * spec.factor, w * spec.factor]);
        let expected = [
            vae.model().decode(latent.clone()),
            vae.model().encode(image.clone()).mean,
        ];
        let mut worst = 0f64;
        for (rows, attention) in [(1, 1), (4, 2), (7, 9)] {
            let strips = StripRows {
                rows: vec![rows; vae.config().block_out_channels.len()],
                attention,
            };
            let decoded = vae.model().decode_strips(latent.clone(), &strips);
            let encoded = vae.model().encode_strips(image.clone(), &strips);
            let found = [
                decoded.expect("it decodes"),
                encoded.expect("it encodes").mean,
            ];
            for (found, expected) in found.into_iter().zip(&expected) {
                worst = worst.max(largest(found - expected.clone()));
            }
        }
        let tolerance = tolerance::of(spec.dtype).vae;
        log.at_most(format!("strips {name}"), worst, tolerance);
    }
}

fn largest(difference: Tensor<4>) -> f64 {
    let values = difference.try_into_vec_as::<f32>().expect("values");
    let largest = values.into_iter().map(|x| f64::from(x.abs()));
    largest.fold(0.0, |worst, x| {
        if x.is_nan() {
            f64::INFINITY
        } else {
            worst.max(x)
        }
    })
}
