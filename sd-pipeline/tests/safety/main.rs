//! CLIP looks at pictures: how they are prepared, how like a text they are, and whether they may
//! leave a run.

mod concepts;
mod folders;
mod gate;
mod preprocessing;
mod similarity;

use std::collections::BTreeMap;
use std::path::Path;

use sd_pipeline::RgbImage;

/// The picture of `fixtures/gen/clip_common.py`.
fn picture(seed: u64, width: usize, height: usize) -> RgbImage {
    let bytes = sd_fixtures::picture(seed, width, height);
    RgbImage::from_raw(width as u32, height as u32, bytes).unwrap()
}

/// The files of a folder of fixtures and of those in it, by their names within it.
fn fixture_files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        if path.is_dir() {
            let inner = fixture_files(&path).into_iter();
            files.extend(inner.map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            files.insert(name, std::fs::read(path).unwrap());
        }
    }
    files
}

/// The embedded model's files by name.
fn tiny_files() -> BTreeMap<String, Vec<u8>> {
    let tiny = sd_tiny::files();
    let mut files = BTreeMap::new();
    for folder in tiny.names() {
        let names = tiny.folder(&folder).names();
        if names.is_empty() {
            files.insert(folder.clone(), tiny.read(&folder).unwrap().to_vec());
        }
        for name in names {
            let bytes = tiny.folder(&folder).read(&name).unwrap();
            files.insert(format!("{folder}/{name}"), bytes.to_vec());
        }
    }
    files
}
