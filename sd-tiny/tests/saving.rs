//! Models written in another layout and another precision: diffusers opens them and finds the same
//! weights (`fixtures/gen/saving.py`), of which each tensor's checksum is kept.
#![cfg(feature = "micro")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use sd_fixtures::Fixture;
use sd_pipeline::models::{Error as ModelError, TensorFile, Weights, inspect};
use sd_pipeline::{
    ConvertOptions, Error, FloatDType, ModelLayout, OpenOptions, Pipeline, Request, convert, device,
};
use sd_tiny::micro::{Family, Layout, Micro};
use serde_json::Value;

/// A tensor of a file: what the header says of it, and its bytes.
type Tensors = BTreeMap<String, (Value, Vec<u8>)>;

fn tensors(bytes: &[u8]) -> Tensors {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: BTreeMap<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let data = &bytes[8 + length..];
    let tensors = header.into_iter().filter(|(n, _)| n != "__metadata__");
    let tensors = tensors.map(|(name, mut entry)| {
        let place = entry.as_object_mut().unwrap().remove("data_offsets");
        let [from, to]: [usize; 2] = serde_json::from_value(place.unwrap()).unwrap();
        (name, (entry, data[from..to].to_vec()))
    });
    tensors.collect()
}

fn read(path: impl AsRef<Path>) -> Tensors {
    tensors(&fs::read(path).unwrap())
}

/// Checksums of name, number type, shape and bytes, in the order of the names.
fn checksums(tensors: &Tensors) -> Vec<f64> {
    let checksum = |(name, (entry, bytes)): (&String, &(Value, Vec<u8>))| {
        let sides = entry["shape"].as_array().unwrap().iter();
        let shape: Vec<String> = sides.map(ToString::to_string).collect();
        let dtype = entry["dtype"].as_str().unwrap();
        let mut crc = flate2::Crc::new();
        crc.update(format!("{name} {dtype} {}", shape.join("x")).as_bytes());
        crc.update(bytes);
        f64::from(crc.sum() as i32)
    };
    tensors.iter().map(checksum).collect()
}

/// The folder of a micro model.
fn model(family: Family, folder: &Path) -> std::path::PathBuf {
    let path = folder.join(format!("{family:?}").to_lowercase());
    let micro = Micro::new(family, Layout::Diffusers, 0).unwrap();
    micro.write_to(&path).unwrap();
    path
}

fn in_precision(dtype: FloatDType) -> ConvertOptions {
    ConvertOptions {
        dtype: Some(dtype),
        ..ConvertOptions::default()
    }
}

/// Names in `folder`, where nothing of a failed writing may stay.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn diffusers_finds_the_same_weights_in_what_is_written() {
    let fixture = Fixture::open("saving");
    let keys = fixture.keys();
    let folder = tempfile::tempdir().unwrap();
    for family in Family::ALL {
        let input = model(family, folder.path());
        let name = input.file_name().unwrap().to_str().unwrap();
        let single = folder.path().join(format!("{name}.safetensors"));
        let written = convert(&input, &single, &ConvertOptions::default());
        let key = format!("{name}.single");
        if keys.contains(&key) {
            let written = written.unwrap();
            let found = read(&single);
            assert_eq!(found.len(), written.tensors, "{key}");
            assert_eq!(fs::metadata(&single).unwrap().len(), written.bytes, "{key}");
            assert_eq!(checksums(&found), fixture.values(&key), "{key}");
        } else {
            let error = written.unwrap_err().to_string();
            assert!(error.contains("AutoencoderTiny"), "{error}");
            assert!(!single.exists());
        }
        let half = folder.path().join(format!("{name}-half"));
        convert(&input, &half, &in_precision(FloatDType::BF16)).unwrap();
        let parts = keys.iter().filter_map(|key| {
            let part = key.strip_prefix(&format!("{name}.half."))?;
            Some((key, half.join(part)))
        });
        for (key, part) in parts {
            let stem = match part.join("model.safetensors").exists() {
                true => "model",
                false => "diffusion_pytorch_model",
            };
            let found = read(part.join(format!("{stem}.safetensors")));
            assert_eq!(checksums(&found), fixture.values(key), "{key}");
        }
    }
    // Beside what was made, nothing.
    let names = names(folder.path());
    assert!(names.iter().all(|n| !n.starts_with('.')), "{names:?}");
}

