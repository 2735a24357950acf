//! The adapters that were trained for the tiny model: each has it do what it does not do by itself.
//!
//! `training/lora.py`, `inversion.py` and `outlines.py` made them. The eye knows solids by their
//! silhouettes, which `training/silhouettes.py` draws as the renderer does.

use std::path::PathBuf;

use sd_pipeline::{
    Control, ControlPicture, Lora, OpenOptions, Pipeline, Request, Result, RgbImage,
    TextualInversion, device,
};

use super::{COLOURS, nearest_of, pixel, solid};

/// Sides of a picture and of a silhouette, in pixels.
const SIDE: usize = 128;
/// No adapter is larger, in bytes.
const LARGEST: u64 = 300_000;
/// Solids in the order of their silhouettes.
const SHAPES: [&str; 9] = [
    "sphere", "cube", "cone", "star", "ring", "cylinder", "pyramid", "heart", "moon",
];
/// The backgrounds' teal, of solids.
const TURQUOISE: (&str, [f64; 3]) = ("turquoise", [60.0, 150.0, 150.0]);
/// Share of what is drawn or outlined that must be both.
const FILLED: f64 = 0.8;

/// Pixels of a picture, in rows.
type Mask = Vec<bool>;

/// A solid in a picture.
#[derive(Debug)]
struct Seen {
    colour: &'static str,
    shape: &'static str,
    /// `[x, y]` of its middle.
    centre: [usize; 2],
}

/// What a picture is to show: solids from top to bottom or left to right.
struct Asked {
    text: String,
    solids: Vec<(&'static str, &'static str)>,
    /// `true` where they stand above each other.
    is_vertical: bool,
}

/// The smallest box of a mask's pixels: `[left, right, top, bottom]`.
fn bounds(mask: &[bool]) -> [usize; 4] {
    let places = (0..mask.len()).filter(|&at| mask[at]);
    places.fold([SIDE, 0, SIDE, 0], |[left, right, top, bottom], at| {
        let (x, y) = (at % SIDE, at / SIDE);
        [left.min(x), right.max(x), top.min(y), bottom.max(y)]
    })
}

/// A mask within its box, which is made square, in 32 by 32 samples.
fn scaled(mask: &[bool]) -> Vec<bool> {
    const SAMPLES: usize = 32;
    let [left, right, top, bottom] = bounds(mask).map(|side| side as f64);
    let side = (right - left).max(bottom - top) + 1.0;
    let [x, y] = [(left + right) / 2.0, (top + bottom) / 2.0];
    let place = |k: usize| ((k as f64 + 0.5) / SAMPLES as f64 - 0.5) * side;
    let at = |x: f64, y: f64| {
        let is_inside = (0.0..SIDE as f64).contains(&x) && (0.0..SIDE as f64).contains(&y);
        is_inside && mask[y as usize * SIDE + x as usize]
    };
    let samples = (0..SAMPLES * SAMPLES).map(|k| {
        let [dx, dy] = [k % SAMPLES, k / SAMPLES].map(place);
        at(x + dx + 0.5, y + dy + 0.5)
    });
    samples.collect()
}

/// Pixels of both over pixels of either.
fn overlap(a: &[bool], b: &[bool]) -> f64 {
    let count = |both: fn(bool, bool) -> bool| {
        let pairs = a.iter().zip(b);
        pairs.filter(|(a, b)| both(**a, **b)).count() as f64
    };
    count(|a, b| a && b) / count(|a, b| a || b).max(1.0)
}

/// The silhouettes, by the numbers of [`SHAPES`].
fn silhouettes() -> Vec<Mask> {
    let bytes = include_bytes!("silhouettes.png");
    let strip = image::load_from_memory(bytes).expect("a PNG").to_luma8();
    let pixel = |shape, at| strip.get_pixel((shape * SIDE + at % SIDE) as u32, (at / SIDE) as u32);
    let mask = |shape| {
        let all = 0..SIDE * SIDE;
        all.map(|at| pixel(shape, at).0[0] < 128).collect()
    };
    (0..SHAPES.len()).map(mask).collect()
}

/// An eye for solids of some colours.
struct Eye {
    /// [`scaled`].
    shapes: Vec<Vec<bool>>,
    colours: Vec<(&'static str, [f64; 3])>,
}

impl Eye {
    fn new() -> Self {
        let mut colours = COLOURS.to_vec();
        colours.push(TURQUOISE);
        Self {
            shapes: silhouettes().iter().map(|mask| scaled(mask)).collect(),
            colours,
        }
    }

