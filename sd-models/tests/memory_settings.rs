//! Half-precision files that stay half in memory: the same results, half the bytes.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sd_core::{
    Autoencoder, Cancel, Denoiser, NoiseSchedule, Parameterization, TextEmbedding, WeightBytes,
};
use sd_fixtures::Fixture;
use sd_models::unet::{UNet, UNetFiles};
use sd_models::vae::{Vae, VaeFiles};
use sd_models::{
    ClipTextConfig, ClipTextModel, Error, Files, Int8, LayerPacking, LoadOptions, Packing,
    Products, Result, WeightStorage, Weights,
};

fn options(memory: WeightStorage) -> LoadOptions {
    LoadOptions {
        weight_storage: memory,
        ..LoadOptions::new(&Device::flex())
    }
}

fn unet_files(folder: &Path, memory: WeightStorage) -> Result<UNetFiles> {
    UNetFiles::open(
        &Files::directory(folder),
        "",
        Arc::new(NoiseSchedule::stable_diffusion()),
        Parameterization::Epsilon,
        &options(memory),
    )
}

fn unet(folder: &Path, memory: WeightStorage) -> UNet {
    unet_files(folder, memory).unwrap().load().unwrap()
}

fn vae(folder: &Path, memory: WeightStorage) -> Vae {
    let files = VaeFiles::open(&Files::directory(folder), "", &options(memory));
    files.unwrap().load().unwrap()
}

fn predict(unet: &UNet, fixture: &Fixture) -> Tensor<4> {
    let device = Device::flex();
    let t = fixture.settings()[0]["t"].as_f64().unwrap();
    let prompt = TextEmbedding::new(fixture.tensor("0.context", &device));
    let network = Arc::new(unet.clone()).prepare(vec![prompt.into()]).unwrap();
    let x = fixture.tensor("0.x", &device);
    let found = network.predict(&x, t, &[0], &Cancel::new());
    found.unwrap().remove(0)
}

#[track_caller]
fn assert_halved(smallest: WeightBytes, fastest: WeightBytes) {
    assert_eq!(smallest.plain, fastest.plain);
    // Biases stay f32, and panels are filled up to whole registers by either.
    assert!(
        smallest.packed * 2 < fastest.packed * 21 / 20,
        "{smallest:?} of {fastest:?}"
    );
    assert!(
        smallest.packed * 2 >= fastest.packed,
        "{smallest:?} of {fastest:?}"
    );
}

#[test]
fn a_unet_of_halves_predicts_the_same_bits() {
    for name in ["unet_sd1", "unet_sd2", "unet_quiet"] {
        let (folder, fixture) = (sd_fixtures::path(name), Fixture::open(name));
        let fastest = unet(&folder, WeightStorage::F32);
        let smallest = unet(&folder, WeightStorage::AsStored);
        let found = predict(&smallest, &fixture);
        fixture.assert_tensor("0.out", found.clone(), 1e-5);
        assert_eq!(
            found.into_data(),
            predict(&fastest, &fixture).into_data(),
            "{name}"
        );
        assert_halved(smallest.weights(), fastest.weights());
    }
}

#[test]
fn an_autoencoder_of_halves_decodes_and_encodes_the_same_bits() {
    for name in ["vae_four", "vae_two"] {
        let (folder, fixture) = (sd_fixtures::path(name), Fixture::open(name));
        let tensor = |key| fixture.tensor(key, &Device::flex());
        let results = [WeightStorage::F32, WeightStorage::AsStored].map(|memory| {
            let vae = vae(&folder, memory);
            let image = vae.decode(tensor("0.latent")).unwrap();
            let mean = vae.encode(tensor("0.image"), None).unwrap();
            fixture.assert_tensor("0.out", image.clone(), 1e-5);
            fixture.assert_tensor("0.mean", mean.clone(), 1e-5);
            (image.into_data(), mean.into_data(), vae.weights())
        });
        let [fastest, smallest] = results;
        assert_eq!(
            (&fastest.0, &fastest.1),
            (&smallest.0, &smallest.1),
            "{name}"
        );
        assert_halved(smallest.2, fastest.2);
    }
}

#[test]
fn a_text_encoder_of_halves_encodes_the_same_bits() {
    for case in ["quick_gelu", "gelu", "projection"] {
        let files = Files::directory(sd_fixtures::path("clip")).folder(case);
        let fixture = Fixture::open(&format!("clip_{case}"));
        let length = fixture.shape("0.ids")[1];
        let ids: Vec<u32> = fixture.f32("0.ids").iter().map(|&id| id as u32).collect();
        let ids: Vec<Vec<u32>> = ids.chunks(length).map(<[u32]>::to_vec).collect();
        let results = [WeightStorage::F32, WeightStorage::AsStored].map(|memory| {
            let config = ClipTextConfig::read(&files).unwrap();
            let weights = files.weights("model", None).unwrap();
            let (model, bytes) = ClipTextModel::load(config, &weights, &options(memory)).unwrap();
            let out = model.forward(&ids).unwrap();
            fixture.assert_tensor("0.last", out.last_hidden_state.clone(), 5e-6);
            fixture.assert_tensor("0.pooled", out.pooled.clone(), 5e-6);
            (out.last_hidden_state.into_data(), bytes)
        });
        let [fastest, smallest] = results;
        assert_eq!(fastest.0, smallest.0, "{case}");
        assert!(smallest.1.packed < fastest.1.packed);
        assert!(
            smallest.1.plain < fastest.1.plain,
            "the table of tokens is half too"
        );
    }
}

