//! Files with the headers of real ones, and zeros that take no room on the disk.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

/// Names, number types as safetensors spells them, and shapes.
pub(crate) type Tensors = Vec<(String, String, Vec<usize>)>;

/// Writes a safetensors file with these tensors.
pub(crate) fn write(path: &Path, tensors: &Tensors, metadata: Value) {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    header.insert("__metadata__".into(), metadata);
    for (name, dtype, shape) in tensors {
        let size = match dtype.as_str() {
            "F64" | "I64" => 8,
            "F32" | "I32" => 4,
            "F16" | "BF16" => 2,
            "U8" | "F8_E4M3" => 1,
            other => panic!("{other}"),
        };
        let (start, elements) = (end, shape.iter().product::<usize>());
        end += elements * size;
        let tensor = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]});
        header.insert(name.clone(), tensor);
    }
    let header = Value::Object(header).to_string();
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
}
