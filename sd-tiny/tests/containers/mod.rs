//! A model's tensors in files of every kind that people have.

use std::collections::BTreeMap;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

/// A tensor's number type, shape and bytes.
#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) type Tensors = BTreeMap<String, Stored>;

pub(crate) fn read(file: &[u8]) -> Tensors {
    let file = SafeTensors::deserialize(file).unwrap();
    let tensors = file.iter().map(|(name, view)| {
        let stored = Stored {
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        };
        (name.to_string(), stored)
    });
    tensors.collect()
}

pub(crate) fn safetensors(tensors: &Tensors) -> Vec<u8> {
    let views = tensors.iter().map(|(name, t)| {
        let view = TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap();
        (name, view)
    });
    safetensors::serialize(views, None).unwrap()
}

/// A checkpoint as torch writes it: a pickle of the state dictionary, and each tensor's storage, in a
/// zip archive.
pub(crate) fn checkpoint(tensors: &Tensors) -> Vec<u8> {
    let mut pickle = b"\x80\x02}(".to_vec();
    let text = |to: &mut Vec<u8>, text: &str| {
        to.push(b'X');
        to.extend((text.len() as u32).to_le_bytes());
        to.extend(text.as_bytes());
    };
    let number = |to: &mut Vec<u8>, number: usize| {
        to.push(b'J');
        to.extend((number as u32).to_le_bytes());
    };
    text(&mut pickle, "global_step");
    number(&mut pickle, 470_000);
    text(&mut pickle, "state_dict");
    pickle.extend(b"}(");
    let mut entries = Vec::new();
    for (key, (name, tensor)) in tensors.iter().enumerate() {
        let class = match tensor.dtype {
            Dtype::F16 => "Half",
            Dtype::F32 => "Float",
            Dtype::I64 => "Long",
            other => panic!("{other:?}"),
        };
        text(&mut pickle, name);
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut pickle, "storage");
        pickle.extend(format!("ctorch\n{class}Storage\n").as_bytes());
        text(&mut pickle, &key.to_string());
        text(&mut pickle, "cpu");
        number(&mut pickle, tensor.shape.iter().product());
        pickle.push(b't');
        pickle.push(b'Q');
        number(&mut pickle, 0);
        let strides = (0..tensor.shape.len()).map(|side| tensor.shape[side + 1..].iter().product());
        for sides in [tensor.shape.clone(), strides.collect()] {
            pickle.push(b'(');
            sides.into_iter().for_each(|side| number(&mut pickle, side));
            pickle.push(b't');
        }
        pickle.extend(b"\x89ccollections\nOrderedDict\n)RtR");
        entries.push((format!("archive/data/{key}"), &tensor.bytes[..]));
    }
    pickle.extend(b"uu.");
    entries.insert(0, ("archive/data.pkl".into(), &pickle));
    zip(&entries)
}

/// An archive of stored entries.
fn zip(entries: &[(String, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let start = file.len() as u32;
        let [size, length] = [bytes.len() as u32, name.len() as u32];
        // Version, flags, method, time, date, sum; sizes; the name's length and none of more.
        let mut common = vec![0; 26];
        common[14..18].copy_from_slice(&size.to_le_bytes());
        common[18..22].copy_from_slice(&size.to_le_bytes());
        common[22..24].copy_from_slice(&length.to_le_bytes()[..2]);
        file.extend(b"PK\x03\x04");
        file.extend(&common);
        file.extend(name.as_bytes());
        file.extend(*bytes);
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(start.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let start = file.len() as u32;
    file.extend(&directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    let count = (entries.len() as u16).to_le_bytes();
    file.extend(count.iter().chain(&count));
    file.extend((directory.len() as u32).to_le_bytes());
    file.extend(start.to_le_bytes());
    file.extend([0; 2]);
    file
}

/// A tensor of a GGUF file: its name, its shape, the format's number for its type, its bytes.
pub(crate) type Entry = (String, Vec<usize>, u32, Vec<u8>);

/// A GGUF file as stable-diffusion.cpp writes it: no notes, innermost sides first, none of what is no
/// number of a network's.
pub(crate) fn gguf(tensors: &Tensors) -> Vec<u8> {
    let kind = |tensor: &Stored| match tensor.dtype {
        Dtype::F32 => Some(0_u32),
        Dtype::F16 => Some(1),
        _ => None,
    };
    let kept = tensors.iter().filter_map(|(name, tensor)| {
        // Outer sides of 1 are dropped.
        let sides = tensor.shape.iter().copied().skip_while(|side| *side == 1);
        let sides: Vec<usize> = sides.collect();
        let sides = if sides.is_empty() { vec![1] } else { sides };
        Some((name.clone(), sides, kind(tensor)?, tensor.bytes.clone()))
    });
    gguf_file(&[], &kept.collect::<Vec<_>>())
}

/// A GGUF file of these tensors, with a note of the shape of each that is stored in another.
pub(crate) fn gguf_file(shapes: &[(String, Vec<usize>)], tensors: &[Entry]) -> Vec<u8> {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    let text = |file: &mut Vec<u8>, text: &str| {
        file.extend((text.len() as u64).to_le_bytes());
        file.extend(text.as_bytes());
    };
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((shapes.len() as u64).to_le_bytes());
    for (name, shape) in shapes {
        text(&mut file, &format!("comfy.gguf.orig_shape.{name}"));
        // A list, of i32.
        file.extend([9_u32, 5].map(u32::to_le_bytes).concat());
        file.extend((shape.len() as u64).to_le_bytes());
        (shape.iter()).for_each(|side| file.extend((*side as i32).to_le_bytes()));
    }
    let mut data = Vec::new();
    for (name, sides, kind, bytes) in tensors {
        text(&mut file, name);
        file.extend((sides.len() as u32).to_le_bytes());
        sides
            .iter()
            .rev()
            .for_each(|side| file.extend((*side as u64).to_le_bytes()));
        file.extend(kind.to_le_bytes());
        file.extend((data.len() as u64).to_le_bytes());
        data.extend(bytes);
        data.resize(data.len().next_multiple_of(32), 0);
    }
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend(data);
    file
}
