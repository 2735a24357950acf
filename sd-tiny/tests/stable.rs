//! The promise to embedders: within a minor version the same request draws the same picture.

use sd_pipeline::{Request, Result, device};

/// Difference that the promise allows a byte.
const TOLERANCE: u8 = 2;

/// Drawn by diffusers 0.42.1 from the model as it was when the minor version began. It changes with
/// the model, and only then (`fixtures/gen/pipeline.py` writes it).
const PICTURE: &[u8] = include_bytes!("stable.png");

#[test]
fn the_picture_is_the_one_of_this_minor_version() -> Result<()> {
    let expected = image::load_from_memory(PICTURE).expect("a PNG").to_rgb8();
    let pipeline = sd_tiny::pipeline(&device("flex")?)?;
    let request = Request {
        seed: 2026,
        ..sd_tiny::request(sd_tiny::PROMPT)
    };
    let picture = &pipeline.generate(&request)?[0];
    assert_eq!(picture.dimensions(), expected.dimensions());
    let pairs = picture.as_raw().iter().zip(expected.as_raw());
    let furthest = pairs.map(|(a, b)| a.abs_diff(*b)).max();
    assert!(
        furthest <= Some(TOLERANCE),
        "a byte moved by {furthest:?}: a change of the model or of what it draws needs a new minor version"
    );
    Ok(())
}
