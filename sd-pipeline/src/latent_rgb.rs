use std::borrow::Cow;

use burn::tensor::Tensor;
use image::RgbImage;
use sd_core::{Autoencoder, Error as CoreError, placed};

use crate::Result;
use crate::guard::guard;

/// Colours of a latent's channels: a linear map from a latent pixel to the mean colour of the
/// pixels it stands for. A preview that costs nothing, an eighth as wide and high as the picture.
///
/// The numbers of published autoencoders were fitted by others, and are read in ComfyUI's
/// `latent_formats.py`; for any other autoencoder [`fit`](Self::fit) finds them, once:
///
/// ```no_run
/// # fn main() -> sd_pipeline::Result<()> {
/// # let mut pipeline = sd_pipeline::Pipeline::open("", &sd_pipeline::OpenOptions::new(&sd_pipeline::device("flex")?))?;
/// use sd_pipeline::{LatentRgb, Preview, Request};
///
/// let mut run = pipeline.start(&Request::new("a market in the rain"))?;
/// for step in &mut run {
///     step?;
/// }
/// let autoencoder = pipeline.autoencoder.get()?;
/// let colours = LatentRgb::fit(&*autoencoder, run.latents())?;
/// println!("{colours:?}");
/// pipeline.latent_rgb = Some(colours);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct LatentRgb {
    /// Red, green and blue of each channel, for latents as denoisers work on them and colours from
    /// −1 to 1.
    pub factors: Cow<'static, [[f32; 3]]>,
    /// Red, green and blue of a latent of zeros.
    pub bias: [f32; 3],
}

impl LatentRgb {
    /// Stable Diffusion 1 and 2.
    pub const STABLE_DIFFUSION: Self = Self {
        factors: Cow::Borrowed(&[
            [0.3512, 0.2297, 0.3227],
            [0.3250, 0.4974, 0.2350],
            [-0.2829, 0.1762, 0.2721],
            [-0.2120, -0.2616, -0.7177],
        ]),
        bias: [0.0; 3],
    };

    /// Stable Diffusion XL.
    pub const SDXL: Self = Self {
        factors: Cow::Borrowed(&[
            [0.3651, 0.4232, 0.4341],
            [-0.2533, -0.0042, 0.1068],
            [0.1076, 0.1111, -0.0362],
            [-0.3165, -0.2492, -0.2188],
        ]),
        bias: [0.1084, -0.0175, -0.0011],
    };

    /// Stable Diffusion 3, of 16 channels.
    pub const SD3: Self = Self {
        factors: Cow::Borrowed(&[
            [-0.0922, -0.0175, 0.0749],
            [0.0311, 0.0633, 0.0954],
            [0.1994, 0.0927, 0.0458],
            [0.0856, 0.0339, 0.0902],
            [0.0587, 0.0272, -0.0496],
            [-0.0006, 0.1104, 0.0309],
            [0.0978, 0.0306, 0.0427],
            [-0.0042, 0.1038, 0.1358],
            [-0.0194, 0.0020, 0.0669],
            [-0.0488, 0.0130, -0.0268],
            [0.0922, 0.0988, 0.0951],
            [-0.0278, 0.0524, -0.0542],
            [0.0332, 0.0456, 0.0895],
            [-0.0069, -0.0030, -0.0810],
            [-0.0596, -0.0465, -0.0293],
            [-0.1448, -0.1463, -0.1189],
        ]),
        bias: [0.2394, 0.2135, 0.1925],
    };

    /// Flux, of 16 channels.
    pub const FLUX: Self = Self {
        factors: Cow::Borrowed(&[
            [-0.0346, 0.0244, 0.0681],
            [0.0034, 0.0210, 0.0687],
            [0.0275, -0.0668, -0.0433],
            [-0.0174, 0.0160, 0.0617],
            [0.0859, 0.0721, 0.0329],
            [0.0004, 0.0383, 0.0115],
            [0.0405, 0.0861, 0.0915],
            [-0.0236, -0.0185, -0.0259],
            [-0.0245, 0.0250, 0.1180],
            [0.1008, 0.0755, -0.0421],
            [-0.0515, 0.0201, 0.0011],
            [0.0428, -0.0012, -0.0036],
            [0.0817, 0.0765, 0.0749],
            [-0.1264, -0.0522, -0.1103],
            [-0.0280, -0.0881, -0.0499],
            [-0.1262, -0.0982, -0.0778],
        ]),
        bias: [-0.0329, -0.0718, -0.0851],
    };

