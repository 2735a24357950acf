//! Settings of a tiny autoencoder that its tensors' shapes tell, and its tensors' names.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::names::{Entries, Numbers};
use super::{Opened, object};
use crate::inspect::blocks::numbers;
use crate::inspect::parts::{Part, Parts, Role};
use crate::inspect::vae::is_half;
use crate::ldm::{Layout, Storage};
use crate::vae::TinyVaeConfig;
use crate::weights::{Joined, Renamed, TensorSource};
use crate::{ConfigFile, Result};

/// Settings and tensors of a component.
pub(super) type Found = (Map<String, Value>, Arc<dyn TensorSource>);

/// The halves of a tiny autoencoder, each as a part with the names of its own file before its
/// numbers.
pub(super) struct Half<'a, 'p> {
    pub(super) part: &'a Part<'p>,
    pub(super) start: &'static str,
}

/// Blocks at each resolution, and the channels of the first and the last convolution.
struct Stack {
    blocks: Vec<usize>,
    first: Option<[usize; 2]>,
    last: Option<[usize; 2]>,
}

impl Half<'_, '_> {
    /// A convolution, blocks, a convolution, blocks … and a convolution.
    fn stack(&self) -> Stack {
        let Self { part, start } = self;
        let channels = |n: usize| {
            let shape = &part.tensors.get(&*format!("{start}{n}.weight"))?.shape;
            Some([*shape.first()?, *shape.get(1)?])
        };
        let mut stack = Stack {
            blocks: Vec::new(),
            first: None,
            last: None,
        };
        for number in numbers(part, start) {
            match (channels(number), stack.blocks.last_mut()) {
                (Some(conv), _) => {
                    stack.first = stack.first.or(Some(conv));
                    stack.last = Some(conv);
                    stack.blocks.push(0);
                }
                (None, Some(blocks)) => *blocks += 1,
                (None, None) => {}
            }
        }
        // Behind the last convolution there is nothing.
        stack.blocks.pop();
        stack
    }

    /// Names by diffusers of its tensors, by the table of its layout.
    fn names(&self, numbers: &Numbers<'_>, layout: &Layout) -> Entries {
        let mut entries = Entries::new();
        for (name, tensor) in &self.part.tensors {
            let Some(number) = name.strip_prefix(self.start) else {
                continue;
            };
            let index = numbers.of(self.part, name);
            match layout.in_diffusers(number).pop() {
                Some((name, form)) => entries.push((index, name, form)),
                None => entries.push((index, tensor.name.clone(), Storage::Whole)),
            }
        }
        entries
    }
}

/// The tables of both halves of a tiny autoencoder with these settings.
fn layouts(opened: &Opened, settings: &Map<String, Value>) -> Result<[Layout; 2]> {
    let config = TinyVaeConfig::new(&ConfigFile::new(&opened.path, settings.clone()))?;
    Ok([Layout::tiny_encoder(&config), Layout::tiny_decoder(&config)])
}

/// A tiny autoencoder whose halves, the encoder first, are in one file.
pub(super) fn both(
    opened: &Opened,
    numbers: &Numbers<'_>,
    halves: &[Half<'_, '_>; 2],
) -> Result<Found> {
    let [encoder, decoder] = halves;
    let settings = settings(encoder, decoder);
    let layouts = layouts(opened, &settings)?;
    let names = halves.iter().zip(&layouts);
    let names = names.flat_map(|(half, layout)| half.names(numbers, layout));
    let renamed = Renamed::new(opened.source.clone(), names);
    Ok((settings, Arc::new(renamed)))
}

/// A tiny autoencoder of which `part` is one half, alone in its file; the other is in a file beside
/// it.
pub(super) fn with_other_half(opened: &Opened, part: &Part<'_>) -> Result<Found> {
    let is_decoder = |part: &Part<'_>| part.side("0.weight", 0).is_none();
    let (own, other) = match is_decoder(part) {
        true => ("decoder", "encoder"),
        false => ("encoder", "decoder"),
    };
    let file = opened
        .path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let path = opened.path.with_file_name(file.replace(own, other));
    let missing = || {
        let mut error = opened.error(&format!(
            "both halves, the {other} beside it in a file that is called so, or a file by diffusers' \
             names"
        ));
        if let crate::Error::Contents { found, .. } = &mut error {
            *found = format!("the {own} of a tiny autoencoder alone");
        }
        error
    };
    if path == opened.path || !path.is_file() {
        return Err(missing());
    }
    let beside = Opened::new(&path)?;
    let parts = Parts::of(beside.source.tensors());
    let second = parts
        .of_role(Role::Vae)
        .filter(|half| is_half(&half.tensors));
    let Some(second) = second.filter(|half| is_decoder(half) != is_decoder(part)) else {
        return Err(missing());
    };
    let shown = [&opened.path, &path].map(|path| path.display());
    tracing::warn!("{}: the other half is read from {}", shown[0], shown[1]);
    let files = [(part, opened), (second, &beside)];
    let half = |part| Half { part, start: "" };
    let settings = match is_decoder(part) {
        true => settings(&half(second), &half(part)),
        false => settings(&half(part), &half(second)),
    };
    let [encoder, decoder] = layouts(opened, &settings)?;
    let sources = files.map(|(part, file)| -> Arc<dyn TensorSource> {
        let layout = if is_decoder(part) { &decoder } else { &encoder };
        let numbers = Numbers::new(file.source.tensors());
        Arc::new(Renamed::new(
            file.source.clone(),
            half(part).names(&numbers, layout),
        ))
    });
    Ok((settings, Arc::new(Joined::new(sources))))
}

/// A tiny autoencoder's settings.
pub(super) fn settings(encoder: &Half<'_, '_>, decoder: &Half<'_, '_>) -> Map<String, Value> {
    let [encoder, decoder] = [encoder.stack(), decoder.stack()];
    let of = |channels: Option<[usize; 2]>, side: usize| channels.map(|c| c[side]);
    let width = |stack: &Stack| vec![of(stack.first, 0); stack.blocks.len()];
    let settings = json!({
        "_class_name": "AutoencoderTiny",
        "in_channels": of(encoder.first, 1),
        "out_channels": of(decoder.last, 0),
        "latent_channels": of(decoder.first, 1),
        "encoder_block_out_channels": width(&encoder),
        "decoder_block_out_channels": width(&decoder),
        "num_encoder_blocks": encoder.blocks,
        "num_decoder_blocks": decoder.blocks,
    });
    object(settings)
}
