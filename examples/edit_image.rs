//! Draws anew a picture, or a part of it, as a prompt says.
//!
//! `cargo run --release --example edit_image -- "a green cube" --image cube.png --strength 0.8`

mod support;

use std::error::Error;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use sd_pipeline::{PictureStart, PictureToChange, Request, Resize, RgbImage, Start, read_picture};
use support::{Arguments, Drawing};

/// Draws anew a picture, or a part of it, as a prompt says.
#[derive(Parser)]
#[command(mut_arg("prompt", |prompt| prompt.required(true).default_value(None)))]
#[command(mut_arg("latents_in", |latents| latents.hide(true).conflicts_with("image")))]
struct EditArguments {
    #[command(flatten)]
    common: Arguments,
    /// The picture to start from: PNG, JPEG or WebP, of any size
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// The area to draw anew: a picture whose white is repainted and whose black stays
    #[arg(long, value_name = "FILE")]
    mask: Option<PathBuf>,
    /// Share of the run that is taken, above 0, the picture all but kept, to 1 [default: what the
    /// model's kind has, mostly 0.8 or 0.3]
    #[arg(long, allow_negative_numbers = true)]
    strength: Option<f64>,
    /// Means to keep what is not repainted: after each step, in the model, or by grey as a strength
    #[arg(long, value_enum)]
    rule: Option<Rule>,
    /// Pixels to draw beyond the picture: left, top, right, bottom
    #[arg(long, value_name = "L,T,R,B", value_parser = sides)]
    expand: Option<[u32; 4]>,
    /// What lies beyond the picture before it is drawn
    #[arg(long, value_enum, requires = "expand")]
    fill: Option<Fill>,
    /// Leave the bytes of what is not repainted as they are
    #[arg(long)]
    keep_unmasked: bool,
    /// Draw the mask's surroundings alone, with so many pixels around it
    #[arg(long, value_name = "PADDING", requires = "mask")]
    masked_only: Option<u32>,
    /// Guidance scale of the picture, for a model that is told how to change it (InstructPix2Pix)
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true)]
    image_guidance: Option<f64>,
    /// Way of the picture to a size of other proportions
    #[arg(long, value_enum, default_value_t = Way::Stretch)]
    resize: Way,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rule {
    Step,
    Model,
    Soft,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Fill {
    Edge,
    Blur,
    Mirror,
    Noise,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    Crop,
    Fit,
    Stretch,
}

fn main() -> std::process::ExitCode {
    support::run(|| edit(&EditArguments::parse()))
}

fn edit(arguments: &EditArguments) -> Result<(), Box<dyn Error>> {
    arguments.common.check_output()?;
    arguments.refuse_unfinished()?;
    let image = read_picture(&arguments.image)?;
    let drawing = Drawing::open(&arguments.common, None)?;
    if drawing.pipeline.denoiser.spec().takes_picture() {
        return change(arguments, image, drawing);
    }
    let defaults = drawing.pipeline.defaults();
    let start = PictureStart {
        resize: arguments.resize.into(),
        ..PictureStart::new(image, arguments.strength.unwrap_or(defaults.strength))
    };
    let request = Request {
        start: Start::Picture(start),
        image_guidance_scale: arguments.image_guidance,
        ..drawing.request()
    };
    drawing.draw(&request)
}

/// Draws the picture changed as the prompt says, by a model that sees it beside the latent.
fn change(
    arguments: &EditArguments,
    image: RgbImage,
    drawing: Drawing<'_>,
) -> Result<(), Box<dyn Error>> {
    let of_other_models = [
        ("--strength", arguments.strength.is_some()),
        ("--mask", arguments.mask.is_some()),
        ("--rule", arguments.rule.is_some()),
        ("--expand", arguments.expand.is_some()),
        ("--keep-unmasked", arguments.keep_unmasked),
    ];
    if let Some((option, _)) = of_other_models.iter().find(|(_, is)| *is) {
        let why = "this model sees the whole picture and changes it as the prompt says \
                   (--image-guidance)";
        return Err(format!("{option} cannot be used: {why}").into());
    }
    let request = Request {
        picture: Some(PictureToChange {
            resize: arguments.resize.into(),
            ..image.into()
        }),
        image_guidance_scale: arguments.image_guidance,
        ..drawing.request()
    };
    drawing.draw(&request)
}

impl EditArguments {
    /// Parts of the contract that are still to be built.
    fn refuse_unfinished(&self) -> Result<(), Box<dyn Error>> {
        let asked = [
            ("--mask", self.mask.is_some()),
            ("--rule", self.rule.is_some()),
            ("--expand", self.expand.is_some()),
            ("--fill", self.fill.is_some()),
            ("--keep-unmasked", self.keep_unmasked),
            ("--masked-only", self.masked_only.is_some()),
        ];
        match asked.iter().find(|(_, is)| *is) {
            Some((option, _)) => Err(format!("{option} is not supported yet").into()),
            None => Ok(()),
        }
    }
}

impl From<Way> for Resize {
    fn from(way: Way) -> Self {
        match way {
            Way::Crop => Self::Crop,
            Way::Fit => Self::Fit,
            Way::Stretch => Self::Stretch,
        }
    }
}

/// Four numbers of pixels.
fn sides(text: &str) -> Result<[u32; 4], String> {
    let sides: Result<Vec<u32>, _> = text.split(',').map(|side| side.trim().parse()).collect();
    let sides = sides.ok().and_then(|sides| sides.try_into().ok());
    sides.ok_or("expected four numbers of pixels, left,top,right,bottom, as 64,0,64,0".into())
}
