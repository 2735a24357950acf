use rayon::prelude::*;

use crate::error::{Error, Result, check_len};

/// Numbers of a task: from some 16 Ki on one is worth sending to another thread.
const TASK: usize = 1 << 14;

/// Joins two pictures pixel by pixel: `a` `[pixels, channels_a]` and `b` `[pixels, channels_b]`
/// give `out` `[pixels, channels_a + channels_b]`, as a UNet's skip connections ask for. A batch is
/// one long picture here: `pixels` counts all of its samples.
///
/// # Errors
/// A slice whose length does not fit, and two pictures without channels.
pub fn concat_channels(
    a: &[f32],
    channels_a: usize,
    b: &[f32],
    channels_b: usize,
    pixels: usize,
    out: &mut [f32],
) -> Result<()> {
    let channels = channels_a.saturating_add(channels_b);
    if channels == 0 {
        return Err(Error::Dimension {
            name: "channels",
            value: channels,
            expected: "at least 1 in one of the pictures",
        });
    }
    check_len("the first input", a.len(), &[pixels, channels_a])?;
    check_len("the second input", b.len(), &[pixels, channels_b])?;
    check_len("the output", out.len(), &[pixels, channels])?;
    let run = TASK.div_ceil(channels);
    out.par_chunks_mut(run * channels)
        .enumerate()
        .for_each(|(task, out)| {
            for (i, out) in out.chunks_exact_mut(channels).enumerate() {
                let pixel = task * run + i;
                let (to_a, to_b) = out.split_at_mut(channels_a);
                to_a.copy_from_slice(&a[pixel * channels_a..][..channels_a]);
                to_b.copy_from_slice(&b[pixel * channels_b..][..channels_b]);
            }
        });
    Ok(())
}
