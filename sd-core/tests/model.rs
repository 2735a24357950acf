//! The words of the crate say the same thing in every scale and parameterisation.

use burn::tensor::{Device, Tensor};
use proptest::prelude::*;
use sd_core::{Conditioning, Error, Level, Model, NetworkOutput, NoiseSchedule, PredictionType};

fn row(values: [f32; 4]) -> Tensor<4> {
    Tensor::<1>::from_floats(values, &Device::flex()).reshape([1, 1, 2, 2])
}

fn close(found: Tensor<4>, expected: &Tensor<4>, tolerance: f64) -> bool {
    let difference = (found - expected.clone())
        .abs()
        .into_data()
        .try_into_vec::<f32>();
    let difference = difference.expect("f32");
    difference.iter().all(|d| f64::from(*d) <= tolerance)
}

proptest! {
    /// A network that knows x₀ and ε, speaking any of the three parameterisations and asked in
    /// either scale, must be understood to say just that.
    #[test]
    fn every_parameterisation_gives_back_clean_latent_and_noise(
        t in 0usize..1000,
        exploding in any::<bool>(),
        clean in prop::array::uniform4(-2f32..2.0),
        noise in prop::array::uniform4(-3f32..3.0),
    ) {
        let schedule = NoiseSchedule::stable_diffusion();
        let preserving = schedule.level(t);
        let level = if exploding {
            Level::variance_exploding(t as f64, preserving.sigma / preserving.alpha)
        } else {
            preserving
        };
        let (clean, noise) = (row(clean), row(noise));
        let x = clean.clone() * level.alpha + noise.clone() * level.sigma;
        let input = clean.clone() * preserving.alpha + noise.clone() * preserving.sigma;
        for kind in [PredictionType::Epsilon, PredictionType::VPrediction, PredictionType::Sample] {
            let raw = match kind {
                PredictionType::Epsilon => noise.clone(),
                PredictionType::VPrediction => {
                    noise.clone() * preserving.alpha - clean.clone() * preserving.sigma
                }
                _ => clean.clone(),
            };
            let mut network = |x: Tensor<4>, at: f64| {
                assert_eq!(at, t as f64);
                assert!(close(x, &input, 1e-5), "the network's input has unit variance");
                Ok(NetworkOutput { guided: raw.clone(), uncond: Some(raw.clone()) })
            };
            let mut model = Model::new(kind, &mut network);
            let found = model.predict(&x, level).unwrap();
            prop_assert_eq!(model.evaluations(), 1);
            // x₀ from ε divides by alpha (0.068 at t = 999), ε from x₀ by sigma (0.029 at t = 0);
            // f32's rounding of x grows by as much.
            prop_assert!(close(found.denoised, &clean, 2e-5), "{kind:?}");
            prop_assert!(close(found.noise, &noise, 5e-5), "{kind:?}");
            prop_assert!(close(found.uncond_denoised.unwrap(), &clean, 2e-5));
        }
    }
}

#[test]
fn conditioning_joins_only_what_fits() {
    let context = |n, l, w| Conditioning::new(Tensor::zeros([n, l, w], &Device::flex()));
    let joined = context(1, 7, 3).concat(context(2, 7, 3)).unwrap();
    assert_eq!((joined.len(), joined.context.dims()), (3, [3, 7, 3]));
    let error = context(1, 7, 3).concat(context(1, 8, 3)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "context has shape [1, 8, 3], expected [n, 7, 3]"
    );
    let mut pooled = context(1, 7, 3);
    pooled.pooled = Some(Tensor::zeros([1, 5], &Device::flex()));
    let error = pooled.concat(context(1, 7, 3)).unwrap_err();
    assert!(
        matches!(error, Error::Shape { what: "pooled", .. }),
        "{error}"
    );
}