/// Writes the U-Net's fixture with its numbers as `dtype`.
fn convert(dtype: Dtype, encode: impl Fn(f16) -> Vec<u8>) -> tempfile::TempDir {
    let (from, to) = (sd_fixtures::path("unet_sd1"), tempfile::tempdir().unwrap());
    fs::copy(from.join("config.json"), to.path().join("config.json")).unwrap();
    let name = "diffusion_pytorch_model.safetensors";
    let bytes = fs::read(from.join(name)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.iter().map(|(name, view)| {
        let halves = view.data().as_chunks::<2>().0.iter();
        let values = halves.flat_map(|half| encode(f16::from_le_bytes(*half)));
        (name, view.shape().to_vec(), values.collect::<Vec<u8>>())
    });
    let tensors: Vec<_> = tensors.collect();
    let views = (tensors.iter())
        .map(|(name, shape, bytes)| (*name, TensorView::new(dtype, shape.clone(), bytes).unwrap()));
    let file = safetensors::serialize(views, None::<HashMap<String, String>>).unwrap();
    fs::write(to.path().join(name), file).unwrap();
    to
}

#[test]
fn what_a_file_holds_is_held_without_loss() {
    let fixture = Fixture::open("unet_sd1");
    let halves = unet(&sd_fixtures::path("unet_sd1"), WeightStorage::AsStored);
    let expected = predict(&halves, &fixture).into_data();
    let f32 = convert(Dtype::F32, |x| x.to_f32().to_le_bytes().to_vec());
    let f64 = convert(Dtype::F64, |x| x.to_f64().to_le_bytes().to_vec());
    for folder in [f32, f64] {
        for memory in [WeightStorage::F32, WeightStorage::AsStored] {
            let unet = unet(folder.path(), memory);
            assert_eq!(predict(&unet, &fixture).into_data(), expected);
            assert!(unet.weights().packed > halves.weights().packed * 19 / 10);
        }
    }
    let bf16 = convert(Dtype::BF16, |x| {
        bf16::from_f32(x.to_f32()).to_le_bytes().to_vec()
    });
    let [fastest, smallest] =
        [WeightStorage::F32, WeightStorage::AsStored].map(|memory| unet(bf16.path(), memory));
    assert_eq!(
        predict(&fastest, &fixture).into_data(),
        predict(&smallest, &fixture).into_data()
    );
    assert_halved(smallest.weights(), fastest.weights());
}

#[test]
fn a_file_cut_short_after_it_was_checked_is_an_error() {
    let folder = convert(Dtype::F16, |x| x.to_le_bytes().to_vec());
    let path = folder.path().join("diffusion_pytorch_model.safetensors");
    let files = unet_files(folder.path(), WeightStorage::AsStored).unwrap();
    let size = fs::metadata(&path).unwrap().len();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    for length in [size - 1, size / 2, 100, 0] {
        file.set_len(length).unwrap();
        match files.load() {
            Err(Error::Io { path: named, .. }) => assert_eq!(named, path),
            other => panic!("{:?}", other.map(|_| "it loaded")),
        }
    }
}

#[test]
fn tensors_that_are_not_the_networks_are_found_before_any_is_read() {
    let folder = convert(Dtype::F16, |x| x.to_le_bytes().to_vec());
    let config = folder.path().join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    let other = text.replace("\"in_channels\": 4", "\"in_channels\": 9");
    assert_ne!(text, other);
    fs::write(&config, other).unwrap();
    let error = unet_files(folder.path(), WeightStorage::AsStored).unwrap_err();
    assert!(error.to_string().contains("conv_in.weight is"), "{error}");
    assert!(matches!(error, Error::Tensors { .. }), "{error:?}");
    // Weights of other layers are the caller's mistake, and an error just so.
    let weights = Weights::open(folder.path().join("diffusion_pytorch_model.safetensors"));
    let files = Files::directory(sd_fixtures::path("clip")).folder("gelu");
    let config = ClipTextConfig::read(&files).unwrap();
    let error = ClipTextModel::load(config, &weights.unwrap(), &options(WeightStorage::F32));
    assert!(matches!(error, Err(Error::Tensors { .. })));
}

/// What the U-Net loaded so predicts. What was said of its memory is true.
fn predicted(name: &str, options: &LoadOptions) -> (Vec<f32>, WeightBytes) {
    let (folder, fixture) = (sd_fixtures::path(name), Fixture::open(name));
    let (schedule, kind) = (NoiseSchedule::stable_diffusion(), Parameterization::Epsilon);
    let files = Files::directory(folder);
    let files = UNetFiles::open(&files, "", Arc::new(schedule), kind, options).unwrap();
    let unet = files.load().unwrap();
    assert_eq!(unet.weights(), files.weight_bytes().unwrap());
    let found = predict(&unet, &fixture).into_data();
    (found.try_into_vec::<f32>().unwrap(), unet.weights())
}

/// The U-Net multiplied by `products`, its weights stored so, and the error of its prediction beside
/// f32: RMS, relative.
fn rougher(name: &str, products: Products, storage: WeightStorage) -> (f64, WeightBytes) {
    let options = LoadOptions {
        products,
        ..options(storage)
    };
    let (found, bytes) = predicted(name, &options);
    let exact = Fixture::open(name).f32("0.out");
    let square = |x: f32| f64::from(x) * f64::from(x);
    let off: f64 = found.iter().zip(&exact).map(|(a, b)| square(a - b)).sum();
    let size: f64 = exact.iter().map(|&x| square(x)).sum();
    ((off / size).sqrt(), bytes)
}

/// Networks of random weights; no bound is derived, these are what was measured and a half more.
#[test]
fn rougher_numbers_stay_near() {
    for name in ["unet_sd1", "unet_sd2", "unet_quiet"] {
        let (exact, f32) = rougher(name, Products::F32, WeightStorage::F32);
        assert!(exact < 1e-5, "{exact}");
        for products in Products::all() {
            let (error, bytes) = rougher(name, products, WeightStorage::F32);
            println!("{name}, {}: {error:.2e}", products.name());
            assert!(
                error > 1e-5 && error <= 0.024,
                "{name}, {}: {error}",
                products.name()
            );
            assert!(bytes.packed < f32.packed, "{bytes:?} of {f32:?}");
        }
        for rest in [Products::F32, Products::all()[0]] {
            let by = |int8| rougher(name, rest.with_int8(Some(int8)), WeightStorage::F32);
            let (error, bytes) = by(Int8::all()[0]);
            println!("{name}, int8 else {}: {error:.2e}", rest.name());
            assert!(
                error > 1e-5 && error <= 0.05,
                "{name}, int8 else {}: {error}",
                rest.name()
            );
            let without = rougher(name, rest, WeightStorage::F32).1;
            // Half as much as bf16 takes is not saved where rows are as short as in the quiet one.
            let is_less = bytes.packed < without.packed;
            assert!(
                is_less || bytes == without && name == "unet_quiet",
                "{bytes:?} of {without:?}"
            );
            for unit in &Int8::all()[1..] {
                assert_eq!(by(*unit), (error, bytes), "{name}, {}", unit.name());
            }
        }
        for (storage, bound) in [(WeightStorage::Q8, 0.015), (WeightStorage::Q4, 0.24)] {
            let (error, bytes) = rougher(name, Products::F32, storage);
            println!("{name}, {storage:?}: {error:.2e}");
            assert!(error <= bound, "{name}, {storage:?}: {error}");
            assert!(bytes.packed < f32.packed);
            let both = rougher(name, Products::all()[0], storage).0;
            assert!(
                both <= bound + 0.024,
                "{name}, {storage:?} and bf16: {both}"
            );
        }
    }
}

/// Layers that their names choose are as they would be if all were so, the others as they are.
#[test]
fn single_layers_may_be_rougher() {
    let bf16 = Packing {
        products: Products::all()[0],
        ..Packing::default()
    };
    let plain = options(WeightStorage::F32);
    let (exact, bytes) = predicted("unet_sd1", &plain);
    let only = |chosen: fn(&str) -> bool| {
        let layers = LayerPacking::new(move |name| chosen(name).then_some(bf16));
        let layers = Some(layers);
        let plain = plain.clone();
        predicted("unet_sd1", &LoadOptions { layers, ..plain })
    };
    assert_eq!(only(|_| false), (exact.clone(), bytes));
    let products = bf16.products;
    let all = predicted(
        "unet_sd1",
        &LoadOptions {
            products,
            ..plain.clone()
        },
    );
    assert_eq!(only(|_| true), all);
    let attention = only(|name| name.ends_with("attn1.products"));
    assert_eq!(attention.1, bytes);
    let queries = only(|name| name.ends_with(".attn1.to_q"));
    let whole = only(|name| name.contains(".attn1."));
    for found in [&attention.0, &queries.0, &whole.0] {
        assert!(*found != exact && *found != all.0);
    }
    assert_ne!(attention.0, queries.0);
    assert!(queries.1 != bytes && whole.1 != bytes && queries.1 != whole.1);

    // Int8 is a linear layer's, and no attention's.
    let int8 = Packing {
        products: Products::F32.with_int8(Some(Int8::all()[0])),
        ..Packing::default()
    };
    let only = |end: &'static str| {
        let layers = LayerPacking::new(move |name| name.ends_with(end).then_some(int8));
        let layers = Some(layers);
        let plain = plain.clone();
        predicted("unet_sd1", &LoadOptions { layers, ..plain })
    };
    assert_eq!(only("attn1.products"), (exact.clone(), bytes));
    let longest = only("ff.net.2");
    assert!(longest.0 != exact && longest.1.packed < bytes.packed);
}
