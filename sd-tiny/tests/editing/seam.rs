//! Parts put back into a picture, measured along the edge of the mask.

use sd_pipeline::{
    GrayImage, Inpaint, MaskRule, PictureStart, Request, RgbImage, Start, device, image::Luma,
};

/// Mean difference between pixels on both sides of the mask's edge, in grey levels.
fn across(image: &RgbImage, mask: &GrayImage) -> f64 {
    let (width, height) = image.dimensions();
    let white = |x: u32, y: u32| mask.get_pixel(x, y).0[0] > 0;
    let (mut sum, mut count) = (0.0, 0);
    for y in 0..height {
        for x in 0..width {
            for (to_x, to_y) in [(x + 1, y), (x, y + 1)] {
                if to_x < width && to_y < height && white(x, y) != white(to_x, to_y) {
                    let [a, b] = [(x, y), (to_x, to_y)].map(|(x, y)| image.get_pixel(x, y).0);
                    let levels = a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(b)));
                    sum += levels.sum::<f64>() / 3.0;
                    count += 1;
                }
            }
        }
    }
    sum / f64::from(count)
}

#[test]
fn no_seam_is_seen_where_a_part_is_put_back() {
    let pipeline = sd_tiny::pipeline(&device("flex").unwrap()).unwrap();
    let scenes = [
        ("a red cube on top of a blue sphere", "a green cube"),
        ("a yellow star", "a purple sphere"),
        ("a small yellow ring", "a red cube"),
        ("a green cone", "a blue ring"),
        ("a blue sphere", "a yellow star"),
    ];
    for case in 0..10 {
        let (scene, other) = scenes[case % 5];
        let draw = |request: Request| {
            let request = Request {
                seed: 40 + case as u64,
                steps: 6,
                ..request
            };
            pipeline.generate(&request).unwrap().remove(0).image
        };
        let before = draw(sd_tiny::request(scene));
        // A box or a disc, which no latent's pixel is in line with.
        let shift = 3 * case as i32;
        let mask = GrayImage::from_fn(128, 128, |x, y| {
            let (x, y) = (x as i32 - 37 - shift, y as i32 - 45 - shift / 2);
            let is_white = match case % 2 {
                0 => (0..50).contains(&x) && (0..45).contains(&y),
                _ => (x - 25).pow(2) + (y - 25).pow(2) < 27 * 27,
            };
            Luma([if is_white { 255 } else { 0 }])
        });
        let masked_only = (case % 3 == 0).then_some(20);
        let repainted = |feather| {
            let inpaint = Inpaint {
                rule: [MaskRule::Step, MaskRule::Model][case / 5],
                masked_only,
                keep_unmasked: true,
                feather,
                ..Inpaint::new(mask.clone())
            };
            draw(Request {
                start: Start::Picture(PictureStart {
                    inpaint: Some(inpaint),
                    ..PictureStart::new(before.clone(), 0.9)
                }),
                ..sd_tiny::request(other)
            })
        };
        let after = repainted(Inpaint::new(mask.clone()).feather);
        let [own, new] = [&before, &after].map(|image| across(image, &mask));
        let changed = before
            .pixels()
            .zip(after.pixels())
            .filter(|(a, b)| a != b)
            .count();
        println!("case {case}: {own:.2} before, {new:.2} behind");
        assert!(new <= own, "case {case}: {new} where {own} was");
        assert!(changed > 500, "case {case}: {changed}");
        if case == 0 {
            let hard = across(&repainted(0), &mask);
            assert!(
                hard > 2.0 * own,
                "a seam is seen where nothing fades: {hard} of {own}"
            );
        }
    }
}
