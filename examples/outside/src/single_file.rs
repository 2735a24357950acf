//! A picture from a model in one file, as people download it: `.safetensors`, `.ckpt` or `.gguf`.
//!
//! What the file does not say (is the output noise or velocity?) the caller may, in
//! [`OpenOptions`]: `prediction`, `family`, `config`; and `folders` takes another autoencoder.

use std::path::Path;

use sd_pipeline::{OpenOptions, Pipeline, Request, Result, device, write_png};

/// Draws `prompt` with the model in the file `model` into the file `picture`.
///
/// # Errors
/// Those of the files, and of the drawing.
pub fn draw(model: &Path, prompt: &str, picture: &Path) -> Result<()> {
    let options = OpenOptions::new(&device("flex")?);
    let pipeline = Pipeline::open(model, &options)?;
    // Steps and guidance of the model's kind.
    let request = Request::for_pipeline(&pipeline, prompt);
    write_png(&pipeline.generate(&request)?[0], picture)
}

#[cfg(test)]
mod tests {
    use sd_pipeline::Error;
    use sd_pipeline::models::Error as ModelError;
    use sd_tiny::micro::{Family, Layout, Micro};

    use super::*;

    #[test]
    fn a_file_that_is_of_no_known_family_is_refused_with_a_word_on_what_to_say() {
        let folder = tempfile::tempdir().unwrap();
        let micro = Micro::new(Family::Sd1, Layout::Ldm, 0).unwrap();
        micro.write_to(folder.path()).unwrap();
        let [model, picture] =
            ["model.safetensors", "out.png"].map(|name| folder.path().join(name));
        let error = draw(&model, "a lighthouse", &picture).unwrap_err();
        assert!(
            error.to_string().contains("a word of the caller"),
            "{error}"
        );
        assert!(matches!(error, Error::Model(ModelError::Contents { .. })));
        assert!(!picture.exists());
    }
}
