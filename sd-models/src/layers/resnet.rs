use burn::module::Module;
use burn::tensor::activation::silu;
use burn::tensor::{Device, Tensor};

use sd_kernels::Activation;

use super::{Conv2d, Epilogue, GroupNorm, Linear, pack_fields};

/// Sizes of a [`ResnetBlock2D`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResnetConfig {
    /// Channels in, a multiple of `groups`.
    pub(crate) inputs: usize,
    /// Channels out, a multiple of `groups`.
    pub(crate) outputs: usize,
    /// Width of the timestep's embedding and how it acts; `None` in networks without timesteps.
    pub(crate) time: Option<(usize, TimeEffect)>,
    /// Groups of the group normalisations.
    pub(crate) groups: usize,
    /// Their ε.
    pub(crate) epsilon: f64,
    /// Divisor of the sum of both paths: 1 in all Stable Diffusion models.
    pub(crate) output_scale: f64,
}

/// The timestep's action on a picture (diffusers' `resnet_time_scale_shift`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeEffect {
    /// It is added to every pixel before the second normalisation (`default`).
    Add,
    /// It scales and shifts every pixel after the second normalisation (`scale_shift`; Dhariwal &
    /// Nichol 2021, arXiv:2105.05233).
    ScaleShift,
}

/// Two convolutions around which the input is added back (He et al. 2015, arXiv:1512.03385), with
/// the timestep let in between them.
#[derive(Module, Debug)]
pub(crate) struct ResnetBlock2D {
    /// Before the first convolution, SiLU behind it.
    pub(crate) norm1: GroupNorm,
    /// The first convolution, 3×3.
    pub(crate) conv1: Conv2d,
    /// From the timestep's embedding to one number per channel, two for scale and shift.
    pub(crate) time_emb_proj: Option<Linear>,
    /// Before the second convolution, SiLU behind it.
    pub(crate) norm2: GroupNorm,
    /// The second convolution, 3×3.
    pub(crate) conv2: Conv2d,
    /// 1×1, for the input where the number of channels changes.
    pub(crate) conv_shortcut: Option<Conv2d>,
    #[module(skip)]
    time_effect: TimeEffect,
    #[module(skip)]
    output_scale: f64,
}

impl ResnetBlock2D {
    /// A block whose weights are still to be loaded.
    pub(crate) fn new(config: ResnetConfig, device: &Device) -> Self {
        let ResnetConfig {
            inputs,
            outputs,
            groups,
            epsilon,
            ..
        } = config;
        let time_effect = config.time.map_or(TimeEffect::Add, |(_, effect)| effect);
        let per_channel = match time_effect {
            TimeEffect::Add => 1,
            TimeEffect::ScaleShift => 2,
        };
        let time_emb_proj =
            (config.time).map(|(width, _)| Linear::new(width, per_channel * outputs, true, device));
        let shortcut = inputs != outputs;
        Self {
            norm1: GroupNorm::new(groups, inputs, epsilon, device),
            conv1: Conv2d::same(inputs, outputs, 3, device),
            time_emb_proj,
            norm2: GroupNorm::new(groups, outputs, epsilon, device),
            conv2: Conv2d::same(outputs, outputs, 3, device),
            conv_shortcut: shortcut.then(|| Conv2d::same(inputs, outputs, 1, device)),
            time_effect,
            output_scale: config.output_scale,
        }
    }

    /// `[n, in, h, w]` to `[n, out, h, w]`. `time` is the SiLU of the timestep's embedding,
    /// `[n, width]` or `[1, width]`, in networks that have one.
    pub(crate) fn forward(&self, mut x: Tensor<4>, time: Option<&Tensor<2>>) -> Tensor<4> {
        let hidden = self.norm1.forward(&mut x, Activation::Silu);
        let time = (self.time_emb_proj.as_ref().zip(time)).map(|(layer, time)| {
            let time = layer.forward(time.clone(), Epilogue::NONE);
            let [n, channels] = time.dims();
            time.reshape([n, channels, 1, 1])
        });
        let hidden = match (time, self.time_effect) {
            (Some(time), TimeEffect::ScaleShift) => {
                let hidden = self.conv1.forward(hidden, Epilogue::NONE);
                let hidden = self.norm2.forward(hidden, Activation::None);
                let channels = hidden.dims()[1];
                let scale = time.clone().narrow(1, 0, channels) + 1.0;
                silu(hidden * scale + time.narrow(1, channels, channels))
            }
            (time, _) => {
                let shift = time.map_or(Epilogue::NONE, Epilogue::shift);
                let hidden = self.conv1.forward(hidden, shift);
                self.norm2.forward(hidden, Activation::Silu)
            }
        };
        let shortcut = match &self.conv_shortcut {
            Some(conv) => conv.forward(x, Epilogue::NONE),
            None => x,
        };
        let sum = self.conv2.forward(hidden, Epilogue::residual(shortcut));
        if self.output_scale == 1.0 {
            sum
        } else {
            sum / self.output_scale
        }
    }
}

pack_fields!(ResnetBlock2D: conv1, time_emb_proj, conv2, conv_shortcut);
