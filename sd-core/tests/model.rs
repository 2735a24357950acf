//! The words of the crate say the same thing in every scale and parameterization.

use burn::tensor::{Device, Tensor};
use proptest::prelude::*;
use sd_core::{
    Cancel, ClassifierFree, Conditioning, Denoiser, DenoiserSpec, Error, Extension, Guidance,
    Guided, Level, Masked, Model, NoiseSchedule, Parameterization, SizeConditioning, TextEmbedding,
    each_branch,
};
use std::sync::Arc;

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

fn text(n: usize, tokens: usize, width: usize) -> TextEmbedding {
    TextEmbedding::new(Tensor::zeros([n, tokens, width], &Device::flex()))
}

/// A network that answers every branch with `raw` for the input and timestep it expects.
struct Knowing {
    spec: DenoiserSpec,
    input: Tensor<4>,
    t: f64,
    raw: Tensor<4>,
}

impl Denoiser for Knowing {
    fn spec(&self) -> &DenoiserSpec {
        &self.spec
    }

    fn prepare(
        self: Arc<Self>,
        branches: Vec<Conditioning>,
    ) -> sd_core::Result<Box<dyn sd_core::Network>> {
        each_branch("a test", branches, move |x, t, _| {
            assert_eq!(t, self.t);
            assert!(close(x.clone(), &self.input, 1e-5), "the input's scale");
            Ok(self.raw.clone())
        })
    }
}

proptest! {
    /// A network that knows x₀ and ε, speaking any parameterization and asked in any scale, must be
    /// understood to say just that.
    #[test]
    fn every_parameterization_gives_back_clean_latent_and_noise(
        t in 0usize..1000,
        scale in 0usize..3,
        clean in prop::array::uniform4(-2f32..2.0),
        noise in prop::array::uniform4(-3f32..3.0),
    ) {
        let preserving = NoiseSchedule::stable_diffusion().level(t);
        let by = |factor: f64| Level {
            alpha: preserving.alpha * factor,
            sigma: preserving.sigma * factor,
            ..preserving
        };
        let (alpha, sigma) = (preserving.alpha, preserving.sigma);
        let level = by([1.0, 1.0 / alpha, 1.0 / (alpha + sigma)][scale]);
        let (clean, noise) = (row(clean), row(noise));
        let at = |level: Level| clean.clone() * level.alpha + noise.clone() * level.sigma;
        let data = 0.5;
        let edm = (alpha * data).hypot(sigma);
        let v = noise.clone() * alpha - clean.clone() * sigma;
        // Karras et al. 2022, table 1: x₀ = c_skip·x + c_out·F(c_in·x).
        let f = (clean.clone() - at(by(1.0 / alpha)) * (data * data * alpha * alpha / (edm * edm)))
            * (edm / (sigma * data));
        let kinds = [
            (Parameterization::Epsilon, 1.0, noise.clone()),
            (Parameterization::VPrediction, 1.0, v),
            (Parameterization::Sample, 1.0, clean.clone()),
            (Parameterization::Flow, alpha + sigma, noise.clone() - clean.clone()),
            (Parameterization::Edm { sigma_data: data, v_prediction: false }, edm, f.clone()),
            (Parameterization::Edm { sigma_data: data, v_prediction: true }, edm, -f),
        ];
        for (kind, n, raw) in kinds {
            let network = Arc::new(Knowing {
                spec: DenoiserSpec::new(&Device::flex()),
                input: at(by(1.0 / n)),
                t: t as f64,
                raw,
            });
            let network = network.prepare(vec![text(1, 7, 3).into(); 2]).unwrap();
            let mut guide = ClassifierFree { scale: 3.0 }.start();
            let mut model = Guided::new(&*network, &mut *guide, kind);
            let found = model.predict(&at(level), level).unwrap();
            prop_assert_eq!(model.evaluations(), 1);
            // x₀ from ε divides by alpha (0.068 at t = 999), ε from x₀ by sigma (0.029 at t = 0);
            // f32's rounding of x grows by as much. Both branches say the same, but for rounding
            // that guidance multiplies.
            prop_assert!(close(found.denoised, &clean, 5e-5), "{kind:?}");
            prop_assert!(close(found.noise, &noise, 1e-4), "{kind:?}");
            prop_assert!(close(found.uncond_denoised.unwrap(), &clean, 5e-5), "{kind:?}");
        }
    }
}

#[test]
fn a_masked_model_knows_the_kept_part_and_mixes_what_the_mask_is_soft_for() {
    let (clean, noise) = (row([1.0, -1.0, 0.5, 2.0]), row([0.3, 0.1, -0.7, 1.0]));
    let known = row([0.0, 4.0, 4.0, 4.0]);
    let mask = row([1.0, 0.0, 0.25, 1.0]);
    let level = NoiseSchedule::stable_diffusion().level(700);
    let x = clean.clone() * level.alpha + noise.clone() * level.sigma;
    let kept = known.clone() * level.alpha + noise.clone() * level.sigma;
    let network = Arc::new(Knowing {
        spec: DenoiserSpec::new(&Device::flex()),
        input: kept.clone() + (x.clone() - kept) * mask.clone(),
        t: 700.0,
        raw: noise.clone(),
    });
    let network = network.prepare(vec![text(1, 7, 3).into()]).unwrap();
    let mut guide = sd_core::Unguided.start();
    let guided = Guided::new(&*network, &mut *guide, Parameterization::Epsilon);
    let mut model = Masked::new(guided, mask, known, noise.clone()).unwrap();
    let found = model.predict(&x, level).unwrap();
    // At the soft place the network sees a quarter of its own and three quarters of the known
    // latent, and of what it makes of that a quarter counts: 4 − (4 − (4 − 3.5/4))/4.
    let expected = row([1.0, 4.0, 4.0 - 3.5 / 16.0, 2.0]);
    assert!(
        close(found.denoised.clone(), &expected, 1e-4),
        "{}",
        found.denoised
    );
    let again = model.read(&x, level, found.raw);
    assert!(close(again.denoised, &expected, 1e-4));
    assert!(close(
        found.noise * level.sigma + expected * level.alpha,
        &x,
        1e-5
    ));
}

