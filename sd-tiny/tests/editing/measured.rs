//! What a prompt makes of a picture, over ten seeds: the colours where it should change, and where it
//! should not.

use image::{GrayImage, Luma, Rgb, RgbImage, imageops};
use sd_pipeline::{Expand, Fill, Inpaint, Picture, PictureStart, Pipeline, Request, Start, device};

const RED: usize = 0;
const GREEN: usize = 1;
const BLUE: usize = 2;

fn tiny() -> Pipeline {
    sd_tiny::pipeline(&device("flex").unwrap()).unwrap()
}

/// The scene that edits begin with.
fn scene(pipeline: &Pipeline, prompt: &str, seed: u64) -> RgbImage {
    let request = Request {
        seed,
        ..sd_tiny::request(prompt)
    };
    pipeline.generate(&request).unwrap().remove(0).image
}

/// Ten edits, in few steps.
fn edited(pipeline: &Pipeline, prompt: &str, start: PictureStart) -> Vec<Picture> {
    let request = Request {
        steps: 10,
        seed: 100,
        count: 10,
        start: Start::Picture(start),
        ..sd_tiny::request(prompt)
    };
    pipeline.generate(&request).unwrap()
}

fn repainted(picture: &RgbImage, mask: &GrayImage) -> PictureStart {
    let inpaint = Inpaint {
        keep_unmasked: true,
        ..Inpaint::new(mask.clone())
    };
    PictureStart {
        inpaint: Some(inpaint),
        ..PictureStart::new(picture.clone(), 1.0)
    }
}

/// `true` where that channel is by far the strongest.
fn has_hue(pixel: Rgb<u8>, channel: usize) -> bool {
    let others = (0..3).filter(|k| *k != channel).map(|k| pixel.0[k]);
    let most = others.max().unwrap_or_default().max(25);
    f32::from(pixel.0[channel]) > 1.5 * f32::from(most)
}

fn is_white(pixel: &Luma<u8>) -> bool {
    pixel.0 == [255]
}

/// White where `picture` has that hue.
fn area(picture: &RgbImage, channel: usize) -> GrayImage {
    GrayImage::from_fn(picture.width(), picture.height(), |x, y| {
        Luma([255 * u8::from(has_hue(*picture.get_pixel(x, y), channel))])
    })
}

/// White where `area` is white no more than `by` pixels away along each axis.
fn grown(area: &GrayImage, by: u32) -> GrayImage {
    let (width, height) = area.dimensions();
    let near = |at: u32, side: u32| at.saturating_sub(by)..(at + by + 1).min(side);
    GrayImage::from_fn(width, height, |x, y| {
        let mut rows = near(y, height);
        let is_near = rows.any(|y| near(x, width).any(|x| is_white(area.get_pixel(x, y))));
        Luma([255 * u8::from(is_near)])
    })
}

/// Share of `area`'s white that has that hue in `picture`.
fn share(picture: &RgbImage, area: &GrayImage, channel: usize) -> f64 {
    let pixels = picture.pixels().zip(area.pixels());
    let inside: Vec<_> = pixels.filter(|(_, area)| is_white(area)).collect();
    let those = inside.iter().filter(|(pixel, _)| has_hue(**pixel, channel));
    those.count() as f64 / inside.len() as f64
}

/// Mean difference of the bytes where `area` is not white.
fn change_outside(area: &GrayImage, a: &RgbImage, b: &RgbImage) -> f64 {
    let pixels = a.pixels().zip(b.pixels()).zip(area.pixels());
    let outside = pixels.filter(|(_, area)| !is_white(area));
    let off = outside.flat_map(|((a, b), _)| (0..3).map(|k| a.0[k].abs_diff(b.0[k])));
    let off: Vec<f64> = off.map(f64::from).collect();
    off.iter().sum::<f64>() / off.len() as f64
}

