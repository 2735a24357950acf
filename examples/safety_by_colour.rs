//! A safety checker of our own: by colour, on the embedded model.
//!
//! `cargo run --release --example safety_by_colour`

use std::error::Error;

use sd_pipeline::{OnFlagged, Result, RgbImage, SafetyChecker, Verdict, device, write_png};

/// Finds pictures with too much red in them.
struct NoRed;

impl SafetyChecker for NoRed {
    fn check(&self, picture: &RgbImage) -> Result<Verdict> {
        let red = picture
            .pixels()
            .filter(|p| p[0] > 128 && p[1].max(p[2]) < 80);
        let share = red.count() as f32 / picture.pixels().len() as f32;
        Ok(Verdict::new(share > 0.02).with("red", share - 0.02))
    }
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let mut pipeline = sd_tiny::pipeline(&device("flex")?)?;
    pipeline.safety_checker = Some(NoRed.into());
    pipeline.on_flagged = OnFlagged::Blur;
    for prompt in ["a blue cube on a grey floor", "a red cube on a grey floor"] {
        let picture = &pipeline.generate(&sd_tiny::request(prompt))?[0];
        let file = format!("{}.png", prompt.replace(' ', "-"));
        write_png(picture, &file)?;
        let verdict = picture.verdict.as_ref();
        println!(
            "{file}: {}",
            verdict.map_or("not checked".into(), ToString::to_string)
        );
    }
    Ok(())
}
