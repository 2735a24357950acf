//! One loaded model, one seed, many schedulers: a labelled grid, scheduler by number of steps.
//!
//! `cargo run --release --example swap_schedulers -- [PROMPT] [--output F.png]`

use clap::Parser;
use font8x8::UnicodeFonts;
use sd_pipeline::{Request, Result, RgbImage, device, write_png};

/// Draws a grid of schedulers and numbers of steps.
#[derive(Parser)]
struct Arguments {
    /// What the pictures should show
    #[arg(default_value = sd_tiny::PROMPT)]
    prompt: String,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Numbers of steps, the grid's columns
    #[arg(long, value_delimiter = ',', default_value = "4,6,10,20,40")]
    steps: Vec<usize>,
    /// Schedulers, the grid's rows
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "DDIM,PNDM,Euler,Euler a,Heun,DPM++ 2M,DPM++ 2M Karras,DPM++ 2M SDE,DPM++ SDE,UniPC,DEIS,LMS"
    )]
    schedulers: Vec<String>,
    #[arg(long, default_value = "schedulers.png")]
    output: String,
}

/// Width of the column with the names, height of the row with the numbers, in pixels.
const MARGIN: [u32; 2] = [136, 20];

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut pipeline = sd_tiny::pipeline(&device("flex")?)?;
    let (columns, rows) = (
        arguments.steps.len() as u32,
        arguments.schedulers.len() as u32,
    );
    let [width, height] = [MARGIN[0] + 128 * columns, MARGIN[1] + 128 * rows];
    let mut grid = RgbImage::from_pixel(width, height, [255; 3].into());

    for (row, name) in (0..).zip(&arguments.schedulers) {
        // The swap: by name, with the settings of the model's folder.
        pipeline.set_scheduler(name)?;
        let y = MARGIN[1] + 128 * row;
        print(&mut grid, name, [4, y + 60]);
        for (column, &steps) in (0..).zip(&arguments.steps) {
            let request = Request {
                steps,
                guidance_scale: 5.0,
                seed: arguments.seed,
                ..Request::new(&arguments.prompt)
            };
            let picture = &pipeline.generate(&request)?[0];
            let x = MARGIN[0] + 128 * column;
            for (dx, dy, pixel) in picture
                .enumerate_pixels()
                .filter(|p| p.0 < 128 && p.1 < 128)
            {
                grid.put_pixel(x + dx, y + dy, *pixel);
            }
            print(&mut grid, &format!("{steps} steps"), [x + 32, 6]);
        }
    }
    write_png(&grid, arguments.output)
}

/// Writes `text` in 8×8 letters.
fn print(image: &mut RgbImage, text: &str, [left, top]: [u32; 2]) {
    let glyphs = text.chars().filter_map(|c| font8x8::BASIC_FONTS.get(c));
    for (x, glyph) in (left..).step_by(8).zip(glyphs) {
        for (y, bits) in (top..).zip(glyph) {
            for column in (0..8).filter(|column| bits >> column & 1 == 1) {
                if let Some(pixel) = image.get_pixel_mut_checked(x + column, y) {
                    *pixel = [0; 3].into();
                }
            }
        }
    }
}