#[test]
fn a_red_cube_becomes_a_green_one() {
    let pipeline = tiny();
    let before = scene(&pipeline, "a red cube on a gray background", 1);
    let cube = area(&before, RED);
    let around = grown(&cube, 12);
    let start = PictureStart::new(before.clone(), 0.8);
    for picture in edited(&pipeline, "a green cube on a gray background", start) {
        let green = share(&picture, &cube, GREEN);
        let red = share(&picture, &around, RED);
        let change = change_outside(&around, &before, &picture);
        let seed = picture.seed;
        println!("{seed}: {green:.2} green, {red:.2} red, {change:.2} outside");
        // The new cube need not have the old one's outline.
        assert!(green > 0.6 && red < 0.01, "seed {seed}: {green} {red}");
        assert!(change < 0.5, "seed {seed}: {change}");
    }
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

/// Standard deviation of a channel in the white of `area`.
fn shading(picture: &RgbImage, area: &GrayImage, channel: usize) -> f64 {
    let pixels = picture.pixels().zip(area.pixels());
    let inside = pixels.filter(|(_, area)| is_white(area));
    let values: Vec<f64> = inside
        .map(|(pixel, _)| f64::from(pixel.0[channel]))
        .collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
    (squares / values.len() as f64).sqrt()
}

#[test]
fn a_sketch_becomes_solids() {
    let pipeline = tiny();
    let sketch = sketch();
    let shapes = [RED, BLUE].map(|channel| (area(&sketch, channel), channel));
    let start = PictureStart::new(sketch.clone(), 0.7);
    for picture in edited(&pipeline, "a red cube on top of a blue sphere", start) {
        for ((shape, hue), least) in shapes.iter().zip([0.6, 0.8]) {
            let own = share(&picture, shape, *hue);
            let beside = share(&picture, &inverted(&grown(shape, 8)), *hue);
            let shade = shading(&picture, shape, *hue);
            let seed = picture.seed;
            println!("{seed}: {own:.2} in the shape, {beside:.2} beside, shades {shade:.0}");
            // A cube shows less of itself than a square does.
            assert!(own > least && beside < 0.01, "seed {seed}: {own} {beside}");
            assert!(
                shading(&sketch, shape, *hue) == 0.0 && shade > 30.0,
                "{shade}"
            );
        }
    }
}

fn inverted(area: &GrayImage) -> GrayImage {
    let mut inverted = area.clone();
    imageops::invert(&mut inverted);
    inverted
}

#[test]
fn one_of_two_solids_is_repainted() {
    let pipeline = tiny();
    let before = scene(&pipeline, "a red cube to the left of a blue sphere", 3);
    let mask = grown(&area(&before, RED), 8);
    let old = share(&before, &mask, RED);
    let prompt = "a green cube to the left of a blue sphere";
    for picture in edited(&pipeline, prompt, repainted(&before, &mask)) {
        let green = share(&picture, &mask, GREEN);
        let red = share(&picture, &mask, RED);
        let seed = picture.seed;
        println!("{seed}: {green:.2} green where {old:.2} was red, {red:.2} red");
        assert!(
            green > 0.85 * old && red < 0.01,
            "seed {seed}: {green} {red}"
        );
        assert_eq!(change_outside(&mask, &before, &picture), 0.0);
    }
}

/// A scene cut through both its solids: what is drawn on either side makes them whole again.
#[test]
fn a_scene_is_extended_to_both_sides() {
    let pipeline = tiny();
    let prompt = "a red cube to the left of a blue sphere";
    let whole = scene(&pipeline, prompt, 3);
    let middle = imageops::crop_imm(&whole, 32, 0, 64, 128).to_image();
    let expand = Expand {
        left: 32,
        right: 32,
        overlap: 0,
        ..Expand::new(Fill::Edge)
    };
    let (wide, mask) = expand.apply(&middle, None).unwrap();
    let side = |first: u32| {
        GrayImage::from_fn(128, 128, |x, _| {
            Luma([255 * u8::from((first..first + 32).contains(&x))])
        })
    };
    let [left, right] = [0, 96].map(side);
    let parts = [(&left, RED), (&right, BLUE), (&left, BLUE), (&right, RED)];
    let of = |picture: &RgbImage| parts.map(|(side, hue)| share(picture, side, hue));
    let [red, blue, ..] = of(&whole);
    for picture in edited(&pipeline, prompt, repainted(&wide, &mask)) {
        let [new_red, new_blue, blue_left, red_right] = of(&picture);
        let seed = picture.seed;
        println!(
            "{seed}: {:.2} and {:.2} of what was cut off",
            new_red / red,
            new_blue / blue
        );
        for drawn in [new_red / red, new_blue / blue] {
            assert!((0.8..1.5).contains(&drawn), "seed {seed}: {drawn}");
        }
        assert!(blue_left < 0.01 && red_right < 0.01, "seed {seed}");
        assert_eq!(change_outside(&mask, &wide, &picture), 0.0);
    }
}
