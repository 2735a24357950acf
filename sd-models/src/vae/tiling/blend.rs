//! Tiles that overlap, with a linear transition between neighbours: diffusers' `tiled_decode` and
//! `_tiled_encode` (`AutoencoderKL`, 0.42.1).

use burn::tensor::{DType, Tensor, TensorData};
use sd_core::{Error, Result};

/// The reach of tiles, in pixels of what goes in and of what comes out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::vae) struct Tiles {
    /// Side of a tile.
    tile: [usize; 2],
    /// Distance of neighbouring tiles.
    step: [usize; 2],
}

impl Tiles {
    /// Tiles of `tile` pixels that share `overlap` of their side with a neighbour. `factor` is
    /// pixels per latent pixel; what goes in is `scale[0]` and what comes out `scale[1]` of the
    /// two, 1 for latents.
    pub(in crate::vae) fn new(
        tile: usize,
        overlap: f64,
        factor: usize,
        scale: [usize; 2],
    ) -> Result<Self> {
        if tile == 0 || !tile.is_multiple_of(factor) {
            let expected = format!("expected a multiple of {factor}");
            return Err(Error::invalid("tile", tile, expected));
        }
        let latent = tile / factor;
        let step = (latent as f64 * (1.0 - overlap)) as usize;
        if !(0.0..1.0).contains(&overlap) || step == 0 {
            let expected = format!("expected 0 to {}", 1.0 - 1.0 / latent as f64);
            return Err(Error::invalid("overlap", overlap, expected));
        }
        Ok(Self {
            tile: scale.map(|scale| scale * latent),
            step: scale.map(|scale| scale * step),
        })
    }

    /// `x` `[n, c, h, w]` through `network`, tile by tile where it is larger than one.
    pub(in crate::vae) fn run(
        &self,
        x: Tensor<4>,
        network: impl Fn(Tensor<4>) -> Result<Tensor<4>>,
    ) -> Result<Tensor<4>> {
        let [_, _, height, width] = x.dims();
        if height <= self.tile[0] && width <= self.tile[0] {
            return network(x);
        }
        let ([tile, _], [step, limit]) = (self.tile, self.step);
        let extent = self.tile[1] - limit;
        let mut rows = Vec::new();
        let mut above: Vec<Tensor<4>> = Vec::new();
        for y in (0..height).step_by(step) {
            let strip = x.clone().narrow(2, y, tile.min(height - y));
            let mut row: Vec<Tensor<4>> = Vec::new();
            for (i, x) in (0..width).step_by(step).enumerate() {
                let mut made = network(strip.clone().narrow(3, x, tile.min(width - x)))?;
                if let Some(above) = above.get(i) {
                    made = blend(above, made, 2, extent);
                }
                if let Some(left) = row.last() {
                    made = blend(left, made, 3, extent);
                }
                row.push(made);
            }
            let cropped = row.iter().map(|tile| {
                let [_, _, h, w] = tile.dims();
                tile.clone()
                    .narrow(2, 0, h.min(limit))
                    .narrow(3, 0, w.min(limit))
            });
            rows.push(Tensor::cat(cropped.collect(), 3));
            above = row;
        }
        Ok(Tensor::cat(rows, 2))
    }
}

/// `b` with its first `extent` rows (`dim` 2) or columns (3) passing over from the last of `a`.
fn blend(a: &Tensor<4>, b: Tensor<4>, dim: usize, extent: usize) -> Tensor<4> {
    let (before, size) = (a.dims()[dim], b.dims()[dim]);
    let extent = extent.min(before).min(size);
    if extent == 0 {
        return b;
    }
    let shares = (0..extent).map(|i| i as f32 / extent as f32).collect();
    let mut shape = [1; 4];
    shape[dim] = extent;
    let share = TensorData::new::<f32, _>(shares, shape);
    let share = Tensor::<4>::from_data(share, (&b.device(), DType::F32)).cast(b.dtype());
    let from = a.clone().narrow(dim, before - extent, extent);
    let to = b.clone().narrow(dim, 0, extent);
    let mixed = from * (share.clone() * -1.0 + 1.0) + to * share;
    if extent == size {
        return mixed;
    }
    Tensor::cat(vec![mixed, b.narrow(dim, extent, size - extent)], dim)
}
