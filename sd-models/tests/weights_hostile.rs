//! Safetensors files that are damaged, forged or of the wrong kind: an error each, never a panic
//! and never an allocation of the size they claim.

use std::path::Path;

use burn::tensor::{Device, FloatDType};
use proptest::prelude::*;
use sd_models::testing::Linear;
use sd_models::{Error, Weights};

/// A file with this header and `data` bytes behind it.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend((0..data).map(|i| i as u8));
    bytes
}

/// The weights of a `Linear` of 3 to 2 features.
fn sound() -> Vec<u8> {
    let weight = r#""weight":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}"#;
    let bias = r#""bias":{"dtype":"F16","shape":[2],"data_offsets":[24,28]}"#;
    let header = format!(r#"{{"__metadata__":{{"format":"pt"}},{weight},{bias}}}"#);
    file(&header, 28)
}

/// Opens the bytes as a file on disk and as one in memory; both must agree.
fn open(bytes: &[u8]) -> Result<Weights, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, bytes).unwrap();
    let disk = Weights::open(&path);
    let memory = Weights::from_bytes("memory", bytes.to_vec());
    match (&disk, &memory) {
        (Ok(a), Ok(b)) => assert!(a.shapes().eq(b.shapes())),
        (Err(_), Err(_)) => {}
        _ => panic!("from disk {disk:?}, in memory {memory:?}"),
    }
    // The folder is gone when this returns; the one in memory can still be loaded.
    disk.and(memory)
}

fn load(weights: &Weights) -> Result<Linear, Error> {
    let linear = Linear::new(3, 2, true, &Device::flex());
    weights.load_into(linear, FloatDType::F32)
}

#[track_caller]
fn expect(bytes: &[u8], reason: &str) {
    let error = open(bytes).unwrap_err();
    assert!(matches!(error, Error::Safetensors { .. }), "{error:?}");
    assert!(error.to_string().contains(reason), "{error}");
}

#[test]
fn a_sound_file_loads() {
    load(&open(&sound()).unwrap()).unwrap();
}

#[test]
fn a_file_cut_short_is_an_error_wherever_it_is_cut() {
    let sound = sound();
    for length in 0..sound.len() {
        let error = open(&sound[..length]).unwrap_err();
        assert!(
            matches!(error, Error::Safetensors { .. }),
            "{length}: {error:?}"
        );
    }
}

