use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use sd_fixtures::Fixture;
use sd_kernels::Activation;

use super::*;
use crate::ConfigFile;
use crate::layers::{Conv2d, Epilogue, Linear, PackLayer};
use crate::ldm::Numbering;
use crate::unet::UNetConfig;
use crate::weights::Stored;

/// Largest difference of a weight, of values to 4: the tools' own rounding in f32.
const TOLERANCE: f64 = 1e-6;

/// The layers of `lora.py`: their weights as a file, and their names.
fn layers(fixture: &Fixture, of_text: bool) -> (Weights, Names) {
    let mut tensors = Vec::new();
    for key in fixture.keys() {
        let Some(name) = key.strip_prefix("base/") else {
            continue;
        };
        if name.starts_with("text_model.") == of_text {
            let bytes: Vec<u8> = fixture
                .f32(&key)
                .iter()
                .flat_map(|x| x.to_le_bytes())
                .collect();
            tensors.push((name.to_string(), fixture.shape(&key), bytes));
        }
    }
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let dtype = safetensors::Dtype::F32;
        let view = safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes);
        (name.as_str(), view.unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    let weights = Weights::from_bytes("layers.safetensors", bytes).unwrap();
    let names = weights.shapes().map(|(name, _)| name);
    let names = match of_text {
        true => Names::of_text(names),
        false => {
            let files = Files::directory(sd_fixtures::path("unet_sd1"));
            let config = ConfigFile::read(&files, "config.json").unwrap();
            let config = UNetConfig::new(&config).unwrap();
            Names::of_unet(names, &Layout::unet(&config, Numbering::Contiguous))
        }
    };
    (weights, names)
}

use crate::ldm::Layout;

fn open(file: &str) -> LoraFile {
    LoraFile::open(sd_fixtures::path(&format!("lora/{file}"))).unwrap()
}

fn merged(
    file: &LoraFile,
    (weights, names): &(Weights, Names),
    of_text: bool,
    strength: f32,
) -> (Weights, AdapterReport) {
    let target = match of_text {
        true => Target::TextEncoder(0),
        false => Target::Denoiser,
    };
    let (mut weights, mut matches) = (weights.clone(), file.unmatched());
    let storage = WeightStorage::F32;
    file.merge_into(
        &mut weights,
        target,
        names,
        storage,
        &strength.into(),
        &mut matches,
    )
    .unwrap();
    (weights, file.report(&matches))
}

fn values(stored: &Stored) -> Vec<f32> {
    stored.f32s(0, stored.shape.iter().product()).unwrap()
}

#[test]
fn weights_are_those_that_the_tools_act_with() {
    let fixture = Fixture::open("lora");
    let all = [layers(&fixture, false), layers(&fixture, true)];
    let cases = fixture.settings();
    let cases = cases.as_object().unwrap();
    assert!(cases.len() > 28);
    for (case, file) in cases {
        let file = open(file.as_str().unwrap());
        let keys = fixture.keys();
        let expected = keys
            .iter()
            .filter_map(|key| key.strip_prefix(&format!("{case}/")));
        let expected: Vec<&str> = expected.collect();
        let of_text = expected[0].starts_with("text_model.");
        let layers = &all[usize::from(of_text)];
        let (weights, report) = merged(&file, layers, of_text, 1.0);
        assert!(report.is_complete(), "{case}: {report}");
        assert_eq!(report.matched, expected.len(), "{case}");
        for name in &expected {
            let today = name.strip_prefix("text_model.").unwrap_or(name);
            let tensor = weights.get(&format!("{today}.weight")).unwrap();
            fixture.assert_close(&format!("{case}/{name}"), &values(tensor), TOLERANCE);
            // Rows in the middle alone are the same rows.
            let width = tensor.shape.iter().skip(1).product::<usize>();
            let some = tensor.f32s(2 * width + 1, width).unwrap();
            assert_eq!(
                some,
                values(tensor)[2 * width + 1..][..width],
                "{case}/{name}"
            );
        }
        // At no strength it is the model's own, whatever the change.
        let (weights, _) = merged(&file, layers, of_text, 0.0);
        for name in expected {
            let today = name.strip_prefix("text_model.").unwrap_or(name);
            let tensor = weights.get(&format!("{today}.weight")).unwrap();
            fixture.assert_close(&format!("base/{name}.weight"), &values(tensor), 0.0);
        }
    }
}

