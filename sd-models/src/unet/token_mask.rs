use sd_core::{Error, Result};

/// A part of a picture, as the layers' tokens see it.
///
/// Layers have fewer tokens than the picture has pixels: their shares are interpolated bicubically,
/// over as many rows and columns as the mask's proportions say, as diffusers' `IPAdapterMaskProcessor`
/// does. Where those are not the picture's, as at sides that do not halve evenly, rows are off by some
/// tokens; tokens beyond the last see nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenMask {
    values: Vec<f32>,
    /// Height and width.
    size: [usize; 2],
}

impl TokenMask {
    /// A mask of shares, 0 for nothing to 1 for all, row by row at `size`, height and width.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] unless there is a finite share for each pixel, and one at least.
    pub fn new(values: Vec<f32>, size: [usize; 2]) -> Result<Self> {
        let [height, width] = size;
        let count = height.checked_mul(width).filter(|count| *count > 0);
        if count != Some(values.len()) || values.iter().any(|value| !value.is_finite()) {
            let expected = format!("expected {height}x{width} finite ones, at least 1");
            return Err(Error::invalid("a mask's shares", values.len(), expected));
        }
        Ok(Self { values, size })
    }

    /// The shares of a picture's `tokens` tokens, row by row.
    pub(super) fn shares(&self, tokens: usize) -> Vec<f32> {
        let [height, width] = self.size;
        let ratio = width as f64 / height as f64;
        let rows = ((tokens as f64 / ratio).sqrt() as usize).max(1);
        let rows = (rows + usize::from(!tokens.is_multiple_of(rows))).min(tokens.max(1));
        let columns = tokens / rows;
        let (down, across) = (taps(height, rows), taps(width, columns));
        let mut shares = Vec::with_capacity(tokens);
        for row in &down {
            for column in &across {
                let lines = row.iter().map(|(y, weight)| {
                    let line = column.iter();
                    let line = line.map(|(x, weight)| weight * self.values[y * width + x]);
                    weight * line.sum::<f32>()
                });
                shares.push(lines.sum());
            }
        }
        shares.resize(tokens, 0.0);
        shares
    }
}

/// For each of `to` places the four of `from` that it is interpolated from, and their weights, as
/// torch's bicubic interpolation has them (Keys 1981, with a = −0.75).
fn taps(from: usize, to: usize) -> Vec<[(usize, f32); 4]> {
    const A: f32 = -0.75;
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let scale = from as f32 / to as f32;
    let place = |at: usize| {
        let real = scale * (at as f32 + 0.5) - 0.5;
        let first = real.floor();
        let t = real - first;
        let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
        std::array::from_fn(|k| {
            let index = first as i64 + k as i64 - 1;
            (index.clamp(0, from as i64 - 1) as usize, weights[k])
        })
    };
    (0..to).map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_torchs_at_sizes_of_the_masks_proportions_and_others() {
        let fixture = sd_fixtures::Fixture::open("image_prompts");
        let [_, count, height, width] = fixture.shape("mask").try_into().unwrap();
        let masks = fixture.f32("mask");
        let mask = |number: usize| {
            let values = masks.chunks(height * width).nth(number).unwrap();
            TokenMask::new(values.to_vec(), [height, width]).unwrap()
        };
        for (k, tokens) in [72, 20, 6, 2, 63, 130].into_iter().enumerate() {
            let found = mask(k % count).shares(tokens);
            fixture.assert_close(&format!("mask/{tokens}"), &found, 2e-6);
        }
    }

    #[test]
    fn masks_without_pixels_and_with_other_numbers_are_errors() {
        for (values, size) in [
            (vec![], [0, 5]),
            (vec![1.0; 3], [2, 2]),
            (vec![f32::NAN], [1, 1]),
            (vec![], [usize::MAX, usize::MAX]),
        ] {
            assert!(TokenMask::new(values, size).is_err());
        }
        // One pixel, and pictures that are long and narrow.
        let mask = TokenMask::new(vec![0.5], [1, 1]).unwrap();
        assert_eq!(mask.shares(1), [0.5]);
        let mask = TokenMask::new(vec![1.0; 300], [1, 300]).unwrap();
        assert_eq!(mask.shares(7).len(), 7);
    }
}
