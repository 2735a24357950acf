//! What does not fit the autoencoder is refused before anything is computed.

use burn::tensor::{DType, Device, FloatDType, Tensor};
use sd_core::{Autoencoder, Error, RecordedNoise, SeededNoise};
use sd_fixtures::Fixture;
use sd_models::Files;
use sd_models::vae::Vae;

fn open(folder: &str, dtype: FloatDType) -> Vae {
    let files = Files::directory(sd_fixtures::path(""));
    Vae::open(&files, folder, &Device::flex(), dtype).expect("the model opens")
}

fn zeros(shape: [usize; 4]) -> Tensor<4> {
    Tensor::zeros(shape, &Device::flex())
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    let vae = open("vae_four", FloatDType::F32);
    assert_eq!((vae.spec().factor, vae.spec().latent_channels), (8, 4));
    for shape in [
        [0, 3, 8, 8],
        [1, 4, 8, 8],
        [1, 3, 12, 8],
        [1, 3, 8, 0],
        [1, 3, 8, 9],
    ] {
        let result = vae.encode(zeros(shape), None);
        assert!(
            matches!(result, Err(Error::Shape { what: "image", .. })),
            "{shape:?}"
        );
    }
    for shape in [[0, 4, 1, 1], [1, 3, 1, 1], [1, 4, 0, 1], [1, 4, 1, 0]] {
        let result = vae.decode(zeros(shape));
        assert!(
            matches!(result, Err(Error::Shape { what: "latent", .. })),
            "{shape:?}"
        );
    }
    let half = zeros([1, 4, 1, 1]).cast(FloatDType::F16);
    let result = vae.decode(half);
    assert!(matches!(
        result,
        Err(Error::InvalidArgument {
            name: "latent dtype",
            ..
        })
    ));
    assert_eq!(
        vae.decode(zeros([2, 4, 1, 3])).expect("decodes").dims(),
        [2, 3, 8, 24]
    );
}

#[test]
fn noise_that_does_not_fit_is_refused() {
    let vae = open("vae_four", FloatDType::F32);
    let mut two_images = SeededNoise::new(0, 2);
    let noise = Some(&mut two_images as _);
    assert!(vae.encode(zeros([1, 3, 8, 8]), noise).is_err());
    let mut none_left = RecordedNoise::default();
    let noise = Some(&mut none_left as _);
    assert!(vae.encode(zeros([1, 3, 8, 8]), noise).is_err());
}

#[test]
fn half_precision_runs_and_is_near() {
    let (vae, fixture) = (open("vae_two", FloatDType::F16), Fixture::open("vae_two"));
    let half = |key: &str| {
        let tensor = fixture.tensor::<4>(key, &Device::flex());
        tensor.cast(FloatDType::F16)
    };
    let image = vae.decode(half("1.latent")).expect("decodes");
    assert_eq!(image.dtype(), DType::F16);
    fixture.assert_tensor("1.out", image.cast(FloatDType::F32), 0.01);
    let mut noise = RecordedNoise::new([fixture.data("1.noise")]);
    let sample = vae
        .encode(half("1.image"), Some(&mut noise))
        .expect("encodes");
    assert_eq!(sample.dtype(), DType::F16);
    fixture.assert_tensor("1.sample", sample.cast(FloatDType::F32), 0.01);
}
