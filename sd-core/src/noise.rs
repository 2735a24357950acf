use std::collections::VecDeque;

use burn::tensor::{DType, Tensor, TensorData};

use crate::{Error, Result, TorchRng};

/// Source of a run's random numbers.
///
/// Noise is made on the host and uploaded: a device's own generator is shared by the whole
/// process and differs between backends, this one gives every backend the same picture.
pub trait Noise: Send {
    /// The next draw of standard normal numbers, f32, of the shape `[n, c, h, w]`, one latent for
    /// each of the run's `n` images.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when there is no noise of that shape.
    fn normal(&mut self, shape: [usize; 4]) -> Result<TensorData>;

    /// Number of draws taken: with the seeds, the whole state of the noise.
    fn draws(&self) -> u64;

    /// One seed per image for a solver that builds its own noise process (a Brownian tree).
    fn seeds(&self) -> Vec<u64>;
}

/// The next draw of `noise` in the shape and on the device of `x`.
///
/// # Errors
/// Those of [`Noise::normal`].
pub fn noise_like(x: &Tensor<4>, noise: &mut dyn Noise) -> Result<Tensor<4>> {
    let options = (&x.device(), DType::F32);
    Ok(Tensor::from_data(noise.normal(x.dims())?, options))
}

/// Noise from one seed per image, as `torch.Generator("cpu")` draws it.
///
/// Image `k` has its own generator and takes one `[1, c, h, w]` draw at a time, so its noise does
/// not depend on how many images are made with it; diffusers does the same when given a list of
/// generators.
#[derive(Debug, Clone)]
pub struct SeededNoise {
    seeds: Vec<u64>,
    generators: Vec<TorchRng>,
    draws: u64,
}

impl SeededNoise {
    /// `count` images with the seeds `seed`, `seed + 1`, …
    pub fn new(seed: u64, count: usize) -> Self {
        Self::from_seeds((0..count as u64).map(|k| seed.wrapping_add(k)).collect())
    }

    /// One image per seed.
    pub fn from_seeds(seeds: Vec<u64>) -> Self {
        Self {
            generators: seeds.iter().map(|&seed| TorchRng::new(seed)).collect(),
            seeds,
            draws: 0,
        }
    }
}

impl Noise for SeededNoise {
    fn normal(&mut self, [n, c, h, w]: [usize; 4]) -> Result<TensorData> {
        if n != self.generators.len() {
            let images = self.generators.len();
            let expected = format!("the run has {images} images, one seed each");
            return Err(Error::invalid("noise batch", n, expected));
        }
        self.draws += 1;
        let mut values = Vec::with_capacity(n * c * h * w);
        for generator in &mut self.generators {
            values.extend(generator.randn(c * h * w));
        }
        Ok(TensorData::new(values, [n, c, h, w]))
    }

    fn draws(&self) -> u64 {
        self.draws
    }

    fn seeds(&self) -> Vec<u64> {
        self.seeds.clone()
    }
}

/// Noise drawn elsewhere and played back in order: for comparing with another implementation.
#[derive(Debug, Clone, Default)]
pub struct RecordedNoise {
    pending: VecDeque<TensorData>,
    draws: u64,
}

impl RecordedNoise {
    /// Plays back `draws` in order.
    pub fn new(draws: impl IntoIterator<Item = TensorData>) -> Self {
        Self {
            pending: draws.into_iter().collect(),
            draws: 0,
        }
    }
}

impl Noise for RecordedNoise {
    fn normal(&mut self, shape: [usize; 4]) -> Result<TensorData> {
        let next = self.pending.pop_front();
        let next = next.ok_or_else(|| {
            Error::invalid("recorded noise", self.draws, "no draw is left to play back")
        })?;
        let found = next.shape().as_slice();
        if found != shape {
            return Err(Error::shape("recorded noise", found, format!("{shape:?}")));
        }
        self.draws += 1;
        Ok(next)
    }

    fn draws(&self) -> u64 {
        self.draws
    }

    fn seeds(&self) -> Vec<u64> {
        Vec::new()
    }
}
