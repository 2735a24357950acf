//! The layers of Stable Diffusion 1.5 and XL, from the networks' configurations.

/// What a U-Net's configuration says.
pub(crate) struct UNet {
    channels: &'static [usize],
    /// Transformer layers behind each residual block, 0 where there is no transformer.
    depths: &'static [usize],
    middle: usize,
    heads: Heads,
}

/// Attention heads of a U-Net.
#[derive(Clone, Copy)]
enum Heads {
    Count(usize),
    Width(usize),
}

/// Stable Diffusion 1.5's U-Net.
pub(crate) const SD15: UNet = UNet {
    channels: &[320, 640, 1280, 1280],
    depths: &[1, 1, 1, 0],
    middle: 1,
    heads: Heads::Count(8),
};

/// Stable Diffusion XL's U-Net.
pub(crate) const SDXL: UNet = UNet {
    channels: &[320, 640, 1280],
    depths: &[0, 2, 10],
    middle: 10,
    heads: Heads::Width(64),
};

/// One computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// `kernel` × `kernel`, to pictures of `side` × `side`.
    Conv {
        n: usize,
        side: usize,
        inputs: usize,
        outputs: usize,
        kernel: usize,
        stride: usize,
        /// Of a picture half as high and wide, enlarged.
        upsample: bool,
        /// The input is added.
        residual: bool,
    },
    Linear {
        rows: usize,
        inputs: usize,
        outputs: usize,
    },
    Geglu {
        rows: usize,
        inputs: usize,
        outputs: usize,
    },
    Attention {
        n: usize,
        heads: usize,
        size: usize,
        queries: usize,
        keys: usize,
        causal: bool,
    },
    /// With SiLU.
    GroupNorm {
        n: usize,
        side: usize,
        channels: usize,
    },
    LayerNorm {
        rows: usize,
        width: usize,
    },
    Concat {
        pixels: usize,
        a: usize,
        b: usize,
    },
}

impl Op {
    /// Floating-point operations, a convolution counted as the direct sum; 0 for what only moves
    /// numbers.
    pub(crate) fn work(&self) -> f64 {
        let product = match *self {
            Self::Conv {
                n,
                side,
                inputs,
                outputs,
                kernel,
                ..
            } => n * side * side * inputs * outputs * kernel * kernel,
            Self::Linear {
                rows,
                inputs,
                outputs,
            } => rows * inputs * outputs,
            Self::Geglu {
                rows,
                inputs,
                outputs,
            } => 2 * rows * inputs * outputs,
            Self::Attention {
                n,
                heads,
                size,
                queries,
                keys,
                ..
            } => 2 * n * heads * size * queries * keys,
            _ => 0,
        };
        2.0 * product as f64
    }

    /// The row of the table it is summed up in.
    pub(crate) fn class(&self) -> String {
        match *self {
            Self::Conv {
                side,
                kernel: 3,
                stride: 1,
                inputs,
                outputs,
                upsample,
                ..
            } => {
                if inputs < 16 || outputs < 16 {
                    "3×3, few channels".into()
                } else {
                    let what = if upsample {
                        "3×3 of a doubled picture"
                    } else {
                        "3×3"
                    };
                    format!("{what} @ {side}²")
                }
            }
            Self::Conv { kernel: 3, .. } => "3×3, stride 2".into(),
            Self::Conv { .. } => "1×1".into(),
            Self::Linear { rows, .. } => format!("linear, {rows} rows"),
            Self::Geglu { rows, .. } => format!("GEGLU, {rows} rows"),
            Self::Attention {
                queries,
                keys,
                size,
                ..
            } => format!("attention {queries} × {keys}, width {size}"),
            Self::GroupNorm { .. } => "GroupNorm".into(),
            Self::LayerNorm { .. } => "LayerNorm".into(),
            Self::Concat { .. } => "concatenation".into(),
        }
    }
}

/// The layers of one network, in order.
#[derive(Default)]
pub(crate) struct Network {
    pub(crate) ops: Vec<Op>,
    n: usize,
}

impl Network {
    fn new(n: usize) -> Self {
        Self { ops: Vec::new(), n }
    }

    fn conv(&mut self, side: usize, inputs: usize, outputs: usize, kernel: usize) {
        self.conv_as(side, inputs, outputs, kernel, 1, false, false);
    }

    #[allow(clippy::too_many_arguments)]
    fn conv_as(
        &mut self,
        side: usize,
        inputs: usize,
        outputs: usize,
        kernel: usize,
        stride: usize,
        upsample: bool,
        residual: bool,
    ) {
        self.ops.push(Op::Conv {
            n: self.n,
            side,
            inputs,
            outputs,
            kernel,
            stride,
            upsample,
            residual,
        });
    }

    fn norm(&mut self, side: usize, channels: usize) {
        self.ops.push(Op::GroupNorm {
            n: self.n,
            side,
            channels,
        });
    }

    fn linear(&mut self, rows: usize, inputs: usize, outputs: usize) {
        self.ops.push(Op::Linear {
            rows,
            inputs,
            outputs,
        });
    }

    fn attention(&mut self, heads: usize, size: usize, queries: usize, keys: usize, causal: bool) {
        self.ops.push(Op::Attention {
            n: self.n,
            heads,
            size,
            queries,
            keys,
            causal,
        });
    }

