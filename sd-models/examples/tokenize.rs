//! Prints the token ids of each text of a file, for comparing the tokenizer with others:
//! `cargo run --example tokenize -- FOLDER FILE`, FOLDER being a model's `tokenizer` folder and
//! FILE one JSON string per line. The output is one JSON list per line.

use std::error::Error;
use std::io::{BufWriter, Write, stdout};

use sd_models::{ClipTokenizer, Files};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, file] = &arguments[..] else {
        return Err("usage: tokenize FOLDER FILE".into());
    };
    let tokenizer = ClipTokenizer::open(&Files::directory(folder))?;
    let mut out = BufWriter::new(stdout().lock());
    for line in std::fs::read_to_string(file)?.lines() {
        let text: String = serde_json::from_str(line)?;
        let ids = tokenizer.encode(&text)?.ids;
        writeln!(out, "{}", serde_json::to_string(&ids)?)?;
    }
    Ok(())
}