    /// The map of least squares for `autoencoder`, from `latents` `[n, c, h, w]` that it decodes:
    /// those of a few pictures of its kind, with more latent pixels than channels by far.
    ///
    /// # Errors
    /// [`Error::Component`](crate::Error::Component): those of the autoencoder, and for latents that
    /// do not determine the map, because they are too few or too much alike.
    pub fn fit(autoencoder: &dyn Autoencoder, latents: &Tensor<4>) -> Result<Self> {
        let spec = autoencoder.spec();
        let [n, c, h, w] = latents.dims();
        let mut squares = LeastSquares::new(c + 1);
        let (factor, plane) = (spec.factor, h * w);
        for k in 0..n {
            let latent = latents.clone().narrow(0, k, 1);
            let pixels = guard("the autoencoder", || {
                autoencoder.decode(placed(latent.clone(), &spec.device, spec.dtype)?)
            })?;
            let expected = [1, 3, h * factor, w * factor];
            if pixels.dims() != expected {
                let expected = format!("{expected:?}");
                return Err(CoreError::shape("decoded pixels", &pixels.dims(), expected).into());
            }
            let (latent, pixels) = (values(latent)?, values(pixels)?);
            let width = w * factor;
            for at in 0..plane {
                let (top, left) = (at / w * factor, at % w * factor);
                let mean = |colour: usize| {
                    let rows =
                        (top..top + factor).map(|y| (colour * h * factor + y) * width + left);
                    let square = rows.flat_map(|start| &pixels[start..start + factor]);
                    let sum: f64 = square.map(|v| f64::from(v.clamp(-1.0, 1.0))).sum();
                    sum / (factor * factor) as f64
                };
                let channels = (0..c).map(|channel| f64::from(latent[channel * plane + at]));
                let row: Vec<f64> = channels.chain([1.0]).collect();
                squares.add(&row, [mean(0), mean(1), mean(2)]);
            }
        }
        let found = squares.solve().ok_or_else(|| {
            let expected = "expected those of several pictures, which determine the colours";
            CoreError::invalid("latents", format!("{n} of {h}x{w}"), expected)
        })?;
        let mut rows: Vec<_> = found.iter().map(|row| row.map(|v| v as f32)).collect();
        let bias = rows.pop().unwrap_or_default();
        Ok(Self {
            factors: rows.into(),
            bias,
        })
    }

    /// The pictures, `w` × `h`, of the latents `[n, c, h, w]`.
    ///
    /// # Errors
    /// [`Error::Component`](crate::Error::Component) for latents of other channels, and such as
    /// cannot be read from their device.
    pub fn images(&self, latents: &Tensor<4>) -> Result<Vec<RgbImage>> {
        let [n, c, h, w] = latents.dims();
        let channels = self.factors.len();
        if c != channels || h * w == 0 {
            let expected = format!("[n, {channels}, h, w], as many channels as there are colours");
            return Err(CoreError::shape("latents to preview", &[n, c, h, w], expected).into());
        }
        let values = values(latents.clone())?;
        let images = values.chunks_exact(c * h * w).map(|latent| {
            RgbImage::from_fn(w as u32, h as u32, |x, y| {
                let at = y as usize * w + x as usize;
                let mut colour = self.bias;
                for (channel, factors) in self.factors.iter().enumerate() {
                    let value = latent[channel * h * w + at];
                    for (sum, factor) in colour.iter_mut().zip(factors) {
                        *sum += value * factor;
                    }
                }
                let byte = |v: f32| ((v / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even();
                colour.map(|v| byte(v) as u8).into()
            })
        });
        Ok(images.collect())
    }
}

fn values(tensor: Tensor<4>) -> Result<Vec<f32>> {
    let values = tensor.try_into_vec_as::<f32>();
    Ok(values.map_err(|e| CoreError::backend("reading the latents", e))?)
}

/// Sums of a problem of least squares with three right sides.
struct LeastSquares {
    size: usize,
    /// Products of the unknowns' coefficients with each other, row by row.
    products: Vec<f64>,
    /// And with the right sides.
    sides: Vec<[f64; 3]>,
}

impl LeastSquares {
    fn new(size: usize) -> Self {
        Self {
            size,
            products: vec![0.0; size * size],
            sides: vec![[0.0; 3]; size],
        }
    }

    /// Adds the equation `row·unknowns = side`.
    fn add(&mut self, row: &[f64], side: [f64; 3]) {
        for (i, a) in row.iter().enumerate() {
            for (j, b) in row.iter().enumerate() {
                self.products[i * self.size + j] += a * b;
            }
            for (sum, value) in self.sides[i].iter_mut().zip(side) {
                *sum += a * value;
            }
        }
    }

    /// The unknowns, by Cholesky's decomposition; none where they are not determined.
    fn solve(self) -> Option<Vec<[f64; 3]>> {
        let n = self.size;
        let mut lower = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..=i {
                let whole = self.products[i * n + j];
                let sum: f64 = (0..j).map(|k| lower[i * n + k] * lower[j * n + k]).sum();
                let rest = whole - sum;
                lower[i * n + j] = match i == j {
                    // What roundings leave of nothing is nothing.
                    true if rest > 1e-9 * whole => rest.sqrt(),
                    true => return None,
                    false => rest / lower[j * n + j],
                };
            }
        }
        let mut found = self.sides;
        // `found[i]` less the multiples of those already found, over the diagonal's entry.
        let mut settle =
            |i: usize, others: std::ops::Range<usize>, at: fn(usize, usize) -> [usize; 2]| {
                let mut rest = found[i];
                for j in others {
                    let [row, column] = at(i, j);
                    for (value, other) in rest.iter_mut().zip(found[j]) {
                        *value -= lower[row * n + column] * other;
                    }
                }
                found[i] = rest.map(|value| value / lower[i * n + i]);
            };
        (0..n).for_each(|i| settle(i, 0..i, |i, j| [i, j]));
        (0..n)
            .rev()
            .for_each(|i| settle(i, i + 1..n, |i, j| [j, i]));
        Some(found)
    }
}