    /// Pixels that are not background.
    fn mask(picture: &RgbImage) -> Mask {
        let rows = picture.as_raw().chunks_exact(3 * SIDE);
        rows.flat_map(solid).collect()
    }

    /// The solids in a picture, by size.
    fn see(&self, picture: &RgbImage) -> Vec<Seen> {
        let mut found: Vec<Mask> = regions(Self::mask(picture));
        found.sort_by_key(|region| std::cmp::Reverse(region.iter().filter(|is| **is).count()));
        found
            .iter()
            .map(|region| self.name(picture, region))
            .collect()
    }

    fn name(&self, picture: &RgbImage, region: &[bool]) -> Seen {
        let mut votes = vec![0; self.colours.len()];
        let rows: Vec<&[u8]> = picture.as_raw().chunks_exact(3 * SIDE).collect();
        for at in (0..region.len()).filter(|&at| region[at]) {
            let colour = nearest_of(pixel(rows[at / SIDE], at % SIDE), &self.colours);
            votes[colour] += 1;
        }
        let colour = (0..votes.len()).max_by_key(|&k| votes[k]).unwrap_or(0);
        let own = scaled(region);
        let alike = |k: &usize| overlap(&own, &self.shapes[*k]);
        let shape = (0..SHAPES.len()).max_by(|a, b| alike(a).total_cmp(&alike(b)));
        let [left, right, top, bottom] = bounds(region);
        Seen {
            colour: self.colours[colour].0,
            shape: SHAPES[shape.unwrap_or(0)],
            centre: [left.midpoint(right), top.midpoint(bottom)],
        }
    }

    fn obeys(&self, picture: &RgbImage, asked: &Asked) -> bool {
        let mut seen = self.see(picture);
        seen.sort_by_key(|solid| solid.centre[usize::from(asked.is_vertical)]);
        let names = seen.iter().map(|solid| (solid.colour, solid.shape));
        names.eq(asked.solids.iter().copied())
    }
}

/// Connected regions of a visible size.
fn regions(mut mask: Mask) -> Vec<Mask> {
    let mut regions = Vec::new();
    while let Some(first) = mask.iter().position(|&is| is) {
        let (mut region, mut edge) = (vec![false; mask.len()], vec![first]);
        mask[first] = false;
        while let Some(here) = edge.pop() {
            region[here] = true;
            let (x, y) = (here % SIDE, here / SIDE);
            let [left, right] = [x.checked_sub(1), (x + 1 < SIDE).then_some(x + 1)];
            let [above, below] = [y.checked_sub(1), (y + 1 < SIDE).then_some(y + 1)];
            let beside = [left, right].into_iter().flatten().map(|x| y * SIDE + x);
            let over = [above, below].into_iter().flatten().map(|y| y * SIDE + x);
            for next in beside.chain(over) {
                if std::mem::take(&mut mask[next]) {
                    edge.push(next);
                }
            }
        }
        if region.iter().filter(|is| **is).count() >= 100 {
            regions.push(region);
        }
    }
    regions
}

fn adapter(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("adapters");
    let path = path.join(name);
    let bytes = std::fs::metadata(&path).unwrap().len();
    assert!(bytes < LARGEST, "{name} has {bytes} bytes");
    path
}

fn moon(plain: &Pipeline) -> Result<Pipeline> {
    plain.with_loras(&[Lora::open(adapter("moon.safetensors"))?])
}

fn turquoise(plain: &Pipeline) -> Result<Pipeline> {
    let word = TextualInversion::open(adapter("turquoise.safetensors"))?;
    plain.with_words(&[word])
}

fn outlines(plain: &Pipeline) -> Result<Pipeline> {
    let options = OpenOptions::new(&device("flex")?);
    let path = adapter("outlines.safetensors");
    plain.with_controls(&[Control::open_beside(path, plain, &options)?])
}

fn article(word: &str) -> &'static str {
    if word.starts_with('o') { "an" } else { "a" }
}

