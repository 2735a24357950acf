use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::{AdapterType, T2IAdapterConfig};
use crate::layers::{Conv2d, Epilogue, pack_fields};

/// Stages of residual blocks that make features of a picture, one tensor each.
///
/// Field names are those of diffusers' `T2IAdapter`, and so of its checkpoints.
#[derive(Module, Debug)]
pub struct T2IAdapterModel {
    adapter: Adapter,
}

#[derive(Module, Debug)]
struct Adapter {
    /// None in a light adapter.
    conv_in: Option<Conv2d>,
    body: Vec<AdapterBlock>,
    #[module(skip)]
    downscale_factor: usize,
}

#[derive(Module, Debug)]
struct AdapterBlock {
    in_conv: Option<Conv2d>,
    resnets: Vec<AdapterResnetBlock>,
    out_conv: Option<Conv2d>,
    #[module(skip)]
    halves: bool,
}

/// `x + block2(relu(block1(x)))`.
#[derive(Module, Debug)]
struct AdapterResnetBlock {
    block1: Conv2d,
    block2: Conv2d,
}

impl T2IAdapterModel {
    /// A network whose weights are still to be loaded; until then it takes next to no memory.
    pub fn new(config: &T2IAdapterConfig, device: &Device) -> Self {
        let is_light = config.kind == AdapterType::Light;
        let stages = config.stages();
        let body = stages.iter().map(|([inputs, outputs], halves)| {
            let inner = if is_light { outputs / 4 } else { *outputs };
            let pointwise = |from, to| Conv2d::same(from, to, 1, device);
            let resnet = |_| AdapterResnetBlock {
                block1: Conv2d::same(inner, inner, 3, device),
                block2: Conv2d::same(inner, inner, if is_light { 3 } else { 1 }, device),
            };
            AdapterBlock {
                in_conv: (is_light || inputs != outputs).then(|| pointwise(*inputs, inner)),
                resnets: (0..config.resnets).map(resnet).collect(),
                out_conv: is_light.then(|| pointwise(inner, *outputs)),
                halves: *halves,
            }
        });
        let first = config.channels[0];
        Self {
            adapter: Adapter {
                conv_in: (!is_light).then(|| Conv2d::same(config.unshuffled(), first, 3, device)),
                body: body.collect(),
                downscale_factor: config.downscale_factor,
            },
        }
    }

    /// The picture `[n, c, h, w]`, whose sides are multiples of the downscale factor, as features
    /// `[n, channels, h', w']` of each stage.
    pub fn forward(&self, picture: Tensor<4>) -> Vec<Tensor<4>> {
        let x = unshuffled(picture, self.adapter.downscale_factor);
        let mut x = match &self.adapter.conv_in {
            Some(layer) => layer.forward(x, Epilogue::NONE),
            None => x,
        };
        let mut features = Vec::new();
        for block in &self.adapter.body {
            x = block.forward(x);
            features.push(x.clone());
        }
        features
    }
}

impl AdapterBlock {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let through = |layer: &Option<Conv2d>, x| match layer {
            Some(layer) => layer.forward(x, Epilogue::NONE),
            None => x,
        };
        let x = if self.halves { halved(x) } else { x };
        let x = through(&self.in_conv, x);
        let x = (self.resnets.iter()).fold(x, |x, block| block.forward(x));
        through(&self.out_conv, x)
    }
}

impl AdapterResnetBlock {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let rectified = Epilogue {
            rectified: true,
            ..Epilogue::NONE
        };
        let hidden = self.block1.forward(x.clone(), rectified);
        self.block2.forward(hidden, Epilogue::residual(x))
    }
}

/// Squares of `side` by `side` pixels as the channels of one (`torch.nn.PixelUnshuffle`).
fn unshuffled(x: Tensor<4>, side: usize) -> Tensor<4> {
    let [n, c, h, w] = x.dims();
    let (h, w) = (h / side, w / side);
    let x = x
        .reshape([n, c, h, side, w, side])
        .permute([0, 1, 3, 5, 2, 4]);
    x.reshape([n, c * side * side, h, w])
}

/// Means of squares of 2 by 2 pixels; of an odd side the last is one pixel wide.
fn halved(x: Tensor<4>) -> Tensor<4> {
    let [_, _, h, w] = x.dims();
    let even = |x: Tensor<4>, axis: usize, side: usize| match side % 2 {
        0 => x,
        // A mean of one and the same.
        _ => Tensor::cat(vec![x.clone(), x.narrow(axis, side - 1, 1)], axis),
    };
    let x = even(even(x, 2, h), 3, w);
    let [n, c, h, w] = x.dims();
    let x = x.reshape([n, c, h / 2, 2, w / 2, 2]);
    x.mean_dim(5).mean_dim(3).reshape([n, c, h / 2, w / 2])
}

pack_fields!(T2IAdapterModel: adapter);
pack_fields!(Adapter: conv_in, body);
pack_fields!(AdapterBlock: in_conv, resnets, out_conv);
pack_fields!(AdapterResnetBlock: block1, block2);