#[test]
fn a_forged_header_is_an_error() {
    expect(&[], "it has only 0 bytes");
    for length in [u64::MAX, 1 << 40, 100_000_001, 9] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend([b'{'; 8]);
        expect(&bytes, &format!("its header claims {length} bytes"));
    }
    expect(&file("", 0), "its header is not valid");
    expect(&file("[]", 0), "its header is not valid");
    expect(&file(&"[".repeat(200_000), 0), "its header is not valid");
    expect(
        &file(&"{\"a\":".repeat(200_000), 0),
        "its header is not valid",
    );
    expect(&file(r#"{"w":{"dtype":"F32"}}"#, 0), "missing field");
}

#[test]
fn a_tensor_that_cannot_be_is_an_error() {
    let one = |dtype: &str, shape: &str, offsets: &str, data| {
        let tensor = format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#);
        file(&format!(r#"{{"w":{tensor}}}"#), data)
    };
    expect(
        &one("F32", "[2]", "[0,8]", 4),
        "the file ends 4 bytes before",
    );
    expect(&one("F32", "[2]", "[0,4]", 4), "tensor w needs 8 bytes");
    expect(&one("F32", "[2]", "[8,0]", 8), "tensor w needs 8 bytes");
    // Bytes that are nobody's are no harm, nor is a tensor of no elements wherever it lies.
    open(&one("F32", "[2]", "[4,12]", 12)).unwrap();
    open(&one("F32", "[2]", "[0,8]", 12)).unwrap();
    open(&one("F32", "[0]", "[4,4]", 8)).unwrap();
    expect(&one("F32", "[-2]", "[0,8]", 8), "its header is not valid");
    let huge = "[4611686018427387904,4611686018427387904]";
    expect(&one("F32", huge, "[0,8]", 8), "absurd size");
    let end = u64::MAX;
    expect(
        &one("F32", "[2]", &format!("[{end},{end}]"), 8),
        "absurd size",
    );
    let terabyte = "[0,1099511627776]";
    expect(&one("F32", "[274877906944]", terabyte, 8), "the file ends");
    expect(
        &one("F31", "[2]", "[0,8]", 8),
        "unknown number type \"F31\"",
    );
}

#[test]
fn tensors_that_share_bytes_or_a_name_are_an_error() {
    let tensor = |name: &str, offsets: &str| {
        format!(r#""{name}":{{"dtype":"F16","shape":[2],"data_offsets":{offsets}}}"#)
    };
    let two = |a: String, b: String, data| file(&format!("{{{a},{b}}}"), data);
    let overlapping = two(tensor("a", "[0,4]"), tensor("b", "[2,6]"), 6);
    expect(&overlapping, "tensor b overlaps the one before it");
    let same = two(tensor("a", "[0,4]"), tensor("b", "[0,4]"), 4);
    expect(&same, "overlaps the one before it");
    let twice = two(tensor("a", "[0,4]"), tensor("a", "[4,8]"), 8);
    expect(&twice, "a appears twice");
    // One file cannot be of two generations.
    let both = two(tensor("text_model.a", "[0,4]"), tensor("a", "[4,8]"), 8);
    expect(&both, "tensor a is there twice");
}

#[test]
fn a_tensor_that_is_no_floating_point_number_is_an_error_of_the_module_that_needs_it() {
    for (dtype, size) in [
        ("I64", 8),
        ("U8", 1),
        ("BOOL", 1),
        ("U16", 2),
        ("F8_E4M3", 1),
    ] {
        let tensor = format!(
            r#"{{"dtype":"{dtype}","shape":[2,3],"data_offsets":[0,{}]}}"#,
            6 * size
        );
        let end = 6 * size + 4;
        let bias = format!(
            r#"{{"dtype":"F16","shape":[2],"data_offsets":[{},{end}]}}"#,
            6 * size
        );
        let bytes = file(&format!(r#"{{"weight":{tensor},"bias":{bias}}}"#), end);
        let error = load(&open(&bytes).unwrap()).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
        let message = format!("tensor weight is of {dtype}; expected F16, BF16, F32 or F64");
        assert!(error.to_string().contains(&message), "{error}");
    }
}

#[test]
fn a_file_cut_short_between_opening_and_loading_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, sound()).unwrap();
    let weights = Weights::open(&path).unwrap();
    std::fs::write(&path, &sound()[..100]).unwrap();
    let error = load(&weights).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
}

#[test]
fn a_file_that_is_not_there_is_an_error() {
    let error = Weights::open(Path::new("no such folder/model.safetensors")).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    let error = Weights::open(std::env::temp_dir()).unwrap_err();
    assert!(
        matches!(error, Error::Io { .. } | Error::Safetensors { .. }),
        "{error:?}"
    );
}

proptest! {
    #[test]
    fn changed_bytes_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = sound();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(weights) = open(&bytes) {
            let result = load(&weights);
            prop_assert!(matches!(result, Ok(_) | Err(Error::Tensors { .. })), "{result:?}");
        }
    }

    #[test]
    fn flipped_bits_and_a_cut_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8u8), 0..4), cut in any::<prop::sample::Index>()) {
        let mut bytes = sound();
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        bytes.truncate(cut.index(bytes.len()));
        if let Ok(weights) = open(&bytes) {
            let result = load(&weights);
            prop_assert!(matches!(result, Ok(_) | Err(Error::Tensors { .. })), "{result:?}");
        }
    }

    #[test]
    fn any_header_never_panics(header in r#"[{}\[\]",:a-cF0-9 ]{0,80}"#, data in 0..16usize) {
        let result = open(&file(&header, data));
        let expected = matches!(result, Ok(_) | Err(Error::Safetensors { .. }));
        prop_assert!(expected, "{result:?}");
    }

    #[test]
    fn changed_values_are_values(at in 0..28usize, value: u8) {
        let mut bytes = sound();
        let data = bytes.len() - 28;
        bytes[data + at] = value;
        load(&open(&bytes).unwrap()).unwrap();
    }
}