/// The first `count` of prompts with one or two solids; `new` says of each what stands first in it.
fn prompts(
    count: usize,
    backgrounds: &[&str],
    new: impl Fn(&'static str, &'static str) -> (&'static str, &'static str),
) -> Vec<Asked> {
    let prompt = |i: usize| {
        // Steps that have no divisor in common with the eights go through all pairs.
        let (colour, other) = (COLOURS[i % 8].0, COLOURS[(i + 1 + i / 8 % 7) % 8].0);
        let (shape, another) = (SHAPES[i * 3 % 8], SHAPES[(i * 5 + i / 16) % 8]);
        let background = backgrounds[i % backgrounds.len()];
        let first = new(colour, shape);
        let (is_vertical, relation) = match i % 3 {
            1 => (true, "on top of"),
            _ => (false, "to the left of"),
        };
        let named = |(colour, shape): (&str, &str)| format!("{} {colour} {shape}", article(colour));
        let mut solids = vec![first];
        let mut text = named(first);
        if !i.is_multiple_of(3) {
            solids.push((other, another));
            text = format!("{text} {relation} {}", named((other, another)));
        }
        Asked {
            text: format!("{text} on a {background} background"),
            solids,
            is_vertical,
        }
    };
    // White is hardly seen on cream, and its shades are not on gray.
    let is_seen = |asked: &Asked| {
        let is_white = asked.solids.iter().any(|(colour, _)| *colour == "white");
        !is_white
            || ["pink", "teal"]
                .iter()
                .any(|light| asked.text.contains(*light))
    };
    (0..).map(prompt).filter(is_seen).take(count).collect()
}

const BACKGROUNDS: [&str; 4] = ["gray", "pink", "cream", "teal"];

fn moons(count: usize) -> Vec<Asked> {
    prompts(count, &BACKGROUNDS, |colour, _| (colour, "moon"))
}

fn known(count: usize) -> Vec<Asked> {
    prompts(count, &BACKGROUNDS, |colour, shape| (colour, shape))
}

fn turquoises(count: usize) -> Vec<Asked> {
    // Of shaded solids, and on dark backgrounds, the autoencoder does not keep it.
    const FLAT: [&str; 3] = ["star", "ring", "heart"];
    prompts(count, &["pink", "cream"], |_, shape| {
        let index = SHAPES.iter().position(|other| *other == shape);
        ("turquoise", FLAT[index.unwrap_or(0) % 3])
    })
}

/// Number of `asked` that come out right, each from a seed of its own.
fn right(pipeline: &Pipeline, asked: &[Asked]) -> Result<usize> {
    let (eye, mut right) = (Eye::new(), 0);
    for (seed, asked) in asked.iter().enumerate() {
        let request = Request {
            seed: seed as u64,
            ..sd_tiny::request(asked.text.as_str())
        };
        let picture = &pipeline.generate(&request)?[0];
        right += usize::from(eye.obeys(picture, asked));
    }
    Ok(right)
}

/// A solid that is to stand somewhere: the prompt, and its pixels.
struct Outlined {
    asked: Asked,
    mask: Mask,
}

impl Outlined {
    /// The first `count` of solids in places and sizes that the prompt does not tell.
    fn some(count: usize) -> Vec<Self> {
        let shapes = silhouettes();
        let some = known(4 * count).into_iter();
        let single = some.filter(|asked| asked.solids.len() == 1);
        let placed = single.take(count).enumerate().map(|(i, asked)| {
            let shape = SHAPES.iter().position(|shape| *shape == asked.solids[0].1);
            let shape = &shapes[shape.unwrap_or(0)];
            let radius = 18.0 + (i * 7 % 20) as f64;
            let room = SIDE as f64 - 2.0 * radius - 6.0;
            let place = |k: usize| radius + 3.0 + room * (k % 11) as f64 / 10.0;
            let (x, y) = (place(i * 4), place(i * 7 + 2));
            let at = |at: usize| {
                let from = |here: f64, middle: f64| 64.0 + (here + 0.5 - middle) * 60.0 / radius;
                let [x, y] = [from((at % SIDE) as f64, x), from((at / SIDE) as f64, y)];
                let inside = 0.0..SIDE as f64;
                let is_inside = inside.contains(&x) && inside.contains(&y);
                is_inside && shape[y as usize * SIDE + x as usize]
            };
            Self {
                mask: (0..SIDE * SIDE).map(at).collect(),
                asked,
            }
        });
        placed.collect()
    }

    /// Lines of two pixels along the edge, white on black.
    fn picture(&self) -> RgbImage {
        let near = |of: bool, x: u32, y: u32| {
            let around = |at: u32| at.saturating_sub(1)..(at + 2).min(SIDE as u32);
            let mut places = around(y).flat_map(|y| around(x).map(move |x| (x, y)));
            places.any(|(x, y)| self.mask[y as usize * SIDE + x as usize] == of)
        };
        RgbImage::from_fn(SIDE as u32, SIDE as u32, |x, y| {
            let is_line = near(true, x, y) && near(false, x, y);
            [255 * u8::from(is_line); 3].into()
        })
    }
}

