//! PyTorch checkpoints and GGUF files: their tensors are torch's and ggml's, bit for bit, and
//! whatever else a file asks for is refused by name.

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, FloatDType};
use proptest::prelude::*;
use sd_fixtures::Fixture;
use sd_models::testing::Linear;
use sd_models::{Blocks, Error, TensorInfo, TensorSource, Weights, open_source};

/// Values of a tensor from the one of number `first` on, as f64.
fn values(source: &dyn TensorSource, name: &str, first: usize, count: usize) -> Vec<f64> {
    let at = source.tensors().iter().position(|info| info.name == name);
    let at = at.unwrap_or_else(|| panic!("no tensor {name}"));
    let dtype = source.tensors()[at].dtype.unwrap();
    let mut bytes = vec![0; count * dtype.size()];
    source.read(at, first, &mut bytes).unwrap();
    let halves = || {
        let pairs = bytes.as_chunks::<2>().0.iter();
        pairs.map(|b| u16::from_le_bytes(*b))
    };
    match dtype {
        DType::F64 => {
            let all = bytes.as_chunks::<8>().0.iter();
            all.map(|b| f64::from_le_bytes(*b)).collect()
        }
        DType::F32 => {
            let all = bytes.as_chunks::<4>().0.iter();
            all.map(|b| f32::from_le_bytes(*b).into()).collect()
        }
        DType::F16 => halves().map(|x| half::f16::from_bits(x).into()).collect(),
        DType::BF16 => halves().map(|x| half::bf16::from_bits(x).into()).collect(),
        other => panic!("{name} is of {other:?}"),
    }
}

/// The tensor's values are those of `expected`, read as a whole and in parts of every length.
#[track_caller]
fn assert_values(source: &dyn TensorSource, name: &str, expected: &[f64]) {
    let bits = |values: &[f64]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let whole = values(source, name, 0, expected.len());
    assert_eq!(bits(&whole), bits(expected), "{name}");
    for len in [1, 3, 7, 31, 100] {
        for first in (0..expected.len()).step_by(len) {
            let len = len.min(expected.len() - first);
            let part = values(source, name, first, len);
            assert_eq!(
                bits(&part),
                bits(&expected[first..first + len]),
                "{name} at {first}"
            );
        }
    }
}

fn info<'a>(source: &'a dyn TensorSource, name: &str) -> &'a TensorInfo {
    let mut tensors = source.tensors().iter();
    tensors.find(|info| info.name == name).unwrap()
}

/// Values as torch has them, f16 and bf16 among them.
fn torch_values(fixture: &Fixture, name: &str) -> Vec<f64> {
    let bytes = std::fs::read(sd_fixtures::path("checkpoints.safetensors")).unwrap();
    let weights = sd_models::Weights::from_bytes("reference", bytes).unwrap();
    match weights.dtype(name).unwrap() {
        DType::F16 | DType::BF16 => {
            let source = open_source(sd_fixtures::path("checkpoints.safetensors")).unwrap();
            let count = fixture.shape(name).iter().product();
            values(&*source, name, 0, count)
        }
        _ => fixture.values(name),
    }
}

