use burn::tensor::Tensor;
use sd_core::{Error, Result};
use sd_kernels::Moments;

use crate::layers::{Measured, expect_shapes, moments};

/// A picture's moments, collected from its strips.
#[derive(Default)]
pub(super) struct MomentsAccumulator {
    host: Option<Moments>,
    /// Pixels of each strip, and its channels' variances and means, `[channels, 2]`: they stay on
    /// the device until all are there, so that it is waited for once.
    device: Vec<(usize, Tensor<2>)>,
}

impl MomentsAccumulator {
    /// Measures a strip.
    pub(super) fn measure(&mut self, strip: &mut Tensor<4>) {
        let measured = moments(strip);
        self.add(strip, measured);
    }

    /// Those of a `strip` that was `measured`.
    pub(super) fn add(&mut self, strip: &Tensor<4>, measured: Measured) {
        match measured {
            Measured::Host(moments) => self.merge(moments),
            Measured::Device(moments) => {
                let [_, _, rows, width] = strip.dims();
                self.device.push((rows * width, moments));
            }
        }
    }

    fn merge(&mut self, moments: Moments) {
        match &mut self.host {
            Some(all) => expect_shapes(all.merge(&moments)),
            None => self.host = Some(moments),
        }
    }

    pub(super) fn finish(mut self) -> Result<Option<Moments>> {
        if self.device.is_empty() {
            return Ok(self.host);
        }
        let device = std::mem::take(&mut self.device);
        let (pixels, parts): (Vec<usize>, Vec<Tensor<2>>) = device.into_iter().unzip();
        let width = 2 * pixels.len();
        let values = Tensor::cat(parts, 1).try_into_vec_as::<f32>();
        let values = values.map_err(|e| Error::backend("reading a picture's mean", e))?;
        let column = |i: usize| -> Vec<f64> {
            let column = values.iter().skip(i).step_by(width);
            column.map(|x| f64::from(*x)).collect()
        };
        for (i, pixels) in pixels.into_iter().enumerate() {
            let moments = Moments::new(pixels, column(2 * i + 1), column(2 * i));
            self.merge(expect_shapes(moments));
        }
        Ok(self.host)
    }
}