#[test]
fn changes_add_up_and_may_be_taken_back() {
    let fixture = Fixture::open("lora");
    let layers = layers(&fixture, false);
    let file = open("kohya.safetensors");
    let (once, _) = merged(&file, &layers, false, 0.75);
    let (twice, _) = merged(&file, &(once, layers.1), false, -0.75);
    let name = "down_blocks.0.resnets.0.conv1.weight";
    let tensor = twice.get(name).unwrap();
    fixture.assert_close(&format!("base/{name}"), &values(tensor), 1e-6);
}

/// Names and shapes.
type Tensors<'a> = [(&'a str, &'a [usize])];

/// A LoRA of one module with these tensors, f32 of zeros but for the alpha.
fn file_of(tensors: &Tensors<'_>, alpha: f32) -> Result<LoraFile> {
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, shape)| {
            let value: f32 = if name.ends_with("alpha") { alpha } else { 0.0 };
            let count = shape.iter().product::<usize>();
            let bytes: Vec<u8> = value.to_le_bytes().repeat(count);
            (*name, shape.to_vec(), bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let dtype = safetensors::Dtype::F32;
        let view = safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes);
        (*name, view.unwrap())
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, safetensors::serialize(views, None).unwrap()).unwrap();
    LoraFile::open(file.path())
}

