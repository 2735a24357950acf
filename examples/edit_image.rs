//! Draws anew a picture, or a part of it, as a prompt says.
//!
//! `cargo run --release --example edit_image -- "a green cube" --image cube.png --strength 0.8`

mod support;

use std::error::Error;
use std::path::PathBuf;

use clap::builder::ArgPredicate;
use clap::{Arg, Parser, ValueEnum};
use sd_pipeline::{
    Expand, GrayImage, Inpaint, MaskRule, PictureStart, PictureToChange, Record, Request, Resize,
    RgbImage, Start, read_mask, read_picture,
};
use support::{Arguments, Drawing};

/// What a picture's record says of a picture that was made from another, and nobody else then.
const SAID: [&str; 9] = [
    "strength",
    "rule",
    "mask_grow",
    "mask_blur",
    "keep_unmasked",
    "masked_only",
    "feather",
    "image_guidance",
    "resize",
];

/// Draws anew a picture, or a part of it, as a prompt says.
#[derive(Parser)]
#[command(mut_arg("prompt", needed))]
#[command(mut_arg("redraw", |redraw| redraw.conflicts_with_all(SAID)))]
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
    /// Means to keep what is not repainted: put back after each step, or known to the model; or soft:
    /// the mask's grey is a strength of its own for each pixel [default: step]
    #[arg(long, value_enum)]
    rule: Option<Rule>,
    /// Pixels by which the repainted area grows to every side; below 0 it shrinks
    #[arg(
        long,
        value_name = "PIXELS",
        allow_negative_numbers = true,
        requires = "mask"
    )]
    mask_grow: Option<i32>,
    /// Standard deviation in pixels by which the mask is then blurred
    #[arg(
        long,
        value_name = "PIXELS",
        allow_negative_numbers = true,
        requires = "mask"
    )]
    mask_blur: Option<f32>,
    /// Pixels to draw beyond the picture: left, top, right, bottom
    #[arg(long, value_name = "L,T,R,B", value_parser = sides)]
    expand: Option<[u32; 4]>,
    /// What lies beyond the picture before it is drawn
    #[arg(long, value_enum, requires = "expand")]
    fill: Option<Fill>,
    /// Pixels of the picture along its new sides that are drawn anew, too [default: 8, and none with
    /// --keep-unmasked]
    #[arg(long, value_name = "PIXELS", requires = "expand")]
    overlap: Option<u32>,
    /// Leave the bytes of what is not repainted as they are, and the picture's own size: the one to
    /// draw at is that of the work
    #[arg(long)]
    keep_unmasked: bool,
    /// Draw the mask's surroundings alone, with so many pixels around it, at --width and --height,
    /// and put them back into the picture
    #[arg(long, value_name = "PADDING")]
    masked_only: Option<u32>,
    /// Pixels within the repainted area in which the old picture fades into the new, where that is
    /// put back into it [default: 8]
    #[arg(long, value_name = "PIXELS")]
    feather: Option<u32>,
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
    let image = read_picture(&arguments.image)?;
    if let Some(picture) = &arguments.common.redraw {
        let record = Record::read(picture)?;
        let inpaint = record
            .original
            .as_ref()
            .and_then(|original| original.inpaint.as_ref());
        let keeps = inpaint.is_some_and(|inpaint| inpaint.keep_unmasked);
        // The seed of the picture that was drawn first of those drawn with it.
        let seed = record
            .seed
            .unwrap_or_default()
            .wrapping_sub(record.index as u64);
        let (image, mask) = arguments.canvas(image, seed, keeps)?;
        let request = match mask {
            Some(mask) => record.request_masked(image, mask)?,
            None => record.request_from(image)?,
        };
        return Drawing::open(&arguments.common, Some(record))?.draw(&request);
    }
    let drawing = Drawing::open(&arguments.common, None)?;
    if arguments.common.adapters.report_only {
        return (arguments.common.adapters).print(&drawing.pipeline, arguments.common.json);
    }
    if drawing.pipeline.denoiser.spec().takes_picture() {
        return change(arguments, image, drawing);
    }
    let defaults = drawing.pipeline.defaults();
    let (image, inpaint) = arguments.inpaint(image)?;
    let start = PictureStart {
        inpaint,
        resize: arguments.resize.into(),
        ..PictureStart::new(image, arguments.strength.unwrap_or(defaults.strength))
    };
    let request = Request {
        start: Start::Picture(start),
        image_guidance_scale: arguments.image_guidance,
        ..drawing.request()?
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
        ("--masked-only", arguments.masked_only.is_some()),
        ("--feather", arguments.feather.is_some()),
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
        ..drawing.request()?
    };
    drawing.draw(&request)
}

