//! Drawings of the embedded model, in seven sheets: prompts, weights and schedules in a prompt, guidance
//! scales, guiders, negative prompts, pictures that are changed, and what the adapters beside it teach.
//!
//! `cargo run --release --example tiny_sheets -- DIR`

#[path = "support/grid.rs"]
mod grid;

use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use grid::Grid;
use sd_pipeline::image::{GrayImage, Luma, Rgb, imageops};
use sd_pipeline::{
    Combination, Composed, Control, ControlPicture, Expand, Fill, Inpaint, Lora, MaskRule,
    OpenOptions, PictureStart, Pipeline, Projected, Prompt, Request, Result, RgbImage, ScaleCurve,
    Start, TextualInversion, Thresholded, device, read_picture, write_picture, write_png,
};

/// Draws tiny.png, weights.png, guidance.png, guiders.png, negative.png, editing.jpg and adapters.png.
#[derive(Parser)]
struct Arguments {
    /// An existing folder to write into
    folder: PathBuf,
}

const PROMPTS: [[&str; 8]; 2] = [
    [
        "a red cube on top of a blue sphere",
        "a yellow star to the left of a purple ring",
        "a green cone below an orange cube on a teal background",
        "a large black sphere on a pink background",
        "a white cube above a red star on a gray background",
        "three red hearts on a cream background",
        "a purple cylinder to the right of a green pyramid",
        "a blue star on top of a yellow cube on a pink background",
    ],
    [
        "a blue sphere on top of a red cube",
        "a big green hoop on a gray background",
        "a black pyramid above a white sphere on a teal background",
        "an orange heart to the left of a blue cylinder on a cream background",
        "two yellow cylinders",
        "a red ring below a yellow ball on a gray background",
        "below a black cube is an orange cone",
        "there are three purple stars",
    ],
];

/// One prompt each, drawn with every guidance scale by two schedulers.
const GUIDANCE: [f64; 6] = [1.0, 1.5, 2.0, 3.0, 5.0, 7.5];
const SCHEDULERS: [&str; 2] = ["DDIM", "PNDM"];

/// No background is asked for, and what is not wanted decides.
const NEGATIVE: [&str; 5] = [
    "",
    "a gray background",
    "a pink background",
    "a teal background",
    "a cream background",
];

/// Weights of a second prompt, and shares of the steps after which another word stands there.
const WEIGHTS: [f64; 6] = [0.0, 0.25, 0.5, 1.0, 2.0, 4.0];
const SHARES: [f64; 6] = [0.5, 0.75, 0.8, 0.85, 0.9, 0.95];

fn main() -> Result<()> {
    let folder = Arguments::parse().folder;
    let pipeline = sd_tiny::pipeline(&device("flex")?)?;
    write_png(prompts(&pipeline)?.image(), folder.join("tiny.png"))?;
    write_png(weights(&pipeline)?.image(), folder.join("weights.png"))?;
    write_png(guidance(&pipeline)?.image(), folder.join("guidance.png"))?;
    write_png(guiders(&pipeline)?.image(), folder.join("guiders.png"))?;
    write_png(negative(&pipeline)?.image(), folder.join("negative.png"))?;
    write_picture(editing(&pipeline)?.image(), folder.join("editing.jpg"))?;
    write_png(adapters(&pipeline)?.image(), folder.join("adapters.png"))
}

fn draw(pipeline: &Pipeline, request: &Request) -> Result<RgbImage> {
    Ok(pipeline.generate(request)?.remove(0).image)
}

fn prompts(pipeline: &Pipeline) -> Result<Grid> {
    let mut grid = Grid::new(&[const { String::new() }; 8], &[const { String::new() }; 2]);
    for (row, prompts) in PROMPTS.iter().enumerate() {
        for (column, prompt) in prompts.iter().enumerate() {
            grid.put(&draw(pipeline, &sd_tiny::request(*prompt))?, row, column);
        }
    }
    Ok(grid)
}

/// A1111's weights of prompts joined by AND, which move a colour, and its schedules, which change the
/// solid or its colour midway.
fn weights(pipeline: &Pipeline) -> Result<Grid> {
    let names = ["red AND\nblue:W", "[cube:\nsphere:S]", "[yellow:\nred:S]"];
    let mut grid = Grid::new(&[const { String::new() }; 6], &names.map(String::from));
    for (column, (weight, share)) in WEIGHTS.into_iter().zip(SHARES).enumerate() {
        let prompts = [
            format!("a red star AND a blue star :{weight}"),
            format!("a red [cube:sphere:{share}]"),
            format!("a [yellow:red:{share}] star"),
        ];
        for (row, prompt) in prompts.into_iter().enumerate() {
            let request = sd_tiny::request(Prompt::a1111(prompt));
            grid.put(&draw(pipeline, &request)?, row, column);
        }
    }
    Ok(grid)
}