#[test]
fn a_folder_keeps_every_bit_and_every_file() {
    let folder = tempfile::tempdir().unwrap();
    for family in [Family::Sd2, Family::SdxlRefiner, Family::Sdxs] {
        let input = model(family, folder.path());
        let output = folder.path().join("copy");
        let options = ConvertOptions {
            overwrite: true,
            ..ConvertOptions::default()
        };
        convert(&input, &output, &options).unwrap();
        for (name, bytes) in Micro::new(family, Layout::Diffusers, 0).unwrap().iter() {
            let copy = fs::read(output.join(name)).unwrap();
            match name.ends_with(".safetensors") {
                true => assert_eq!(tensors(&copy), tensors(bytes), "{name}"),
                false => assert!(copy == bytes, "{name}"),
            }
        }
    }
}

#[test]
fn a_single_file_becomes_the_folder_it_came_from() {
    let folder = tempfile::tempdir().unwrap();
    for family in [
        Family::Sd1,
        Family::Sd2,
        Family::Sd1Inpaint,
        Family::TinySd,
        Family::Koala1b,
        Family::Sdxl,
        Family::SdxlRefiner,
    ] {
        let input = model(family, folder.path());
        let [single, again, back] =
            ["a.safetensors", "b.safetensors", "back"].map(|name| folder.path().join(name));
        // What only the family's networks have in numbers, and a narrow one has otherwise.
        let options = ConvertOptions {
            overwrite: true,
            ..ConvertOptions::default()
        };
        let with_config = ConvertOptions {
            config: Some(input.clone()),
            ..options.clone()
        };
        convert(&input, &single, &options).unwrap();
        convert(&single, &again, &with_config).unwrap();
        assert!(read(&single) == read(&again), "{family:?}");
        convert(&again, &back, &with_config).unwrap();
        for part in ["unet", "vae", "text_encoder", "text_encoder_2"] {
            let files = fs::read_dir(input.join(part)).into_iter().flatten();
            let files = files.map(|file| file.unwrap().file_name());
            for name in files.filter(|name| name.to_str().unwrap().ends_with(".safetensors")) {
                let [ours, theirs] = [&input, &back].map(|f| read(f.join(part).join(&name)));
                assert!(ours == theirs, "{family:?} {part}");
            }
        }
        for name in ["model_index.json", "scheduler/scheduler_config.json"] {
            assert!(back.join(name).is_file(), "{family:?} {name}");
        }
    }
}

#[test]
fn one_component_alone_is_written_under_its_own_names() {
    let folder = tempfile::tempdir().unwrap();
    let input = model(Family::Sd1, folder.path());
    let file = input.join("vae/diffusion_pytorch_model.safetensors");
    let output = folder.path().join("vae.safetensors");
    convert(&file, &output, &ConvertOptions::default()).unwrap();
    assert!(read(&file) == read(&output));
    let error = convert(&file, folder.path().join("vae"), &ConvertOptions::default());
    assert!(!folder.path().join("vae").exists(), "{error:?}");
    error.unwrap_err();
}

