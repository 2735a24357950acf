use burn::module::Module;
use burn::tensor::{Device, Tensor};
use sd_core::Perturbation;
use sd_kernels::Activation;

use super::{
    Attention, AttentionConfig, Beside, Epilogue, FeedForward, GroupNorm, KeyValue, LayerNorm,
    Linear, Stream, pack_fields, to_picture, to_tokens,
};

/// Sizes of a [`Transformer2DModel`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct TransformerConfig {
    /// Channels of the picture, a multiple of `heads` and `groups`.
    pub(crate) channels: usize,
    /// Width of the prompt's tokens.
    pub(crate) context_width: usize,
    /// Number of transformer blocks.
    pub(crate) layers: usize,
    /// Attention heads.
    pub(crate) heads: usize,
    /// Groups of the group normalisation.
    pub(crate) groups: usize,
    /// Attention to the prompt twice, instead of also to the picture's own tokens.
    pub(crate) only_cross_attention: bool,
}

/// A picture through a transformer: every pixel is a token that looks at the other pixels and at
/// the prompt (Rombach et al. 2022, arXiv:2112.10752, section 3.3).
#[derive(Module, Debug)]
pub(crate) struct Transformer2DModel {
    /// Before everything.
    pub(crate) norm: GroupNorm,
    /// Into the blocks, pixel by pixel. Some checkpoints store it as a 1×1 convolution
    /// (`use_linear_projection = false`), which is the same map.
    pub(crate) proj_in: Linear,
    /// The blocks in order.
    pub(crate) transformer_blocks: Vec<BasicTransformerBlock>,
    /// Out of the blocks, pixel by pixel; stored as [`proj_in`](Self::proj_in) is.
    pub(crate) proj_out: Linear,
}

impl Transformer2DModel {
    /// A transformer whose weights are still to be loaded.
    pub(crate) fn new(config: TransformerConfig, device: &Device) -> Self {
        let channels = config.channels;
        let block = |_| BasicTransformerBlock::new(config, device);
        Self {
            norm: GroupNorm::new(config.groups, channels, 1e-6, device),
            proj_in: Linear::new(channels, channels, true, device),
            transformer_blocks: (0..config.layers).map(block).collect(),
            proj_out: Linear::new(channels, channels, true, device),
        }
    }

    /// The prompt's tokens `[n, tokens, width]` as each block sees them.
    pub(crate) fn prepare(&self, context: &Tensor<3>) -> Vec<BlockContext> {
        let blocks = self.transformer_blocks.iter();
        blocks.map(|block| block.prepare(context)).collect()
    }

    /// `[n, channels, h, w]` to the same shape; `context` is what [`prepare`](Self::prepare) made.
    pub(crate) fn forward(&self, mut x: Tensor<4>, context: &[BlockContext]) -> Tensor<4> {
        let [_, _, h, w] = x.dims();
        let normed = self.norm.forward(&mut x, Activation::None);
        let mut tokens = self.proj_in.stream(to_tokens(normed), None);
        for (block, context) in self.transformer_blocks.iter().zip(context) {
            tokens = block.forward(tokens, [h, w], context);
        }
        let x = Epilogue::residual(to_tokens(x));
        to_picture(self.proj_out.forward(tokens.finished(), x), h, w)
    }
}

pack_fields!(Transformer2DModel: proj_in, transformer_blocks, proj_out);

/// What a [`BasicTransformerBlock`] needs besides the picture's tokens: keys and values that it makes
/// of the prompt, once per run.
#[derive(Debug, Clone)]
pub(crate) struct BlockContext {
    /// For the first attention, where that looks at the prompt too.
    first: Option<KeyValue>,
    second: KeyValue,
    /// Tokens that the second attention looks at besides.
    pub(crate) beside: Vec<Beside>,
    /// What becomes of the block, where anything does.
    pub(crate) perturbation: Option<Perturbation>,
}

/// Self-attention, cross-attention and a feed-forward network, each normalised before and added to
/// what came in.
#[derive(Module, Debug)]
pub(crate) struct BasicTransformerBlock {
    /// Before the first attention.
    pub(crate) norm1: LayerNorm,
    /// Pixels look at each other; at the prompt with `only_cross_attention`.
    pub(crate) attn1: Attention,
    /// Before the second attention.
    pub(crate) norm2: LayerNorm,
    /// Pixels look at the prompt.
    pub(crate) attn2: Attention,
    /// Before the feed-forward network.
    pub(crate) norm3: LayerNorm,
    /// Each pixel by itself.
    pub(crate) ff: FeedForward,
    #[module(skip)]
    only_cross_attention: bool,
}

impl BasicTransformerBlock {
    /// A block whose weights are still to be loaded.
    pub(crate) fn new(config: TransformerConfig, device: &Device) -> Self {
        let width = config.channels;
        let norm = || LayerNorm::new(width, 1e-5, device);
        let attention = |context_width| {
            let config = AttentionConfig {
                width,
                context_width,
                heads: config.heads,
                bias: false,
                norm: None,
            };
            Attention::new(config, device)
        };
        let only_cross_attention = config.only_cross_attention;
        let first = if only_cross_attention {
            config.context_width
        } else {
            width
        };
        Self {
            norm1: norm(),
            attn1: attention(first),
            norm2: norm(),
            attn2: attention(config.context_width),
            norm3: norm(),
            ff: FeedForward::new(width, device),
            only_cross_attention,
        }
    }

    /// The prompt's tokens `[n, tokens, width]` as this block sees them.
    pub(crate) fn prepare(&self, context: &Tensor<3>) -> BlockContext {
        let first = self.only_cross_attention;
        BlockContext {
            first: first.then(|| self.attn1.key_value(context.clone())),
            second: self.attn2.key_value(context.clone()),
            beside: Vec::new(),
            perturbation: None,
        }
    }

    /// `[n, pixels, width]` to the same shape; the picture is of `size`, height and width.
    pub(crate) fn forward(
        &self,
        tokens: Stream,
        size: [usize; 2],
        context: &BlockContext,
    ) -> Stream {
        if context.perturbation == Some(Perturbation::Skipped) {
            return tokens;
        }
        let [x, normed] = tokens.normed(&self.norm1);
        let gathered = match context.perturbation {
            Some(Perturbation::IdentityAttention) => self.attn1.attend_identity(normed),
            Some(Perturbation::BlurredQueries { sigma }) => {
                self.attn1.attend_blurred(normed, size, sigma)
            }
            _ => self.attn1.attend(normed, context.first.as_ref()),
        };
        let [x, normed] = self.attn1.out(gathered, x).normed(&self.norm2);
        let second = &context.second;
        let gathered = match context.beside.is_empty() {
            true => self.attn2.attend(normed, Some(second)),
            false => self.attn2.attend_beside(normed, second, &context.beside),
        };
        let [x, normed] = self.attn2.out(gathered, x).normed(&self.norm3);
        self.ff.forward(normed, x)
    }
}

pack_fields!(BasicTransformerBlock: attn1, attn2, ff);