/// Guiders at every guidance scale.
fn guiders(pipeline: &Pipeline) -> Result<Grid> {
    let combined = |scale, combination: Arc<dyn Combination>| Composed {
        combination: Some(combination),
        ..Composed::classifier_free(scale)
    };
    let mut grid = Grid::new(
        &GUIDANCE.map(|scale| format!("{scale}")),
        &[
            "cfg",
            "rescale\n0.7",
            "interval\n0.1-0.8",
            "cosine\nto 1",
            "apg",
            "threshold",
        ]
        .map(String::from),
    );
    for (column, &scale) in GUIDANCE.iter().enumerate() {
        let plain = Composed::classifier_free(scale);
        let rescaled = Composed {
            rescale: 0.7,
            ..plain.clone()
        };
        let interval = Composed {
            interval: 0.1..0.8,
            ..plain.clone()
        };
        let falling = Composed::classifier_free(ScaleCurve::Cosine(scale, 1.0));
        let projected = Projected {
            eta: 0.0,
            momentum: -0.5,
            ..Projected::default()
        };
        let thresholded = Thresholded {
            mimic: 2.0,
            ..Thresholded::default()
        };
        let projected = combined(scale, Arc::new(projected));
        let thresholded = combined(scale, Arc::new(thresholded));
        let rows = [plain, rescaled, interval, falling, projected, thresholded];
        for (row, guidance) in rows.into_iter().enumerate() {
            let request = Request {
                guidance: Some(Arc::new(guidance)),
                ..sd_tiny::request(sd_tiny::PROMPT)
            };
            grid.put(&draw(pipeline, &request)?, row, column);
        }
    }
    Ok(grid)
}

fn guidance(pipeline: &Pipeline) -> Result<Grid> {
    let columns = GUIDANCE.map(|scale| format!("{scale}"));
    let mut grid = Grid::new(&columns, &SCHEDULERS.map(String::from));
    let mut pipeline = pipeline.clone();
    for (row, name) in SCHEDULERS.iter().enumerate() {
        pipeline.set_scheduler(name)?;
        for (column, &guidance_scale) in GUIDANCE.iter().enumerate() {
            let request = Request {
                guidance_scale,
                ..sd_tiny::request(sd_tiny::PROMPT)
            };
            grid.put(&draw(&pipeline, &request)?, row, column);
        }
    }
    Ok(grid)
}

fn negative(pipeline: &Pipeline) -> Result<Grid> {
    let columns = [0, 1, 2, 3, 4, 5].map(|seed| format!("seed {seed}"));
    let rows = NEGATIVE.map(|text| text.replacen(' ', "\n", 1).replace(' ', "\n"));
    let mut grid = Grid::new(&columns, &rows);
    for (row, text) in NEGATIVE.iter().enumerate() {
        for column in 0..columns.len() {
            let request = Request {
                negative_prompt: Some((*text).into()),
                guidance_scale: 3.0,
                seed: column as u64,
                ..sd_tiny::request(sd_tiny::PROMPT)
            };
            grid.put(&draw(pipeline, &request)?, row, column);
        }
    }
    Ok(grid)
}