#[test]
fn what_is_written_draws_the_same_picture() {
    let folder = tempfile::tempdir().unwrap();
    let input = model(Family::Sdxl, folder.path());
    let output = folder.path().join("wide");
    // Every half is an f32.
    convert(&input, &output, &in_precision(FloatDType::F32)).unwrap();
    let config = fs::read_to_string(output.join("text_encoder/config.json")).unwrap();
    assert!(config.contains(r#""torch_dtype": "float32""#), "{config}");
    let draw = |path: &Path| {
        let options = OpenOptions::new(&device("flex").unwrap());
        let request = Request {
            steps: 2,
            width: Some(64),
            height: Some(64),
            ..Request::new("anything")
        };
        let pipeline = Pipeline::open(path, &options).unwrap();
        pipeline.generate(&request).unwrap().remove(0).image
    };
    assert_eq!(draw(&input), draw(&output));
}

#[test]
fn a_single_file_says_what_its_network_predicts() {
    let folder = tempfile::tempdir().unwrap();
    for (family, prediction, marks) in [
        (Family::Sd1, "epsilon", [false, false]),
        (Family::Sd2, "v_prediction", [true, false]),
        (Family::SdTurbo, "epsilon", [false, false]),
    ] {
        let input = model(family, folder.path());
        let output = folder.path().join("model.safetensors");
        let options = ConvertOptions {
            overwrite: true,
            ..ConvertOptions::default()
        };
        convert(&input, &output, &options).unwrap();
        let found = serde_json::to_value(inspect(&output).unwrap()).unwrap();
        assert_eq!(found["prediction"], prediction);
        assert_eq!(found["kind"], "model");
        let tensors = read(&output);
        let marked = ["v_pred", "ztsnr"].map(|mark| tensors.contains_key(mark));
        assert_eq!(marked, marks);
    }
    let input = model(Family::Sd2, folder.path());
    let file = input.join("scheduler/scheduler_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config["rescale_betas_zero_snr"] = true.into();
    fs::write(&file, config.to_string()).unwrap();
    let output = folder.path().join("zero.safetensors");
    convert(&input, &output, &ConvertOptions::default()).unwrap();
    assert!(read(&output).contains_key("ztsnr"));
}

#[test]
fn values_are_rounded_as_torch_does() {
    let fixture = Fixture::open("saving");
    let bits: Vec<f64> = fixture.values("values");
    let values: Vec<u8> = bits
        .iter()
        .flat_map(|x| (*x as i32).to_le_bytes())
        .collect();
    for (dtype, name) in [(FloatDType::F16, "f16"), (FloatDType::BF16, "bf16")] {
        let expected = fixture.values(&format!("values.{name}"));
        let is_nan = |x: &[u8]| f32::from_le_bytes(x.try_into().unwrap()).is_nan();
        let is_infinite = |x: &[u8]| f32::from_le_bytes(x.try_into().unwrap()).is_infinite();
        let becomes_infinite = |bits: f64| match name {
            "f16" => (bits as i32 as u16) & 0x7fff == 0x7c00,
            _ => (bits as i32 as u16) & 0x7fff == 0x7f80,
        };
        // One file of those that stay finite, and one of those that do not.
        let all = values.chunks_exact(4).zip(&expected);
        let (lost, kept): (Vec<_>, Vec<_>) =
            all.partition(|(x, to)| becomes_infinite(**to) && !is_infinite(x) && !is_nan(x));
        let bytes: Vec<u8> = kept.iter().flat_map(|(x, _)| x.to_vec()).collect();
        let written = write(&bytes, dtype).unwrap();
        let found = written
            .chunks_exact(2)
            .map(|x| i16::from_le_bytes(x.try_into().unwrap()));
        for (found, (x, to)) in found.zip(&kept) {
            let same = f64::from(found) == **to;
            assert!(same || is_nan(x), "{name}: {x:?} is {found}, not {to}");
        }
        assert!(!lost.is_empty());
        let bytes: Vec<u8> = lost.iter().flat_map(|(x, _)| x.to_vec()).collect();
        match write(&bytes, dtype).unwrap_err() {
            ModelError::Overflow { tensors, .. } => {
                assert_eq!(tensors, [("x".to_string(), lost.len() as u64)]);
            }
            other => panic!("{other}"),
        }
    }
}

/// The bytes of a tensor of f32 in another type.
fn write(values: &[u8], dtype: FloatDType) -> Result<Vec<u8>, ModelError> {
    let header = format!(
        r#"{{"x":{{"dtype":"F32","shape":[{}],"data_offsets":[0,{}]}}}}"#,
        values.len() / 4,
        values.len()
    );
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.extend(values);
    let mut tensors = TensorFile::new();
    tensors.add_stored(&Weights::from_bytes("values", file)?)?;
    let mut written = Vec::new();
    tensors.write(&mut written, "narrow".as_ref(), Some(dtype))?;
    Ok(self::tensors(&written)["x"].1.clone())
}

#[test]
fn nothing_is_replaced_that_was_not_meant() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let input = model(Family::Sd1, folder.path());
    fs::write(path("notes.safetensors"), "mine").unwrap();
    fs::create_dir(path("photos")).unwrap();
    fs::write(path("photos/one.png"), "mine").unwrap();
    fs::create_dir(path("empty")).unwrap();
    fs::write(path("text"), "mine").unwrap();
    let before = names(folder.path());
    let plain = ConvertOptions::default();
    let over = ConvertOptions {
        overwrite: true,
        ..plain.clone()
    };
    let refused = |output: &Path, options: &ConvertOptions, words: &str| {
        let error = convert(&input, output, options).unwrap_err();
        assert!(matches!(error, Error::Output { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    };
    for options in [&plain, &over] {
        refused(&input, options, "the model that is read is there");
        let within = input.join("unet/diffusion_pytorch_model.safetensors");
        refused(&within, options, "the model that is read is there");
        refused(folder.path(), options, "the model that is read is there");
        refused(&input.join(".."), options, "names no file");
    }
    refused(&path("notes.safetensors"), &plain, "a model is there");
    refused(&path("photos"), &plain, "it is there already");
    refused(&path("photos"), &over, "something else than a model");
    refused(&path("text"), &over, "something else than a model");
    let missing = convert(&input, path("nowhere/model"), &plain).unwrap_err();
    assert!(matches!(missing, Error::Io { .. }), "{missing}");
    assert_eq!(names(folder.path()), before);

    convert(&input, path("empty"), &plain).unwrap();
    convert(&input, path("notes.safetensors"), &over).unwrap();
    convert(&input, path("empty"), &over).unwrap();
    let as_folder = ConvertOptions {
        layout: Some(ModelLayout::Diffusers),
        ..over.clone()
    };
    refused(&path("notes.safetensors"), &as_folder, "a file is there");
    assert_eq!(names(folder.path()), before);
}

#[test]
fn what_fails_on_the_way_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let input = model(Family::Sd1, folder.path());
    let before = names(folder.path());
    // A weight that no f16 holds, in the last component that is written.
    let file = input.join("vae/diffusion_pytorch_model.safetensors");
    let mut tensors = TensorFile::new();
    tensors.add_stored(&Weights::open(&file).unwrap()).unwrap();
    let mut bytes = Vec::new();
    let wide = Some(FloatDType::F32);
    tensors.write(&mut bytes, &file, wide).unwrap();
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&1e6_f32.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    for output in ["copy", "model.safetensors"].map(|name| folder.path().join(name)) {
        let error = convert(&input, &output, &in_precision(FloatDType::F16)).unwrap_err();
        let words = error.to_string();
        assert!(
            matches!(error, Error::Model(ModelError::Overflow { .. })),
            "{words}"
        );
        assert!(words.contains("1 value is too large for F16"), "{words}");
        assert_eq!(names(folder.path()), before);
        convert(&input, &output, &in_precision(FloatDType::BF16)).unwrap();
        match output.is_dir() {
            true => fs::remove_dir_all(output).unwrap(),
            false => fs::remove_file(output).unwrap(),
        }
    }
    // A tensor that no component reads.
    let config = input.join("unet/config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(
        &config,
        text.replace(r#""layers_per_block": 2"#, r#""layers_per_block": 1"#),
    )
    .unwrap();
    for output in ["copy", "model.safetensors"].map(|name| folder.path().join(name)) {
        let error = convert(&input, &output, &ConvertOptions::default()).unwrap_err();
        assert!(
            matches!(error, Error::Model(ModelError::Tensors { .. })),
            "{error}"
        );
    }
    assert_eq!(names(folder.path()), before);
}
