//! What a prompt makes of a picture, measured: colours where it should change, and where it should not.

use image::{GrayImage, Luma, Rgb, RgbImage};
use sd_pipeline::{Expand, Fill, Inpaint, Picture, PictureStart, Pipeline, Request, Start, device};

/// Ten seeds at once, in few steps.
fn drawn(pipeline: &Pipeline, prompt: &str, start: PictureStart) -> Vec<Picture> {
    let request = Request {
        steps: 10,
        seed: 100,
        count: 10,
        start: Start::Picture(start),
        ..sd_tiny::request(prompt)
    };
    pipeline.generate(&request).unwrap()
}

fn tiny() -> Pipeline {
    sd_tiny::pipeline(&device("flex").unwrap()).unwrap()
}

/// The scene of `prompt`.
fn scene(pipeline: &Pipeline, prompt: &str, seed: u64) -> RgbImage {
    let request = Request {
        seed,
        ..sd_tiny::request(prompt)
    };
    pipeline.generate(&request).unwrap().remove(0).image
}

/// Number of a colour's channel where it is by far the strongest: red, green or blue.
fn hue(pixel: &Rgb<u8>) -> Option<usize> {
    (0..3).find(|&k| {
        let others = (0..3).filter(|&j| j != k).map(|j| pixel.0[j]);
        others
            .max()
            .is_some_and(|most| f32::from(pixel.0[k]) > 1.5 * f32::from(most).max(25.0))
    })
}

const RED: usize = 0;
const GREEN: usize = 1;
const BLUE: usize = 2;

/// White where `picture` has that hue.
fn where_hue(picture: &RgbImage, channel: usize) -> GrayImage {
    GrayImage::from_fn(picture.width(), picture.height(), |x, y| {
        Luma([255 * u8::from(hue(picture.get_pixel(x, y)) == Some(channel))])
    })
}

/// White where `area` has white no more than `by` pixels away along each axis.
fn grown(area: &GrayImage, by: u32) -> GrayImage {
    let (width, height) = area.dimensions();
    GrayImage::from_fn(width, height, |x, y| {
        let near = |at: u32, side: u32| at.saturating_sub(by)..(at + by + 1).min(side);
        let mut rows = near(y, height);
        let is_near = rows.any(|y| near(x, width).any(|x| area.get_pixel(x, y).0 == [255]));
        Luma([255 * u8::from(is_near)])
    })
}

/// Share of the pixels of `area`'s white (or black) that have that hue.
fn share(picture: &RgbImage, area: &GrayImage, white: bool, channel: usize) -> f64 {
    let pixels = picture.pixels().zip(area.pixels());
    let inside = pixels.filter(|(_, area)| (area.0 == [255]) == white);
    let (all, those) = inside.fold((0, 0), |(all, those), (pixel, _)| {
        (all + 1, those + usize::from(hue(pixel) == Some(channel)))
    });
    those as f64 / f64::from(all)
}

/// Mean difference of the bytes where `area` is black.
fn change_outside(a: &RgbImage, b: &RgbImage, area: &GrayImage) -> f64 {
    let pixels = a.pixels().zip(b.pixels()).zip(area.pixels());
    let outside = pixels.filter(|(_, area)| area.0 == [0]);
    let differences = outside.flat_map(|((a, b), _)| (0..3).map(|k| a.0[k].abs_diff(b.0[k])));
    let (count, sum) = differences.fold((0, 0), |(n, sum), d| (n + 1, sum + u64::from(d)));
    sum as f64 / f64::from(count)
}

#[test]
fn a_red_cube_becomes_a_green_one() {
    let pipeline = tiny();
    let before = scene(&pipeline, "a red cube on a gray background", 1);
    let red = where_hue(&before, RED);
    let around = grown(&red, 12);
    let start = PictureStart::new(before.clone(), 0.8);
    for picture in drawn(&pipeline, "a green cube on a gray background", start) {
        let green = share(&picture, &red, true, GREEN);
        let left = share(&picture, &around, true, RED);
        let changed = change_outside(&before, &picture, &around);
        println!(
            "{}: {green:.2} green, {left:.2} red, {changed:.1} outside",
            picture.seed
        );
    }
}