/// Pictures as they are given, what is to be drawn in white, and what becomes of them.
fn editing(pipeline: &Pipeline) -> Result<Grid> {
    let scene = |prompt: &str, seed| {
        let request = Request {
            seed,
            ..sd_tiny::request(prompt)
        };
        draw(pipeline, &request)
    };
    let cube = scene("a red cube on a gray background", 1)?;
    let pair = "a red cube to the left of a blue sphere";
    let two = scene(pair, 3)?;
    let box_of_cube = GrayImage::from_fn(128, 128, |x, y| {
        Luma([255 * u8::from((6..60).contains(&x) && (36..94).contains(&y))])
    });
    let expand = Expand {
        left: 32,
        right: 32,
        ..Expand::new(Fill::Edge)
    };
    let middle = imageops::crop_imm(&two, 32, 0, 64, 128).to_image();
    let (wide, sides) = expand.apply(&middle, None)?;
    let whole = |image: &RgbImage, strength| (PictureStart::new(image.clone(), strength), None);
    let part = |image: &RgbImage, mask: &GrayImage| {
        let start = PictureStart {
            inpaint: Some(Inpaint {
                rule: MaskRule::Model,
                ..Inpaint::new(mask.clone())
            }),
            ..PictureStart::new(image.clone(), 1.0)
        };
        (start, Some(mask.clone()))
    };
    let rows = [
        (
            "another\ncolour",
            "a green cube on a gray background",
            whole(&cube, 0.8),
        ),
        ("sketch", sd_tiny::PROMPT, whole(&sketch(), 0.7)),
        (
            "mask",
            "a green cone to the left of a blue sphere",
            part(&two, &box_of_cube),
        ),
        ("expand", pair, part(&wide, &sides)),
    ];
    let columns = ["given", "seed 0", "seed 1", "seed 2"].map(String::from);
    let mut grid = Grid::new(&columns, &rows.each_ref().map(|(name, ..)| (*name).into()));
    for (row, (_, prompt, (start, mask))) in rows.iter().enumerate() {
        let mut given = start.image.clone();
        for (pixel, mask) in given
            .pixels_mut()
            .zip(mask.iter().flat_map(|mask| mask.pixels()))
        {
            if mask.0 == [255] {
                *pixel = Rgb([255; 3]);
            }
        }
        grid.put(&given, row, 0);
        for column in 1..columns.len() {
            let request = Request {
                seed: column as u64 - 1,
                start: Start::Picture(start.clone()),
                ..sd_tiny::request(*prompt)
            };
            grid.put(&draw(pipeline, &request)?, row, column);
        }
    }
    Ok(grid)
}

/// Flat shapes, as one draws them with a paint program.
fn sketch() -> RgbImage {
    RgbImage::from_fn(128, 128, |x, y| {
        let (dx, dy) = (x as i32 - 64, y as i32 - 92);
        match () {
            () if (44..=84).contains(&x) && (24..=66).contains(&y) => Rgb([210, 40, 40]),
            () if dx * dx + dy * dy <= 26 * 26 => Rgb([40, 70, 200]),
            () => Rgb([200, 200, 205]),
        }
    })
}

/// Prompts for the adapters: of a LoRA, of a textual inversion, and of a ControlNet with its outlines.
const MOONS: [&str; 3] = [
    "a red moon on a gray background",
    "a yellow moon on top of a blue cube",
    "two purple moons",
];
const TURQUOISE: [&str; 2] = [
    "a turquoise star on a cream background",
    "a turquoise heart to the left of a red ring on a pink background",
];
const OUTLINED: [(&str, &str); 3] = [
    ("a red star", "star.png"),
    ("a blue cube on a pink background", "cube.png"),
    ("a green heart to the left of a yellow sphere", "pair.png"),
];

/// Each prompt without its adapter, above, and with it, below; what an outline says is drawn over both.
fn adapters(plain: &Pipeline) -> Result<Grid> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../sd-tiny/adapters"));
    let moon = plain.with_loras(&[Lora::open(folder.join("moon.safetensors"))?])?;
    let word = TextualInversion::open(folder.join("turquoise.safetensors"))?;
    let turquoise = plain.with_words(&[word])?;
    let options = OpenOptions::new(&device("flex")?);
    let outlines = Control::open_beside(folder.join("outlines.safetensors"), plain, &options)?;
    let outlines = plain.with_controls(&[outlines])?;
    let taught = MOONS.map(|prompt| (prompt, &moon, None)).into_iter();
    let taught = taught.chain(TURQUOISE.map(|prompt| (prompt, &turquoise, None)));
    let taught = taught.chain(OUTLINED.map(|(prompt, name)| (prompt, &outlines, Some(name))));
    let rows = ["without", "with"].map(String::from);
    let mut grid = Grid::new(&[const { String::new() }; 8], &rows);
    for (column, (prompt, with, outline)) in taught.enumerate() {
        let outline = outline.map(|name| read_picture(folder.join("outlines").join(name)));
        let outline = outline.transpose()?;
        for (row, pipeline) in [plain, with].into_iter().enumerate() {
            let steers = outline.iter().take(pipeline.controls.len());
            let request = Request {
                seed: column as u64,
                controls: steers.cloned().map(ControlPicture::new).collect(),
                ..sd_tiny::request(prompt)
            };
            let mut picture = draw(pipeline, &request)?;
            for (line, pixel) in outline
                .iter()
                .flat_map(RgbImage::pixels)
                .zip(picture.pixels_mut())
            {
                if line.0[0] > 127 {
                    *pixel = Rgb([0; 3]);
                }
            }
            grid.put(&picture, row, column);
        }
    }
    Ok(grid)
}