/// Numbers of pictures as asked, of those that fill their outlines, and of both at once.
fn filled(pipeline: &Pipeline, all: &[Outlined]) -> Result<[usize; 3]> {
    let (eye, mut counts) = (Eye::new(), [0; 3]);
    for (seed, outlined) in all.iter().enumerate() {
        let picture = ControlPicture::new(outlined.picture());
        let request = Request {
            seed: seed as u64,
            controls: vec![picture; pipeline.controls.len()],
            ..sd_tiny::request(outlined.asked.text.as_str())
        };
        let picture = &pipeline.generate(&request)?[0];
        let obeys = eye.obeys(picture, &outlined.asked);
        let fills = overlap(&Eye::mask(picture), &outlined.mask) >= FILLED;
        for (count, is) in counts.iter_mut().zip([obeys, fills, obeys && fills]) {
            *count += usize::from(is);
        }
    }
    Ok(counts)
}

#[test]
fn a_lora_teaches_a_solid() -> Result<()> {
    let plain = sd_tiny::pipeline(&device("flex")?)?;
    let taught = moon(&plain)?;
    assert_eq!(right(&plain, &moons(3))?, 0);
    let (new, old) = (right(&taught, &moons(6))?, right(&taught, &known(4))?);
    assert!(new >= 5 && old >= 3, "{new} of 6 moons, {old} of 4 others");
    Ok(())
}

#[test]
fn a_textual_inversion_teaches_a_colour() -> Result<()> {
    let plain = sd_tiny::pipeline(&device("flex")?)?;
    let taught = turquoise(&plain)?;
    assert_eq!(right(&plain, &turquoises(3))?, 0);
    let new = right(&taught, &turquoises(6))?;
    assert!(new >= 5, "{new} of 6");
    // Other words stay what they were, to the bit.
    let drawn = [&plain, &taught].map(|pipeline| {
        let request = sd_tiny::request(sd_tiny::PROMPT);
        pipeline.generate(&request).unwrap().remove(0).image
    });
    assert_eq!(drawn[0], drawn[1]);
    Ok(())
}

#[test]
fn a_control_lora_follows_outlines() -> Result<()> {
    let plain = sd_tiny::pipeline(&device("flex")?)?;
    let steered = outlines(&plain)?;
    let all = Outlined::some(6);
    let [_, _, without] = filled(&plain, &all[..3])?;
    let [_, _, with] = filled(&steered, &all)?;
    assert!(without == 0 && with >= 5, "{without} of 3, {with} of 6");
    Ok(())
}

/// The eye knows what it is shown, and does not take one solid for another.
#[test]
fn the_eye_knows_silhouettes() {
    let (eye, shapes) = (Eye::new(), silhouettes());
    for (shape, mask) in shapes.iter().enumerate() {
        for (name, colour) in &eye.colours {
            let picture = RgbImage::from_fn(128, 128, |x, y| {
                let at = 2 * (y as usize % 64) * SIDE + 2 * (x as usize % 64);
                let is_solid = x < 64 && y < 64 && mask[at];
                let colour = if is_solid {
                    *colour
                } else {
                    [250.0, 190.0, 205.0]
                };
                colour.map(|v| v as u8).into()
            });
            let seen = eye.see(&picture);
            assert_eq!(seen.len(), 1, "{name} {}", SHAPES[shape]);
            assert_eq!((seen[0].colour, seen[0].shape), (*name, SHAPES[shape]));
        }
    }
}

/// Shares over `OBEDIENCE_PROMPTS` prompts (100), before and after:
/// `cargo test --workspace --test obedience -- --ignored --nocapture adapters_are_measured`.
#[test]
#[ignore = "takes minutes"]
fn adapters_are_measured() -> Result<()> {
    let count = std::env::var("OBEDIENCE_PROMPTS").ok();
    let count = count.and_then(|n| n.parse().ok()).unwrap_or(100);
    let plain = sd_tiny::pipeline(&device("flex")?)?;
    let [new, old, colours] = [moons(count), known(count), turquoises(count)];
    let taught = moon(&plain)?;
    for (name, asked) in [("moons", &new), ("known", &old)] {
        let [before, after] = [right(&plain, asked)?, right(&taught, asked)?];
        println!("{name}: {before} of {count}, with the LoRA {after}");
    }
    let taught = turquoise(&plain)?;
    let [before, after] = [right(&plain, &colours)?, right(&taught, &colours)?];
    println!("turquoise: {before} of {count}, with the word {after}");
    let all = Outlined::some(count);
    let steered = outlines(&plain)?;
    let [before, after] = [filled(&plain, &all)?, filled(&steered, &all)?];
    println!("outlines (as asked, filled, both): {before:?} of {count}, steered {after:?}");
    Ok(())
}