    fn resnet(&mut self, side: usize, inputs: usize, outputs: usize) {
        self.norm(side, inputs);
        self.conv(side, inputs, outputs, 3);
        self.norm(side, outputs);
        if inputs != outputs {
            self.conv(side, inputs, outputs, 1);
        }
        self.conv_as(side, outputs, outputs, 3, 1, false, true);
    }

    fn transformer(&mut self, side: usize, channels: usize, heads: Heads, depth: usize) {
        if depth == 0 {
            return;
        }
        let heads = match heads {
            Heads::Count(count) => count,
            Heads::Width(width) => channels / width,
        };
        let (tokens, size) = (side * side, channels / heads);
        let rows = self.n * tokens;
        self.norm(side, channels);
        self.linear(rows, channels, channels);
        for _ in 0..depth {
            for projection in 0..6 {
                // Query, key, value, out; query and out of the second attention, whose keys and
                // values are made once for all steps.
                self.linear(rows, channels, channels);
                if projection == 2 {
                    self.attention(heads, size, tokens, tokens, false);
                }
                if projection == 4 {
                    self.attention(heads, size, tokens, 77, false);
                }
            }
            for _ in 0..3 {
                self.ops.push(Op::LayerNorm {
                    rows,
                    width: channels,
                });
            }
            self.ops.push(Op::Geglu {
                rows,
                inputs: channels,
                outputs: 4 * channels,
            });
            self.linear(rows, 4 * channels, channels);
        }
        self.linear(rows, channels, channels);
    }

    /// One evaluation of a U-Net on `n` latents of `side` × `side`.
    pub(crate) fn unet(of: &UNet, n: usize, side: usize) -> Self {
        let &UNet {
            channels,
            depths,
            middle,
            heads,
        } = of;
        let last = channels.len() - 1;
        let mut net = Self::new(n);
        net.conv(side, 4, channels[0], 3);
        let mut skips = vec![channels[0]];
        let mut width = channels[0];
        for (level, (&channels, &depth)) in channels.iter().zip(depths).enumerate() {
            let side = side >> level;
            for _ in 0..2 {
                net.resnet(side, width, channels);
                width = channels;
                net.transformer(side, channels, heads, depth);
                skips.push(channels);
            }
            if level < last {
                net.conv_as(side / 2, channels, channels, 3, 2, false, false);
                skips.push(channels);
            }
        }
        net.resnet(side >> last, width, width);
        net.transformer(side >> last, width, heads, middle);
        net.resnet(side >> last, width, width);
        for (level, (&channels, &depth)) in channels.iter().zip(depths).enumerate().rev() {
            let side = side >> level;
            for _ in 0..3 {
                let skip = skips.pop().unwrap_or(0);
                net.ops.push(Op::Concat {
                    pixels: n * side * side,
                    a: width,
                    b: skip,
                });
                net.resnet(side, width + skip, channels);
                width = channels;
                net.transformer(side, channels, heads, depth);
            }
            if level > 0 {
                net.conv_as(2 * side, channels, channels, 3, 1, true, false);
            }
        }
        net.norm(side, width);
        net.conv(side, width, 4, 3);
        net
    }

    fn vae_middle(&mut self, side: usize) {
        self.resnet(side, 512, 512);
        self.norm(side, 512);
        for _ in 0..4 {
            self.linear(self.n * side * side, 512, 512);
        }
        self.attention(1, 512, side * side, side * side, false);
        self.resnet(side, 512, 512);
    }

    /// The VAE's decoder, to pictures of `side` × `side`.
    pub(crate) fn decoder(n: usize, side: usize) -> Self {
        let mut net = Self::new(n);
        net.conv(side / 8, 4, 512, 3);
        net.vae_middle(side / 8);
        let mut width = 512;
        for (level, channels) in [512, 512, 256, 128].into_iter().enumerate() {
            let side = (side / 8) << level;
            for _ in 0..3 {
                net.resnet(side, width, channels);
                width = channels;
            }
            if level < 3 {
                net.conv_as(2 * side, channels, channels, 3, 1, true, false);
            }
        }
        net.norm(side, 128);
        net.conv(side, 128, 3, 3);
        net
    }

    /// The VAE's encoder, of pictures of `side` × `side`.
    pub(crate) fn encoder(n: usize, side: usize) -> Self {
        let mut net = Self::new(n);
        net.conv(side, 3, 128, 3);
        let mut width = 128;
        for (level, channels) in [128, 256, 512, 512].into_iter().enumerate() {
            let side = side >> level;
            for _ in 0..2 {
                net.resnet(side, width, channels);
                width = channels;
            }
            if level < 3 {
                net.conv_as(side / 2, channels, channels, 3, 2, false, false);
            }
        }
        net.vae_middle(side / 8);
        net.norm(side / 8, 512);
        net.conv(side / 8, 512, 8, 3);
        net
    }

    /// CLIP's text encoder on `n` prompts.
    pub(crate) fn text(n: usize) -> Self {
        let mut net = Self::new(n);
        let rows = 77 * n;
        for _ in 0..12 {
            net.ops.push(Op::LayerNorm { rows, width: 768 });
            for _ in 0..4 {
                net.linear(rows, 768, 768);
            }
            net.attention(12, 64, 77, 77, true);
            net.ops.push(Op::LayerNorm { rows, width: 768 });
            net.linear(rows, 768, 3072);
            net.linear(rows, 3072, 768);
        }
        net
    }
}