#[test]
fn what_does_not_fit_is_named_with_its_reason() {
    let fixture = Fixture::open("lora");
    let layers = layers(&fixture, false);
    let q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q";
    let [down, up, alpha] =
        ["lora_down.weight", "lora_up.weight", "alpha"].map(|s| format!("{q}.{s}"));
    let [magnitude, scale, blocks] =
        ["lora_magnitude_vector", "dora_scale", "oft_blocks"].map(|s| format!("{q}.{s}"));
    let [low, high]: [(&str, &[usize]); 2] = [(&down, &[4, 8]), (&up, &[12, 4])];
    let misshapen: [(&Tensors<'_>, &str); 15] = [
        // DoRA's lengths: of the outputs, or of the inputs as `[1, in]`.
        (&[low, high, (&magnitude, &[8])], "the magnitude is [8]"),
        (&[low, high, (&magnitude, &[])], "the magnitude is []"),
        (&[low, high, (&scale, &[8])], "dora_scale is [8]"),
        (&[low, high, (&scale, &[])], "dora_scale is []"),
        (&[low, high, (&scale, &[8, 1])], "dora_scale is [8, 1]"),
        (
            &[low, high, (&scale, &[12, 1]), (&magnitude, &[12])],
            "two magnitudes",
        ),
        // Butterflies of no stage.
        (&[(&blocks, &[0, 6, 2, 2])], "oft_blocks is [0, 6, 2, 2]"),
        // Sides that no memory holds, in a tensor without a number.
        (
            &[(&down, &[4, 0, 1 << 40, 1 << 40]), high],
            "lora_down is [4, 0, 1099511627776",
        ),
        (&[(&blocks, &[31, 0, 0, 0])], "oft_blocks is [31, 0, 0, 0]"),
        (&[(&down, &[4, 9]), (&up, &[12, 4])], "lora_down is [4, 9]"),
        (&[(&down, &[4, 8]), (&up, &[11, 4])], "lora_up is [11, 4]"),
        (&[(&down, &[4, 8]), (&up, &[12, 3])], "lora_up is [12, 3]"),
        (&[(&down, &[0, 8]), (&up, &[12, 0])], "of rank 0"),
        (&[(&down, &[4, 8])], "a part of the change is missing"),
        (
            &[(&down, &[4, 4, 2]), (&up, &[12, 4])],
            "lora_down is [4, 4, 2]",
        ),
    ];
    for (tensors, reason) in misshapen {
        let file = file_of(tensors, 1.0).unwrap();
        let (_, report) = merged(&file, &layers, false, 1.0);
        assert_eq!((report.matched, report.misshapen.len()), (0, 1), "{reason}");
        let found = &report.misshapen[0];
        assert!(found.starts_with(q) && found.contains(reason), "{found}");
    }
    // What a core and a factor make has as many rows as the core, whatever the file's size.
    let conv = "lora_unet_down_blocks_0_resnets_0_conv1";
    let weight = "down_blocks.0.resnets.0.conv1.weight";
    let [outputs, inputs] = [0, 1].map(|side| layers.0.get(weight).unwrap().shape[side]);
    let most = outputs.max(inputs * 9);
    for (rank, fits) in [(most, true), (most + 1, false)] {
        let names = ["a", "b"].map(|s| ["1", "2"].map(|n| format!("{conv}.hada_w{n}_{s}")));
        let cores = ["1", "2"].map(|n| format!("{conv}.hada_t{n}"));
        let mut tensors: Vec<(&str, Vec<usize>)> = Vec::new();
        for n in 0..2 {
            tensors.push((&names[0][n], vec![rank, outputs]));
            tensors.push((&names[1][n], vec![1, inputs]));
            tensors.push((&cores[n], vec![rank, 1, 3, 3]));
        }
        let tensors: Vec<(&str, &[usize])> = tensors.iter().map(|(n, s)| (*n, &s[..])).collect();
        let (_, report) = merged(&file_of(&tensors, 1.0).unwrap(), &layers, false, 1.0);
        assert_eq!(report.matched, usize::from(fits), "{report}");
        assert_eq!(
            report.misshapen.iter().any(|r| r.contains("the rank is")),
            !fits
        );
    }
    for alpha_value in [f32::NAN, f32::INFINITY] {
        let tensors: [(&str, &[usize]); 3] = [(&down, &[4, 8]), (&up, &[12, 4]), (&alpha, &[])];
        let error = file_of(&tensors, alpha_value).unwrap_err().to_string();
        assert!(error.contains(q) && error.contains("alpha"), "{error}");
    }
    // Two spellings of one layer would change it twice.
    let other = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight";
    let other_up = other.replace("lora_A", "lora_B");
    let file = file_of(
        &[
            (&down, &[4, 8]),
            (&up, &[12, 4]),
            (other, &[4, 8]),
            (&other_up, &[12, 4]),
        ],
        1.0,
    );
    assert!(file.unwrap_err().to_string().contains("is there twice"));
    let ldm = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q";
    let [ldm_down, ldm_up] = ["lora_down.weight", "lora_up.weight"].map(|s| format!("{ldm}.{s}"));
    let file = file_of(
        &[
            (&down, &[4, 8]),
            (&up, &[12, 4]),
            (&ldm_down, &[4, 8]),
            (&ldm_up, &[12, 4]),
        ],
        1.0,
    );
    let file = file.unwrap();
    let mut weights = layers.0.clone();
    let mut matches = file.unmatched();
    let storage = WeightStorage::F32;
    let error = file
        .merge_into(
            &mut weights,
            Target::Denoiser,
            &layers.1,
            storage,
            &1.0.into(),
            &mut matches,
        )
        .unwrap_err();
    assert!(error.to_string().contains("both change"), "{error}");
    // A module that nobody has, a tensor that is no change, a file without any.
    let file = file_of(
        &[
            ("lora_unet_nowhere.lora_up.weight", &[4, 4]),
            ("noise", &[3]),
        ],
        1.0,
    )
    .unwrap();
    let (_, report) = merged(&file, &layers, false, 1.0);
    assert_eq!(report.unmatched, ["lora_unet_nowhere", "noise"]);
    let error = file_of(&[("conv_in.weight", &[4, 4])], 1.0).unwrap_err();
    assert!(
        error.to_string().contains("no change to a model's weights"),
        "{error}"
    );
}

/// A file of one encoder's changes without a word on which fits one of two, and stays matched.
#[test]
fn what_one_network_has_no_other_takes_away() {
    let names = |width: usize| {
        let view = |bytes: &Vec<u8>| {
            let dtype = safetensors::Dtype::F32;
            let shape = vec![width, width];
            let view = safetensors::tensor::TensorView::new(dtype, shape, bytes);
            let tensors = [("encoder.layers.0.mlp.fc1.weight", view.unwrap())];
            safetensors::serialize(tensors, None).unwrap()
        };
        let bytes = view(&vec![0; 4 * width * width]);
        let weights = Weights::from_bytes("encoder.safetensors", bytes).unwrap();
        let names = Names::of_text(weights.shapes().map(|(name, _)| name));
        (weights, names)
    };
    let module = "base_model.model.text_model.encoder.layers.0.mlp.fc1";
    let [down, up] = ["lora_A.weight", "lora_B.weight"].map(|s| format!("{module}.{s}"));
    let file = file_of(&[(&down, &[2, 6]), (&up, &[6, 2])], 1.0).unwrap();
    for widths in [[6, 8], [8, 6]] {
        let mut matches = file.unmatched();
        for (index, width) in widths.into_iter().enumerate() {
            let (mut weights, names) = names(width);
            let target = Target::TextEncoder(index);
            let storage = WeightStorage::F32;
            file.merge_into(
                &mut weights,
                target,
                &names,
                storage,
                &1.0.into(),
                &mut matches,
            )
            .unwrap();
        }
        let report = file.report(&matches);
        assert!(report.is_complete(), "{report}");
    }
}

#[test]
fn settings_of_another_series_are_refused() {
    let text = |terms: usize| {
        format!(r#"{{"peft_type": "OFT", "r": 2, "num_cayley_neumann_terms": {terms}}}"#)
    };
    let parse = |terms| Settings::parse(Path::new("adapter_config.json"), text(terms).as_bytes());
    assert!(parse(5).is_ok());
    let error = parse(4).unwrap_err().to_string();
    assert!(error.contains("num_cayley_neumann_terms is 4"), "{error}");
}

/// What a layer makes of `x` whole and, of a convolution, of some rows, with all that may come behind
/// its product.
trait Makes: PackLayer + Sized {
    fn make(&self, seed: usize) -> Vec<Vec<f32>>;

    fn with(self, values: (Vec<f32>, Option<Vec<f32>>)) -> Self;
}

fn numbers<const D: usize>(shape: [usize; D], seed: usize) -> Tensor<D> {
    let count = shape.iter().product::<usize>();
    let values = (0..count).map(|k| (((k * 37 + seed * 101) % 199) as f32 / 99.0 - 1.0).sin());
    let data = TensorData::new(values.collect::<Vec<f32>>(), shape);
    Tensor::from_data(data, &Device::flex())
}

fn behind<const D: usize>(output: [usize; D], shift: [usize; D]) -> [Epilogue<D>; 3] {
    let some = |activation| Epilogue {
        shift: Some(numbers(shift, 5)),
        activation,
        residual: Some(numbers(output, 6)),
        rectified: true,
    };
    let all = [Activation::None, Activation::QuickGelu].map(some);
    let [plain, activated] = all;
    [Epilogue::NONE, plain, activated]
}

fn read<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_into_vec().unwrap()
}

impl Makes for Linear {
    fn make(&self, seed: usize) -> Vec<Vec<f32>> {
        let [outputs, inputs] = self.weight.lazy_shape().dims();
        let x = numbers([2, 3, inputs], seed);
        let each = behind([2, 3, outputs], [2, 1, outputs]).into_iter();
        each.map(|epilogue| read(self.forward(x.clone(), epilogue)))
            .collect()
    }

    fn with(mut self, (weight, bias): (Vec<f32>, Option<Vec<f32>>)) -> Self {
        let device = &Device::flex();
        let shape: [usize; 2] = self.weight.lazy_shape().dims();
        self.weight = Param::from_tensor(Tensor::from_data(TensorData::new(weight, shape), device));
        self.bias = bias.map(|bias| {
            let shape = [bias.len()];
            Param::from_tensor(Tensor::from_data(TensorData::new(bias, shape), device))
        });
        self
    }
}

impl Makes for Conv2d {
    fn make(&self, seed: usize) -> Vec<Vec<f32>> {
        let [inputs, outputs] = self.channels();
        let x = numbers([1, inputs, 7, 5], seed);
        let each = behind([1, outputs, 7, 5], [1, outputs, 1, 1]).into_iter();
        let mut made: Vec<_> = each
            .map(|epilogue| read(self.forward(x.clone(), epilogue)))
            .collect();
        let (rows, reach) = (2..5, self.reach(2..5, 7));
        let strip = x.narrow(2, reach.start, reach.len());
        let some = self.forward_rows(strip, reach.start, rows, Epilogue::NONE);
        made.push(read(some));
        made
    }

    fn with(mut self, (weight, bias): (Vec<f32>, Option<Vec<f32>>)) -> Self {
        let device = &Device::flex();
        let shape: [usize; 4] = self.weight.lazy_shape().dims();
        self.weight = Param::from_tensor(Tensor::from_data(TensorData::new(weight, shape), device));
        self.bias = bias.map(|bias| {
            let shape = [bias.len()];
            Param::from_tensor(Tensor::from_data(TensorData::new(bias, shape), device))
        });
        self
    }
}

/// Largest difference between what the layer `name`, which `new` makes, does with the merged weight,
/// and what it does with `addition` beside its own, packed and plain.
fn difference<L: Makes>(
    new: impl Fn() -> L,
    name: &str,
    [base, merged]: [&Weights; 2],
    addition: &Addition,
    strength: f32,
) -> f64 {
    let device = Device::flex();
    let packed = |weights: &Weights| {
        let mut layer = new();
        layer
            .pack(name, weights, WeightStorage::F32.into())
            .unwrap();
        layer
    };
    let of = |last: &str| base.get(&format!("{name}.{last}")).map(values);
    let expected = packed(merged).make(3);
    let mut largest = 0.0f64;
    for mut layer in [
        packed(base),
        new().with((of("weight").unwrap(), of("bias"))),
    ] {
        let side = layer.side(addition.clone(), &device, DType::F32);
        let side = side.unwrap().unwrap();
        assert!(layer.accepts(&side), "{name}");
        layer.put_beside(&side, strength);
        for (found, expected) in layer.make(3).iter().zip(&expected) {
            assert_eq!(found.len(), expected.len());
            for (x, y) in found.iter().zip(expected) {
                largest = largest.max(f64::from((x - y).abs()));
            }
        }
    }
    largest
}

/// Every change that is a sum makes beside a layer what the merged weight does.
#[test]
fn beside_a_layer_it_is_as_merged() {
    let fixture = Fixture::open("lora");
    let all = [layers(&fixture, false), layers(&fixture, true)];
    let (mut sums, mut turning) = (0, Vec::new());
    let strength = 0.7;
    for (case, file) in fixture.settings().as_object().unwrap() {
        let file = open(file.as_str().unwrap());
        let of_text = fixture.keys().iter().any(|key| {
            let key = key.strip_prefix(&format!("{case}/"));
            key.is_some_and(|key| key.starts_with("text_model."))
        });
        let layers = &all[usize::from(of_text)];
        let (weights, _) = merged(&file, layers, of_text, strength);
        let (base, names) = layers;
        for (index, module) in file.reader.modules.iter().enumerate() {
            let layer = names.find(&module.spelling).unwrap();
            let shape = &base.get(&format!("{layer}.weight")).unwrap().shape;
            let Some(addition) = file.addition(index, base, layer).unwrap() else {
                turning.push(case.clone());
                continue;
            };
            let has_bias = base.get(&format!("{layer}.bias")).is_some();
            let (device, both) = (Device::flex(), [base, &weights]);
            let largest = match shape[..] {
                [out, inputs] => {
                    let new = || Linear::new(inputs, out, has_bias, &device);
                    difference(new, layer, both, &addition, strength)
                }
                [out, inputs, k, _] => {
                    let new = || {
                        let layer = Conv2d::same(inputs, out, k, &device);
                        if has_bias {
                            layer
                        } else {
                            layer.without_bias()
                        }
                    };
                    difference(new, layer, both, &addition, strength)
                }
                _ => continue,
            };
            assert!(largest <= 1e-5, "{case} {layer}: {largest:e}");
            sums += 1;
        }
    }
    turning.dedup();
    assert!(sums > 40, "{sums}");
    assert!(turning.len() > 5, "{turning:?}");
    let known = |case: &String| case.contains("dora") || case.contains("oft");
    assert!(turning.iter().all(known), "{turning:?}");
}