#[test]
fn text_joins_only_what_fits() {
    let joined = TextEmbedding::cat(vec![text(1, 7, 3), text(2, 7, 3)]).unwrap();
    assert_eq!((joined.len(), joined.tokens.dims()), (3, [3, 7, 3]));
    let error = TextEmbedding::cat(vec![text(1, 7, 3), text(1, 8, 3)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "text tokens has shape [1, 8, 3], expected [n, 7, 3]"
    );
    let pooled = text(1, 7, 3).with_pooled(Tensor::zeros([1, 5], &Device::flex()));
    let error = TextEmbedding::cat(vec![pooled, text(1, 7, 3)]).unwrap_err();
    let what = "pooled text embedding";
    assert!(
        matches!(error, Error::Shape { what: found, .. } if found == what),
        "{error}"
    );
}

#[derive(Debug, Clone, PartialEq)]
struct Weights(Vec<f32>);

impl Extension for Weights {
    const NAME: &'static str = "the weights of this test";

    fn repeat(self, count: usize) -> Self {
        Self(self.0.repeat(count))
    }
}

#[test]
fn what_nobody_reads_is_an_error_that_names_it() {
    let mut conditioning = Conditioning::new(text(1, 7, 3));
    assert!(conditioning.clone().finish("a network").is_ok());
    conditioning.size = Some(SizeConditioning::of([512, 640]));
    conditioning.guidance_scale = Some(7.5);
    conditioning.extensions.insert(Weights(vec![1.0, 2.0]));
    let error = conditioning.clone().finish("a network").unwrap_err();
    assert_eq!(
        error.to_string(),
        "a network does not read sizes and crops, an embedded guidance scale, the weights of this \
         test"
    );
    let mut three = conditioning.repeat(3).unwrap();
    assert_eq!(three.len(), 3);
    let read = three.extensions.take::<Weights>().unwrap();
    assert_eq!(read, Weights([1.0, 2.0].repeat(3)));
    assert!(three.extensions.take::<Weights>().is_none());
    let network = Arc::new(Knowing {
        spec: DenoiserSpec::new(&Device::flex()),
        input: row([0.0; 4]),
        t: 0.0,
        raw: row([0.0; 4]),
    });
    let error = network.prepare(vec![three.clone()]).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Unread {
                reader: "a test",
                ..
            }
        ),
        "{error}"
    );
    three.size = None;
    three.guidance_scale = None;
    assert!(three.finish("a network").is_ok());
}

#[test]
fn sizes_stay_exact_when_tensors_become_half() {
    let mut conditioning = Conditioning::new(text(1, 7, 3));
    conditioning.size = Some(SizeConditioning {
        crop: [4097, 3],
        ..SizeConditioning::of([4099, 2051])
    });
    let half = burn::tensor::FloatDType::BF16;
    let conditioning = conditioning.to(&Device::flex(), half).unwrap();
    let numbers = conditioning.size.unwrap().numbers();
    assert_eq!(numbers, [4099.0, 2051.0, 4097.0, 3.0, 4099.0, 2051.0]);
}

#[test]
fn a_pulled_brake_stops_the_model_and_lets_go_again() {
    let cancel = Cancel::new();
    let network = Arc::new(Knowing {
        spec: DenoiserSpec::new(&Device::flex()),
        input: row([0.0; 4]),
        t: 0.0,
        raw: row([0.0; 4]),
    });
    let network = network.prepare(vec![text(1, 7, 3).into()]).unwrap();
    let mut guide = sd_core::Unguided.start();
    let kind = Parameterization::Epsilon;
    let mut model = Guided::new(&*network, &mut *guide, kind).cancelled_by(&cancel);
    let level = Level::variance_preserving(0.0, 0.5);
    cancel.clone().pull();
    let error = model.predict(&row([0.0; 4]), level).unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error}");
    assert_eq!(model.evaluations(), 0);
    assert!(cancel.release() && !cancel.is_pulled());
    assert!(model.predict(&row([0.0; 4]), level).is_ok());
}

proptest! {
    /// σ of a timestep and the timestep of that σ belong together, whatever the schedule.
    #[test]
    fn timesteps_and_sigmas_are_inverse(t in 0f64..999.0, shift in 0.2f64..8.0) {
        let flow = NoiseSchedule::flow(shift).unwrap();
        let short = NoiseSchedule::flow_in(shift, 500).unwrap();
        prop_assert!((short.level(499).t - 500.0).abs() < 1e-9);
        let edm = NoiseSchedule::edm(0.002, 80.0).unwrap();
        for (schedule, t) in [(&flow, 1.0 + t), (&short, 1.0 + t / 2.0), (&edm, -1.5 + t / 400.0)] {
            prop_assert!((schedule.timestep(schedule.sigma(t)) - t).abs() < 1e-9);
        }
        // For β whole timesteps only: between them σ is linear one way and ln σ the other.
        let betas = NoiseSchedule::stable_diffusion();
        prop_assert!((betas.timestep(betas.sigma(t.round())) - t.round()).abs() < 1e-3);
        prop_assert!((flow.shifted(1.0) - 1.0).abs() < 1e-12);
        let level = flow.level(499);
        prop_assert!((level.alpha + level.sigma - 1.0).abs() < 1e-12);
    }
}
