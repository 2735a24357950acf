use burn::tensor::{DType, Tensor, TensorData};
use sd_core::Error;

/// Way to another size of a latent, as torch's `interpolate` goes it: pixels' centres lie in their
/// middles (`align_corners=False`), and nothing is widened where it shrinks (`antialias=False`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Interpolation {
    /// The value in which the new one's middle lies: torch's "nearest-exact", ComfyUI's first.
    Nearest,
    /// Linear between the four nearest: A1111's "Latent".
    #[default]
    Bilinear,
    /// Cubic convolution with a = −¾ of the sixteen nearest; it may overshoot.
    Bicubic,
}

/// Values that one new value is made of, each with its weight.
type Taps = Vec<(usize, f32)>;

impl Interpolation {
    /// `latents` `[n, c, h, w]` at `[height, width]`, in f32 on their device. The host computes: they
    /// are small.
    ///
    /// # Errors
    /// [`Error::Shape`] without a value to interpolate, or none to make; [`Error::Backend`] when they
    /// cannot be read from their device.
    pub fn apply(
        self,
        latents: &Tensor<4>,
        [height, width]: [usize; 2],
    ) -> sd_core::Result<Tensor<4>> {
        let [n, c, h, w] = latents.dims();
        if h * w == 0 || height * width == 0 {
            let found = [n, c, h, w];
            let expected = "sides above 0, before and behind";
            return Err(Error::shape("latents to enlarge", &found, expected));
        }
        let values = latents.clone().try_into_vec_as::<f32>();
        let values = values.map_err(|e| Error::backend("enlarging the latents", e))?;
        let (rows, columns) = (self.taps(h, height), self.taps(w, width));
        let mut new = Vec::with_capacity(n * c * height * width);
        let mut lines = vec![0f32; h * width];
        for plane in values.chunks_exact(h * w) {
            for (line, old) in lines.chunks_exact_mut(width).zip(plane.chunks_exact(w)) {
                for (value, taps) in line.iter_mut().zip(&columns) {
                    *value = taps.iter().map(|(at, weight)| old[*at] * weight).sum();
                }
            }
            for taps in &rows {
                let value = |x: usize| -> f32 {
                    taps.iter()
                        .map(|(at, weight)| lines[at * width + x] * weight)
                        .sum()
                };
                new.extend((0..width).map(value));
            }
        }
        let data = TensorData::new(new, [n, c, height, width]);
        Ok(Tensor::from_data(data, (&latents.device(), DType::F32)))
    }

    /// Of each of `to` new values in the place of `from` old ones.
    fn taps(self, from: usize, to: usize) -> Vec<Taps> {
        // In f32, for torch's roundings decide which value is nearest.
        let scale = from as f32 / to as f32;
        let last = from as isize - 1;
        let inside = |at: isize| at.clamp(0, last) as usize;
        let taps = |i: usize| {
            let middle = scale * (i as f32 + 0.5);
            let place = middle - 0.5;
            match self {
                Self::Nearest => vec![(inside(middle.floor() as isize), 1.0)],
                Self::Bilinear => {
                    let place = place.max(0.0);
                    let low = place.floor();
                    let share = place - low;
                    let low = low as isize;
                    vec![(inside(low), 1.0 - share), (inside(low + 1), share)]
                }
                Self::Bicubic => {
                    let low = place.floor();
                    let share = place - low;
                    let low = low as isize;
                    let distances = [1.0 + share, share, 1.0 - share, 2.0 - share];
                    let taps = (low - 1..).zip(distances);
                    taps.map(|(at, distance)| (inside(at), cubic(distance)))
                        .collect()
                }
            }
        };
        (0..to).map(taps).collect()
    }
}

/// Keys' kernel (1981) at a distance of up to 2, a = −¾.
fn cubic(x: f32) -> f32 {
    const A: f32 = -0.75;
    match x <= 1.0 {
        true => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        false => ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A,
    }
}