#[test]
fn checkpoints_of_every_form_hold_torchs_tensors() {
    let fixture = Fixture::open("checkpoints");
    for file in ["zip", "legacy", "protocol4", "nested"] {
        let path = sd_fixtures::path(&format!("checkpoints/{file}.ckpt"));
        let source = open_source(path).unwrap();
        let settings = fixture.settings();
        let expected = settings.as_object().unwrap();
        assert_eq!(source.tensors().len(), expected.len(), "{file}");
        for (name, expected) in expected {
            let found = info(&*source, name);
            let shape: Vec<usize> = serde_json::from_value(expected[1].clone()).unwrap();
            assert_eq!(found.shape, shape, "{file}: {name}");
            let dtype = match expected[0].as_str().unwrap() {
                "float32" => "F32",
                "float16" => "F16",
                "bfloat16" => "BF16",
                "float64" => "F64",
                "int64" => "I64",
                "bool" => "BOOL",
                other => panic!("{other}"),
            };
            assert_eq!(found.stored, dtype, "{file}: {name}");
        }
        for name in fixture.keys() {
            assert_values(&*source, &name, &torch_values(&fixture, &name));
        }
        // Whole numbers are read as they are.
        let tensors = source.tensors().iter().enumerate();
        for (index, info) in tensors.filter(|(_, info)| info.stored == "I64") {
            let mut bytes = [0; 2 * size_of::<i64>()];
            source.read(index, 3, &mut bytes).unwrap();
            assert_eq!(bytes, [3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
            assert!(info.name.ends_with("position_ids"), "{file}");
        }
        let step = source.metadata().get("global_step").map(String::as_str);
        assert_eq!(step, (file != "nested").then_some("875000"));
    }
}

#[test]
fn the_averaged_tensors_of_an_upscaler_are_those_it_is_used_with() {
    let source = open_source(sd_fixtures::path("checkpoints/upscaler.pth")).unwrap();
    let found: BTreeMap<_, _> = source
        .tensors()
        .iter()
        .map(|info| (info.name.as_str(), (info.stored, info.dtype)))
        .collect();
    let expected = [
        ("f32", ("F32", Some(DType::F32))),
        ("f8", ("F8_E4M3", None)),
        ("u16", ("U16", None)),
    ];
    assert_eq!(found, BTreeMap::from(expected));
    let fixture = Fixture::open("checkpoints");
    assert_values(&*source, "f32", &fixture.values("f32"));
}

#[test]
fn a_textual_inversions_vectors_are_found_in_torchs_dictionary_of_parameters() {
    let source = open_source(sd_fixtures::path("checkpoints/embedding.pt")).unwrap();
    let fixture = Fixture::open("checkpoints");
    assert_values(&*source, "string_to_param.*", &fixture.values("f32"));
    assert_eq!(source.metadata()["name"], "thing");
    assert_eq!(source.metadata()["step"], "500");
}

#[test]
fn a_gguf_files_tensors_have_ggmls_values() {
    let fixture = Fixture::open("gguf");
    let plain = open_source(sd_fixtures::path("gguf/no_notes.gguf")).unwrap();
    let noted = open_source(sd_fixtures::path("gguf/notes.gguf")).unwrap();
    for name in fixture.keys() {
        let source = if name == "reshaped" { &noted } else { &plain };
        assert_eq!(info(&**source, &name).shape, fixture.shape(&name), "{name}");
        let expected = fixture.values(&name);
        assert_values(&**source, &name, &expected);
    }
    assert_eq!(plain.tensors().len(), fixture.keys().len());
    let ids = info(&*plain, "position_ids");
    assert_eq!((ids.stored, ids.dtype), ("I32", None));
    assert_eq!(info(&*plain, "Q4_K.weight").stored, "Q4_K");
    assert_eq!(noted.metadata()["general.architecture"], "sdxl");
}

/// Blocks as the file has them are what its values are made of.
#[test]
fn a_gguf_files_blocks_are_read_as_they_are() {
    let fixture = Fixture::open("gguf");
    let source = open_source(sd_fixtures::path("gguf/no_notes.gguf")).unwrap();
    let mut seen = Vec::new();
    for (i, info) in source.tensors().iter().enumerate() {
        let Some(blocks) = source.blocks(i) else {
            assert!(!info.stored.starts_with('Q'), "{}", info.name);
            let error = source.read_blocks(i, 0, &mut [0; 34]).unwrap_err();
            assert!(error.to_string().contains("quantised blocks"), "{error}");
            continue;
        };
        assert_eq!(format!("{blocks:?}").replace('K', "_K"), info.stored);
        // All but the first block.
        let count = info.shape.iter().product::<usize>() / blocks.elements() - 1;
        let mut bytes = vec![0; count * blocks.bytes()];
        source.read_blocks(i, 1, &mut bytes).unwrap();
        let mut found = vec![0.0; count * blocks.elements()];
        blocks.decode(&bytes, &mut found).unwrap();
        let found: Vec<f64> = found.into_iter().map(f64::from).collect();
        let expected = &fixture.values(&info.name)[blocks.elements()..];
        assert_eq!(found, expected, "{}", info.name);
        seen.push(blocks);
    }
    assert!(Blocks::ALL.iter().all(|blocks| seen.contains(blocks)));
}

/// A GGUF file of one tensor.
fn gguf(name: &str, sides: &[u64], kind: u32, offset: u64, data: &[u8]) -> Vec<u8> {
    let mut file = b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend((name.len() as u64).to_le_bytes());
    file.extend(name.as_bytes());
    file.extend((sides.len() as u32).to_le_bytes());
    for side in sides {
        file.extend(side.to_le_bytes());
    }
    file.extend(kind.to_le_bytes());
    file.extend(offset.to_le_bytes());
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend(data);
    file
}

#[test]
fn forged_gguf_files_are_refused() {
    let expect = |bytes: Vec<u8>, reason: &str| {
        let error = Weights::from_bytes("model.gguf", bytes).unwrap_err();
        assert!(matches!(error, Error::Gguf { .. }), "{error:?}");
        assert!(error.to_string().contains(reason), "{error}");
    };
    Weights::from_bytes("model.gguf", gguf("w", &[2, 1], 0, 0, &[0; 8])).unwrap();
    let huge = u64::MAX / 2;
    expect(gguf("w", &[huge, 4], 0, 0, &[]), "absurd size");
    expect(gguf("w", &[huge], 0, 0, &[]), "absurd size");
    expect(gguf("w", &[1 << 40], 0, 0, &[]), "before tensor w does");
    expect(gguf("w", &[2], 0, u64::MAX, &[0; 8]), "absurd size");
    expect(
        gguf("w", &[2], 0, 0, &[0; 7]),
        "ends 1 bytes before tensor w",
    );
    expect(gguf("w", &[33], 2, 0, &[0; 99]), "no multiple of 32");
    expect(gguf("w", &[2], 99, 0, &[0; 8]), "unknown number type 99");
    expect(gguf("w", &[2; 9], 0, 0, &[0; 8]), "9 sides");
    expect(
        gguf("w", &[2], 0, 0, &[0; 8])[..40].to_vec(),
        "ends too early",
    );
    let mut many = gguf("w", &[2], 0, 0, &[0; 8]);
    many[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    expect(many.clone(), "claims 18446744073709551615 tensors");
    many[4] = 1;
    expect(many, "version 1");
    let mut long = gguf("w", &[2], 0, 0, &[0; 8]);
    long[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
    expect(long, "a name in it claims");
}

/// The older form of a checkpoint whose object is made by `pickle`, with one storage of 12 bytes.
fn legacy(pickle: &[u8]) -> Vec<u8> {
    let mut file = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.".to_vec();
    file.extend(b"\x80\x02}X\x0d\0\0\0little_endian\x88s.");
    file.extend(pickle);
    file.extend(b"\x80\x02]X\x01\0\0\0" as &[u8]);
    file.extend(b"0a.");
    file.extend(3u64.to_le_bytes());
    file.extend([1.0f32, 2.0, 3.0].iter().flat_map(|x| x.to_le_bytes()));
    file
}

/// A text's opcode.
fn text(text: &str) -> Vec<u8> {
    let len = (text.len() as u32).to_le_bytes();
    [b"X", &len[..], text.as_bytes()].concat()
}

/// A storage of three numbers.
fn storage() -> Vec<u8> {
    let [kind, key, place] = ["storage", "0", "cpu"].map(text);
    let class = b"ctorch\nFloatStorage\n";
    [b"(", &kind[..], class, &key, &place, b"K\x03tQ"].concat()
}

/// A call that makes a tensor of the storage.
fn tensor(offset: &[u8], sides: &[u8], strides: &[u8]) -> Vec<u8> {
    let (function, hooks) = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(",
        b"\x89ccollections\nOrderedDict\n)RtR",
    );
    [function, &storage()[..], offset, sides, strides, hooks].concat()
}

/// A checkpoint `{"weight": …}`.
fn holding(value: &[u8]) -> Vec<u8> {
    legacy(&[b"\x80\x02}", &text("weight")[..], value, b"s."].concat())
}

fn sound() -> Vec<u8> {
    holding(&tensor(b"K\x00", b"K\x01K\x03\x86", b"K\x03K\x01\x86"))
}

/// An entry of an archive: name, content, method of compression.
type Entry<'a> = (&'a str, Vec<u8>, u16);

/// A zip archive whose entries are stored.
fn zip(entries: &[Entry<'_>]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, content, method) in entries {
        let (size, len, at) = (content.len() as u32, name.len() as u16, file.len() as u32);
        let common = [
            &[20, 0, 0, 0][..],
            &method.to_le_bytes(),
            &[0; 8],
            &size.to_le_bytes(),
            &size.to_le_bytes(),
            &len.to_le_bytes(),
            &[0, 0],
        ];
        let common = common.concat();
        file.extend([b"PK\x03\x04", &common[..], name.as_bytes(), content].concat());
        let place = [&[0; 10][..], &at.to_le_bytes(), name.as_bytes()].concat();
        directory.extend([b"PK\x01\x02\x14\0", &common[..], &place].concat());
    }
    let (start, size, count) = (
        file.len() as u32,
        directory.len() as u32,
        entries.len() as u16,
    );
    file.extend(directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
    file.extend([size.to_le_bytes(), start.to_le_bytes()].concat());
    file.extend([0, 0]);
    file
}

/// A zip checkpoint with one storage of 12 bytes.
fn archive() -> Vec<Entry<'static>> {
    let tensor = tensor(b"K\x00", b"K\x01K\x03\x86", b"K\x03K\x01\x86");
    let pickle = [b"\x80\x02}", &text("weight")[..], &tensor, b"s."].concat();
    let numbers = [1.0f32, 2.0, 3.0].iter().flat_map(|x| x.to_le_bytes());
    vec![
        ("archive/data.pkl", pickle, 0),
        ("archive/data/0", numbers.collect(), 0),
    ]
}

#[test]
fn a_checkpoint_loads_as_a_safetensors_file_does() {
    for bytes in [sound(), zip(&archive())] {
        let weights = Weights::from_bytes("model.ckpt", bytes).unwrap();
        let linear = Linear::new(3, 1, false, &Device::flex());
        weights.load_into(linear, FloatDType::F32).unwrap();
        let shapes: Vec<_> = weights.shapes().collect();
        assert_eq!(shapes, [("weight", &[1, 3][..])]);
    }
}

/// Pickles that would have something run, and what the refusal names.
fn attacks() -> Vec<(Vec<u8>, &'static str)> {
    let command = text("touch /tmp/owned");
    let call = |function: &str| [function.as_bytes(), &command, b"\x85R"].concat();
    let object = |class: &str, rest: &[u8]| [class.as_bytes(), rest].concat();
    let own = "c__main__\nModel\n";
    vec![
        (call("cos\nsystem\n"), "REDUCE of os.system"),
        (call("cposix\nsystem\n"), "REDUCE of posix.system"),
        (call("cnt\nsystem\n"), "REDUCE of nt.system"),
        (call("cbuiltins\neval\n"), "REDUCE of builtins.eval"),
        (call("c__builtin__\nexec\n"), "REDUCE of __builtin__.exec"),
        (call("csubprocess\nPopen\n"), "REDUCE of subprocess.Popen"),
        (call("crunpy\n_run_code\n"), "REDUCE of runpy._run_code"),
        (call("ctorch\nload\n"), "REDUCE of torch.load"),
        (
            call("ctorch.storage\n_load_from_bytes\n"),
            "REDUCE of torch.storage._load_from_bytes",
        ),
        (
            call("ccopyreg\n_reconstructor\n"),
            "REDUCE of copyreg._reconstructor",
        ),
        (
            call("cnumpy.testing._private.utils\nrunstring\n"),
            "REDUCE of numpy.testing._private.utils.runstring",
        ),
        // A function that another gives: what it is called with would be evaluated first.
        (
            [
                b"cbuiltins\ngetattr\ncos\nX\n",
                &text("system")[..],
                b"\x86R",
                &command,
                b"\x85R",
            ]
            .concat(),
            "REDUCE of builtins.getattr",
        ),
        // Named in one way or another, and called by the stack's form of it.
        (
            [
                &text("os")[..],
                &text("system"),
                b"\x93",
                &command,
                b"\x85R",
            ]
            .concat(),
            "REDUCE of os.system",
        ),
        // A name from the memo.
        (
            [b"cos\nsystem\nq\x010h\x01", &command[..], b"\x85R"].concat(),
            "REDUCE of os.system",
        ),
        // Within the arguments of a call that is allowed.
        (
            [
                b"ccollections\nOrderedDict\n",
                &call("cos\nsystem\n")[..],
                b"\x85R",
            ]
            .concat(),
            "REDUCE of os.system",
        ),
        // The function that a call that is allowed would call.
        (
            [b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nN)NtR" as &[u8]].concat(),
            "REDUCE of os.system",
        ),
        // A text that is called like a function that may be.
        (
            [&text("collections.OrderedDict")[..], b")R"].concat(),
            "REDUCE of a text",
        ),
        (object(own, b")\x81"), "NEWOBJ of __main__.Model"),
        (object(own, b")}\x92"), "the opcode NEWOBJ_EX"),
        (object(own, b"}b"), "BUILD of __main__.Model"),
        (
            object("}", b"cos\nsystem\nb"),
            "BUILD of a dictionary with os.system",
        ),
        (object(own, b"K\x01a"), "APPEND of __main__.Model"),
        (object(own, b"K\x01K\x02s"), "SETITEM of __main__.Model"),
        ([b"(ios\nsystem\n" as &[u8]].concat(), "the opcode INST"),
        (
            [b"(cos\nsystem\n", &command[..], b"o"].concat(),
            "the opcode OBJ",
        ),
        (vec![0x82, 1], "the opcode EXT1"),
        (b"P0\n".to_vec(), "the opcode PERSID"),
    ]
}

#[test]
fn whatever_would_be_run_is_refused_by_name() {
    for (attack, words) in attacks() {
        let zipped = {
            let mut entries = archive();
            entries[0].1 = [b"\x80\x02", &attack[..], b"."].concat();
            zip(&entries)
        };
        let whole = legacy(&[b"\x80\x04", &attack[..], b"."].concat());
        for bytes in [whole, holding(&attack), zipped] {
            let error = Weights::from_bytes("model.ckpt", bytes).unwrap_err();
            assert!(matches!(error, Error::Refused { .. }), "{words}: {error:?}");
            assert!(error.to_string().ends_with(words), "{words}: {error}");
        }
    }
}

#[test]
fn what_is_only_named_stays_a_name() {
    let tensor = tensor(b"K\x00", b"K\x03\x85", b"K\x01\x85");
    let named = b"cos\nsystem\n";
    // As a key, as a value, in a list, and as the tensor's class.
    let pickle = [
        b"\x80\x02}",
        &named[..],
        b"K\x01s",
        &text("callback"),
        named,
        b"s",
        &text("list"),
        b"]",
        named,
        b"as",
        &text("weight"),
        &tensor,
        b"s.",
    ];
    let weights = Weights::from_bytes("model.ckpt", legacy(&pickle.concat())).unwrap();
    assert_eq!(weights.shapes().collect::<Vec<_>>(), [("weight", &[3][..])]);
}

#[test]
fn forged_checkpoints_are_refused() {
    let expect = |bytes: Vec<u8>, reason: &str| {
        let error = Weights::from_bytes("model.ckpt", bytes).unwrap_err();
        assert!(
            matches!(error, Error::Checkpoint { .. }),
            "{reason}: {error:?}"
        );
        assert!(error.to_string().contains(reason), "{reason}: {error}");
    };
    let outside = "lies outside its storage of 3 elements";
    let view =
        |offset: &[u8], sides: &[u8], strides: &[u8]| holding(&tensor(offset, sides, strides));
    let huge = b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f";
    let two = |n: &[u8]| [n, n, b"\x86"].concat();
    expect(view(b"K\x01", b"K\x03\x85", b"K\x01\x85"), outside);
    expect(view(b"K\x00", b"K\x04\x85", b"K\x01\x85"), outside);
    expect(view(b"K\x00", b"K\x02\x85", b"K\x03\x85"), outside);
    expect(view(huge, b"K\x01\x85", b"K\x01\x85"), outside);
    expect(view(b"K\x00", &two(huge), &two(huge)), outside);
    expect(view(b"K\x00", &two(huge), &two(b"K\x00")), outside);
    // One element, repeated a billion times: a few bytes that would be gigabytes.
    let billion = b"J\x00\x00\x00\x40";
    let repeated = [billion as &[u8], b"\x85"].concat();
    expect(view(b"K\x00", &repeated, b"K\x00\x85"), outside);
    // A side of 0 behind more than there can be.
    let empty = [huge, b"K\x04K\x00\x87" as &[u8]].concat();
    expect(view(b"K\x00", &empty, b"K\x00K\x00K\x00\x87"), outside);
    expect(
        view(b"K\x00", b"J\xff\xff\xff\xff\x85", b"K\x01\x85"),
        "makes a tensor of what is none",
    );
    expect(
        view(b"K\x00", b"K\x01\x85", b")"),
        "makes a tensor of what is none",
    );
    // Bombs: of the stack, of marks, of the memo, of objects within objects, of lengths, of size.
    let bomb = |body: Vec<u8>| holding(&body);
    expect(bomb(vec![b'N'; 1 << 20]), "piles too much on its stack");
    expect(
        bomb(vec![b'('; 1 << 20]),
        "MARK: its pickle nests too deeply",
    );
    expect(
        bomb(b"Nr\xff\xff\xff\xff".to_vec()),
        "has a memo 4294967295",
    );
    expect(
        bomb([b"]".to_vec(), b"]a".repeat(1 << 20)].concat()),
        "makes more than any checkpoint's",
    );
    expect(
        bomb(b")0".repeat(1 << 20)),
        "makes more than any checkpoint's",
    );
    expect(
        bomb([b")".to_vec(), vec![0x85; 1 << 22]].concat()),
        "makes more than any checkpoint's",
    );
    expect(bomb(b"N0".repeat(17 << 20)), "longer than any checkpoint's");
    expect(bomb(b"X\xff\xff\xff\xff".to_vec()), "ends too early");
    expect(
        bomb(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff".to_vec()),
        "ends too early",
    );
    expect(bomb(b"\x8b\xff\xff\xff\xff".to_vec()), "ends too early");
    expect(
        bomb([b"c".to_vec(), vec![b'a'; 5000]].concat()),
        "GLOBAL: its pickle has a name",
    );
    // A doubling of a doubling: as many leaves as atoms, and as small as it is long.
    let mut doubled = b")".to_vec();
    for _ in 0..1000 {
        doubled.extend(b"2\x86");
    }
    let none = "it holds no tensors by name";
    let archive_of = |pickle: &[u8]| {
        let mut entries = archive();
        entries[0].1 = [b"\x80\x02", pickle, b"."].concat();
        zip(&entries)
    };
    expect(archive_of(&doubled), none);
    // A dictionary within itself.
    expect(archive_of(b"}q\x01X\x01\0\0\0ah\x01s"), none);
    expect(holding(b"h\x07"), "no memo 7");
    expect(holding(b"\xff"), "no opcode 0xff");
    expect(holding(b"000"), "takes from an empty stack");
    expect(holding(b"t"), "no MARK");
    expect(legacy(b"\x80\x09N."), "protocol 9");
    expect(legacy(b"\x80\x02N."), "nothing says of what size storage");
    // The storages.
    let mut other = sound();
    let at = other.len() - 20;
    other[at] = 4;
    expect(other, "has 4 elements, expected 3");
    expect(sound()[..at + 19].to_vec(), "ends within storage 0");
    let mut big = sound();
    let at = big.windows(13).position(|w| w == b"little_endian").unwrap() + 13;
    big[at] = 0x89;
    expect(big, "big-endian");
}

#[test]
fn forged_archives_are_refused() {
    let expect = |entries: &[Entry<'_>], reason: &str| {
        let error = Weights::from_bytes("model.ckpt", zip(entries)).unwrap_err();
        assert!(
            matches!(error, Error::Checkpoint { .. }),
            "{reason}: {error:?}"
        );
        assert!(error.to_string().contains(reason), "{reason}: {error}");
    };
    let with = |change: &dyn Fn(&mut Vec<Entry<'static>>)| {
        let mut entries = archive();
        change(&mut entries);
        entries
    };
    for name in [
        "../archive/data/0",
        "/etc/passwd",
        "archive/../../x",
        "C:\\x",
        "archive//x",
    ] {
        let entries = with(&|e| e.push((name, vec![], 0)));
        expect(&entries, "has a name that leads out of the archive");
    }
    expect(
        &with(&|e| e[1].2 = 8),
        "entry archive/data/0 is compressed or encrypted (method 8)",
    );
    expect(&with(&|e| drop(e.pop())), "no entry archive/data/0");
    expect(&with(&|e| e[1].1.truncate(11)), "has 11 bytes, expected 12");
    expect(
        &with(&|e| e.push(e[1].clone())),
        "entry archive/data/0 is there twice",
    );
    expect(
        &with(&|e| e.push(("other/data.pkl", vec![], 0))),
        "more than one data.pkl",
    );
    expect(&with(&|e| e[0].0 = "archive/data"), "without a data.pkl");
    expect(
        &with(&|e| e.push(("archive/constants.pkl", vec![], 0))),
        "TorchScript",
    );
    expect(
        &with(&|e| e.push(("archive/byteorder", b"big".to_vec(), 0))),
        "big-endian",
    );
    let whole = zip(&archive());
    for length in [whole.len() - 1, whole.len() / 2, 8] {
        let error = Weights::from_bytes("model.ckpt", whole[..length].to_vec()).unwrap_err();
        assert!(error.to_string().contains("(cut short?)"), "{error}");
    }
    // Both of the directory's entries are the first one: names in two places must agree.
    let mut twice = whole.clone();
    let at = twice.len() - 22 - "archive/data/0".len() - 4;
    twice[at..at + 4].fill(0);
    let error = Weights::from_bytes("model.ckpt", twice).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("entry archive/data/0 has two names"),
        "{error}"
    );
}

fn flipped(mut bytes: Vec<u8>, flips: Vec<(prop::sample::Index, u8)>) -> Vec<u8> {
    for (at, value) in flips {
        let at = at.index(bytes.len());
        bytes[at] = value;
    }
    bytes
}

proptest! {
    #[test]
    fn changed_checkpoints_and_gguf_files_never_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        which in 0..4usize,
    ) {
        let file = match which {
            0 => sound(),
            1 => zip(&archive()),
            2 => std::fs::read(sd_fixtures::path("checkpoints/zip.ckpt")).unwrap(),
            _ => std::fs::read(sd_fixtures::path("gguf/notes.gguf")).unwrap(),
        };
        if let Ok(weights) = Weights::from_bytes("model", flipped(file, flips)) {
            let linear = Linear::new(3, 1, false, &Device::flex());
            let _ = weights.load_into(linear, FloatDType::F32);
        }
    }
}
