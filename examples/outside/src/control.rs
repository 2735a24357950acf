//! A small network beside the U-Net, after ControlNet (Zhang et al. 2023, arXiv:2302.05543): it sees
//! the latent and a control picture, and adds to each tensor that the U-Net keeps on its way down.
//!
//! It goes into a request as an extension, and then acts on every branch of guidance;
//! [`OnPrompt`] is a guidance that leaves it to the prompt's branch alone.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use outside::control::Control;
//! # use sd_pipeline::{Request, models::unet::UNetAdapters};
//! # fn order(control: Control) -> Request {
//! let mut request = Request::new("a lighthouse in a storm");
//! request.extensions.insert(UNetAdapters(vec![Arc::new(control)]));
//! # request
//! # }
//! ```

use sd_pipeline::burn::nn::conv::{Conv2d, Conv2dConfig};
use sd_pipeline::burn::nn::pool::AvgPool2dConfig;
use sd_pipeline::burn::tensor::Tensor;
use sd_pipeline::core::{Error, Result};
use sd_pipeline::models::unet::{
    PreparedAdapter, UNetAdapter, UNetAdapters, UNetConfig, UNetResiduals,
};
use sd_pipeline::{Cancel, Conditioning, DenoiserSpec, Guidance, Guide, Text};

/// A convolution for each tensor that the U-Net keeps, on the latent and the control picture at
/// that tensor's resolution.
#[derive(Debug, Clone)]
pub struct Control {
    /// What the picture is steered by, `[1, c, h, w]` at the latent's size.
    pub picture: Tensor<4>,
    /// Factor on what is added; 0 adds zeros.
    pub strength: f64,
    /// The convolutions, each with how often the picture is halved before it.
    pub layers: Vec<(Conv2d, u32)>,
}

impl Control {
    /// A network beside a U-Net of that `config`, with random weights.
    pub fn new(config: &UNetConfig, picture: Tensor<4>, strength: f64) -> Self {
        let inputs = config.in_channels + picture.dims()[1];
        let layer = |channels, halvings| {
            let convolution = Conv2dConfig::new([inputs, channels], [1, 1]);
            (convolution.init(&picture.device()), halvings)
        };
        // The first convolution's output; then each block's layers, and its halved output but for
        // the last.
        let mut layers = vec![layer(config.blocks[0].channels, 0)];
        for (halvings, block) in (0..).zip(&config.blocks) {
            layers.extend(
                block
                    .down_depths
                    .iter()
                    .map(|_| layer(block.channels, halvings)),
            );
            if halvings as usize + 1 < config.blocks.len() {
                layers.push(layer(block.channels, halvings + 1));
            }
        }
        Self {
            picture,
            strength,
            layers,
        }
    }
}

impl UNetAdapter for Control {
    fn prepare(&self, _: &[&Conditioning], _: &DenoiserSpec) -> Result<Box<dyn PreparedAdapter>> {
        // It has nothing to compute before the run; its tensors are shared, not copied.
        Ok(Box::new(self.clone()))
    }
}

impl PreparedAdapter for Control {
    fn residuals(
        &self,
        x: &Tensor<4>,
        _t: f64,
        branches: &[usize],
        _: &Cancel,
    ) -> Result<Vec<UNetResiduals>> {
        let [n, _, h, w] = x.dims();
        let [_, c, height, width] = self.picture.dims();
        if [height, width] != [h, w] {
            let found = self.picture.dims();
            return Err(Error::shape(
                "control picture",
                &found,
                format!("[1, {c}, {h}, {w}]"),
            ));
        }
        let picture = self.picture.clone().expand([n, c, h, w]);
        let input = Tensor::cat(vec![x.clone(), picture], 1);
        let residual = |(convolution, halvings): &(Conv2d, u32)| {
            let side = 2_usize.pow(*halvings);
            let pool = AvgPool2dConfig::new([side, side])
                .with_strides([side, side])
                .init();
            convolution.forward(pool.forward(input.clone())) * self.strength
        };
        let residuals = UNetResiduals {
            skips: self.layers.iter().map(residual).collect(),
            ..UNetResiduals::default()
        };
        // It does not read the branches' texts: what it adds is the same to all.
        Ok(vec![residuals; branches.len()])
    }
}

