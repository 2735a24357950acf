//! Errors that each class of the U-Net's layers makes by itself in a lower precision.

use std::collections::BTreeMap;

use sd_pipeline::core::BoxError;
use sd_pipeline::models::{Files, Int8, LayerPacking, LoadOptions, Packing, Products};
use sd_pipeline::{Device, WeightStorage};

/// Tells by a layer's name and its weight's sides, of which an attention itself has none, whether it
/// is of a class.
type Tells = fn(&str, &[usize]) -> bool;

/// Classes of layers; what several tell is of the first.
const CLASSES: [(&str, Tells); 6] = [
    ("attention itself", |name, _| name.ends_with(".products")),
    ("attention's projections", |name, _| {
        [".to_q", ".to_k", ".to_v", ".to_out.0"]
            .iter()
            .any(|end| name.ends_with(end))
    }),
    ("feed-forward", |name, _| name.contains(".ff.")),
    ("embeddings of time and sizes", |name, _| {
        name.contains("embedding") || name.contains("time_emb_proj")
    }),
    ("3×3 convolutions", |_, sides| sides.ends_with(&[3, 3])),
    (
        "1×1 convolutions, projections around transformers",
        |_, sides| sides.len() == 2 || sides.ends_with(&[1, 1]),
    ),
];

/// The name of a precision, and what layers of it are packed for; none where this processor has it not.
type Precision = (&'static str, fn() -> Option<Packing>);

/// Precisions, one column each; `None` where this processor does not have it.
const PRECISIONS: [Precision; 4] = [
    ("bf16", || {
        let products = Products::bf16()?;
        Some(Packing {
            products,
            ..Packing::default()
        })
    }),
    ("int8", || {
        let int8 = Some(Int8::best()?);
        Some(Packing {
            products: Products::F32.with_int8(int8),
            ..Packing::default()
        })
    }),
    ("q8", || Some(WeightStorage::Q8.into())),
    ("q4", || Some(WeightStorage::Q4.into())),
];

/// The weights of the U-Net's layers, and its attentions without any.
fn layers(files: &Files) -> Result<BTreeMap<String, Vec<usize>>, BoxError> {
    let weights = files
        .folder("unet")
        .weights("diffusion_pytorch_model", None)?;
    let mut layers = BTreeMap::new();
    for (name, sides) in weights.shapes() {
        let Some(name) = name.strip_suffix(".weight").filter(|_| sides.len() > 1) else {
            continue;
        };
        if let Some(attention) = name.strip_suffix(".to_q") {
            layers.insert(format!("{attention}.products"), Vec::new());
        }
        layers.insert(name.to_owned(), sides.to_vec());
    }
    Ok(layers)
}

/// Prints for each class of `files`' U-Net how many layers and numbers it has, and by how much what
/// `run` makes with these options is off beside f32 (RMS, relative) where they alone are in a lower
/// precision.
pub(crate) fn table(
    files: &Files,
    device: &Device,
    run: &dyn Fn(&LoadOptions) -> Result<Vec<f32>, BoxError>,
    error: fn(&[f32], &[f32]) -> f64,
) -> Result<(), BoxError> {
    let layers = layers(files)?;
    let class = |name: &str, sides: &[usize]| CLASSES.iter().position(|(_, of)| of(name, sides));
    let of: BTreeMap<String, Option<usize>> = (layers.iter())
        .map(|(name, sides)| (name.clone(), class(name, sides)))
        .collect();
    let plain = LoadOptions::new(device);
    let exact = run(&plain)?;
    let precisions = PRECISIONS.map(|(name, packing)| (name, packing()));
    let columns = precisions.map(|(name, _)| format!(" {name} |")).concat();
    println!("| class | layers | millions of numbers |{columns}");
    println!("|---|---|---|{}", "---|".repeat(precisions.len()));
    for row in 0..=CLASSES.len() {
        let name = CLASSES.get(row).map_or("all", |(name, _)| *name);
        let is_in = move |class: Option<usize>| row == CLASSES.len() || class == Some(row);
        let own = layers.iter().filter(|(name, _)| is_in(of[*name]));
        let size = |sides: &[usize]| match sides {
            [] => 0,
            sides => sides.iter().product(),
        };
        let sizes: Vec<usize> = own.map(|(_, sides)| size(sides)).collect();
        let numbers: usize = sizes.iter().sum();
        let mut line = format!("| {name} | {} | {:.1} |", sizes.len(), numbers as f64 / 1e6);
        for (_, packing) in precisions {
            // Storage says nothing where there are no weights.
            let packing = packing.filter(|own| numbers > 0 || !own.products.is_f32());
            let Some(packing) = packing.filter(|_| !sizes.is_empty()) else {
                line += " – |";
                continue;
            };
            let of = of.clone();
            let layers = LayerPacking::new(move |name| {
                let class = of.get(name).copied();
                class.is_some_and(is_in).then_some(packing)
            });
            let found = run(&LoadOptions {
                layers: Some(layers),
                ..plain.clone()
            })?;
            line += &format!(" {:.2e} |", error(&found, &exact));
        }
        println!("{line}");
    }
    Ok(())
}