/// Flat shapes, as one draws them with a paint program.
fn sketch() -> RgbImage {
    RgbImage::from_fn(128, 128, |x, y| {
        let (dx, dy) = (x as i32 - 64, y as i32 - 92);
        match () {
            () if (44..84).contains(&x) && (24..66).contains(&y) => Rgb([210, 40, 40]),
            () if dx * dx + dy * dy < 26 * 26 => Rgb([40, 70, 200]),
            () => Rgb([200, 200, 205]),
        }
    })
}

/// Standard deviation of a channel in the white of `area`.
fn shading(picture: &RgbImage, area: &GrayImage, channel: usize) -> f64 {
    let pixels = picture.pixels().zip(area.pixels());
    let inside = pixels.filter(|(_, area)| area.0 == [255]);
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
    let [square, disc] = [RED, BLUE].map(|channel| where_hue(&sketch, channel));
    assert_eq!(
        shading(&sketch, &square, RED) + shading(&sketch, &disc, BLUE),
        0.0
    );
    let start = PictureStart::new(sketch, 0.7);
    for picture in drawn(&pipeline, "a red cube on top of a blue sphere", start) {
        let red = share(&picture, &square, true, RED);
        let blue = share(&picture, &disc, true, BLUE);
        let shades = [(&square, RED), (&disc, BLUE)].map(|(area, k)| shading(&picture, area, k));
        println!(
            "{}: {red:.2} red, {blue:.2} blue, shades {shades:.1?}",
            picture.seed
        );
    }
}

#[test]
fn one_of_two_solids_is_repainted() {
    let pipeline = tiny();
    let before = scene(&pipeline, "a red cube to the left of a blue sphere", 3);
    let mask = grown(&where_hue(&before, RED), 8);
    let start = PictureStart {
        inpaint: Some(Inpaint {
            keep_unmasked: true,
            ..Inpaint::new(mask.clone())
        }),
        ..PictureStart::new(before.clone(), 1.0)
    };
    let prompt = "a green cube to the left of a blue sphere";
    for picture in drawn(&pipeline, prompt, start) {
        let green = share(&picture, &mask, true, GREEN);
        let left = share(&picture, &mask, true, RED);
        let changed = change_outside(&before, &picture, &mask);
        println!(
            "{}: {green:.2} green, {left:.2} red, {changed:.1} outside",
            picture.seed
        );
        assert_eq!(changed, 0.0);
    }
}

#[test]
fn a_scene_is_extended_to_both_sides() {
    let pipeline = tiny();
    let before = scene(&pipeline, "a red cube on a gray background", 1);
    let expand = Expand {
        left: 32,
        right: 32,
        overlap: 0,
        ..Expand::new(Fill::Edge)
    };
    let (image, mask) = expand.apply(&before, None).unwrap();
    assert_eq!(image.dimensions(), (192, 128));
    let start = PictureStart {
        inpaint: Some(Inpaint {
            keep_unmasked: true,
            ..Inpaint::new(mask.clone())
        }),
        ..PictureStart::new(image.clone(), 1.0)
    };
    for picture in drawn(&pipeline, "a red cube on a gray background", start) {
        let inside = change_outside(&image, &picture, &mask);
        // What is new, beside the old picture's edge continued.
        let white = GrayImage::from_fn(192, 128, |x, y| Luma([255 - mask.get_pixel(x, y).0[0]]));
        let beside = change_outside(&image, &picture, &white);
        println!(
            "{}: {inside:.1} of the old, {beside:.1} beside it",
            picture.seed
        );
        assert_eq!(inside, 0.0);
    }
}