/// A guidance whose prompt alone is steered by networks beside the U-Net ("my prompt is more
/// important" in A1111's extension).
#[derive(Debug, Clone)]
pub struct OnPrompt<G>(pub G);

impl<G: Guidance> Guidance for OnPrompt<G> {
    fn texts(&self) -> Vec<Text> {
        self.0.texts()
    }

    fn branches(&self, mut texts: Vec<Conditioning>) -> Result<Vec<Conditioning>> {
        for (text, conditioning) in self.texts().into_iter().zip(&mut texts) {
            if text != Text::Prompt {
                conditioning.extensions.take::<UNetAdapters>();
            }
        }
        self.0.branches(texts)
    }

    fn start(&self) -> Box<dyn Guide> {
        self.0.start()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sd_pipeline::models::{ConfigFile, Files};
    use sd_pipeline::schedulers::Euler;
    use sd_pipeline::{ClassifierFree, Device, TextEmbedding};

    use sd_tiny::micro::Family;

    use super::*;
    use crate::flow::Gaussian;
    use crate::testing::{difference, drawn, files, micro, request, values};

    fn control(strength: f64) -> UNetAdapters {
        let config = ConfigFile::read(
            &Files::memory(files(Family::Sd1)).folder("unet"),
            "config.json",
        )
        .unwrap();
        let config = UNetConfig::new(&config).unwrap();
        let picture = Tensor::ones([1, 1, 8, 8], &Device::flex());
        UNetAdapters(vec![Arc::new(Control::new(&config, picture, strength))])
    }

    #[test]
    fn zeros_change_no_bit_and_others_the_picture() {
        let pipeline = micro();
        let plain = drawn(&pipeline, &request());
        let with = |strength| {
            let mut request = request();
            request.extensions.insert(control(strength));
            drawn(&pipeline, &request)
        };
        assert_eq!(values(&with(0.0)), values(&plain));
        assert!(difference(&with(1.0), &plain) > 1e-2);
    }

    #[test]
    fn a_branch_without_it_is_as_it_would_be_alone() {
        let denoiser = micro().denoiser.get().unwrap();
        let device = Device::flex();
        let width = denoiser.spec().context_width;
        let text = |value: f32| {
            Conditioning::new(TextEmbedding::new(Tensor::full(
                [1, 7, width],
                value,
                &device,
            )))
        };
        let mut steered = text(0.5);
        steered.extensions.insert(control(1.0));
        let x = Tensor::full([1, 4, 8, 8], 0.3, &device);
        let outputs = |branches: Vec<Conditioning>| {
            let network = denoiser.clone().prepare(branches).unwrap();
            let outputs = network.predict(&x, 500.0, &[0, 1], &Cancel::new());
            outputs.unwrap()
        };
        let plain = outputs(vec![text(0.0), text(0.5)]);
        let one = outputs(vec![text(0.0), steered]);
        assert_eq!(values(&one[0]), values(&plain[0]));
        assert!(difference(&one[1], &plain[1]) > 1e-2);

        // In a run, a guidance decides which branch has it.
        let mut request = request();
        request.extensions.insert(control(1.0));
        let pipeline = micro();
        let both = drawn(&pipeline, &request);
        request.guidance = Some(Arc::new(OnPrompt(ClassifierFree { scale: 7.5 })));
        assert!(difference(&drawn(&pipeline, &request), &both) > 1e-2);
    }

    #[test]
    fn a_network_that_does_not_read_it_says_so() {
        let mut pipeline = micro();
        let width = pipeline.denoiser.spec().context_width;
        pipeline.denoiser = Gaussian::new(width, &Device::flex()).into();
        pipeline.scheduler = Arc::new(Euler::default());
        let mut request = request();
        pipeline.start(&request).unwrap();
        request.extensions.insert(control(1.0));
        let error = pipeline.start(&request).unwrap_err().to_string();
        assert_eq!(error, "a Gaussian does not read networks beside a U-Net");
    }
}