impl EditArguments {
    /// The picture, expanded where that is asked for, with `seed` for its noise and a mask that
    /// `keeps` the old bytes or not; and that mask.
    fn canvas(
        &self,
        image: RgbImage,
        seed: u64,
        keeps: bool,
    ) -> Result<(RgbImage, Option<GrayImage>), Box<dyn Error>> {
        let mask = self.mask.as_ref().map(read_mask).transpose()?;
        Ok(match self.expand {
            None => (image, mask),
            Some([left, top, right, bottom]) => {
                let fill = self.fill.map_or_else(Default::default, Into::into);
                let own = Expand::new(fill);
                let expand = Expand {
                    left,
                    top,
                    right,
                    bottom,
                    // What is old keeps its bytes.
                    overlap: self.overlap.unwrap_or(if keeps { 0 } else { own.overlap }),
                    seed,
                    ..own
                };
                let (image, mask) = expand.apply(&image, mask.as_ref())?;
                (image, Some(mask))
            }
        })
    }

    /// The picture, expanded where that is asked for, and what of it is repainted.
    fn inpaint(&self, image: RgbImage) -> Result<(RgbImage, Option<Inpaint>), Box<dyn Error>> {
        let (image, mask) = self.canvas(image, self.common.seed.value, self.keep_unmasked)?;
        let Some(mask) = mask else {
            let asked = [
                ("--rule", self.rule.is_some()),
                ("--keep-unmasked", self.keep_unmasked),
                ("--masked-only", self.masked_only.is_some()),
                ("--feather", self.feather.is_some()),
            ];
            return match asked.iter().find(|(_, is)| *is) {
                Some((option, _)) => Err(format!("{option} needs --mask or --expand").into()),
                None => Ok((image, None)),
            };
        };
        let own = Inpaint::new(mask);
        let inpaint = Inpaint {
            rule: self.rule.map_or(own.rule, Into::into),
            grow: self.mask_grow.unwrap_or(own.grow),
            blur: self.mask_blur.unwrap_or(own.blur),
            masked_only: self.masked_only,
            keep_unmasked: self.keep_unmasked,
            feather: self.feather.unwrap_or(own.feather),
            ..own
        };
        Ok((image, Some(inpaint)))
    }
}

impl From<Rule> for MaskRule {
    fn from(rule: Rule) -> Self {
        match rule {
            Rule::Step => Self::Step,
            Rule::Model => Self::Model,
            Rule::Soft => Self::Soft,
        }
    }
}

impl From<Fill> for sd_pipeline::Fill {
    fn from(fill: Fill) -> Self {
        match fill {
            Fill::Edge => Self::Edge,
            Fill::Blur => Self::Blur,
            Fill::Mirror => Self::Mirror,
            Fill::Noise => Self::Noise,
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

/// The prompt without a default, but where the picture's record says it.
fn needed(prompt: Arg) -> Arg {
    prompt
        .default_value(None)
        .default_value_if("redraw", ArgPredicate::IsPresent, "")
        .required_unless_present("redraw")
}

/// Four numbers of pixels.
fn sides(text: &str) -> Result<[u32; 4], String> {
    let sides: Result<Vec<u32>, _> = text.split(',').map(|side| side.trim().parse()).collect();
    let sides = sides.ok().and_then(|sides| sides.try_into().ok());
    sides.ok_or("expected four numbers of pixels, left,top,right,bottom, as 64,0,64,0".into())
}
