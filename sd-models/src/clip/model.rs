use burn::module::Module;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use sd_core::{Error, Result, WeightBytes};

use super::ClipTextConfig;
use super::layer::ClipStack;
use crate::layers::{Embedding, Epilogue, LayerNorm, Linear, pack_fields};
use crate::{LoadOptions, Weights};

/// CLIP's text encoder: token ids to one vector per token and one per prompt.
///
/// The fields are named as in checkpoints, so that their tensors load by name.
#[derive(Module, Debug)]
pub struct ClipTextModel {
    embeddings: ClipEmbeddings,
    encoder: ClipStack,
    final_layer_norm: LayerNorm,
    text_projection: Option<Linear>,
    #[module(skip)]
    config: ClipTextConfig,
}

/// The tables of tokens and of positions.
#[derive(Module, Debug)]
struct ClipEmbeddings {
    token_embedding: Embedding,
    position_embedding: Embedding,
}

/// The output of a [`ClipTextModel`] for `n` prompts of equal length.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClipOutput {
    /// The embedded tokens and behind them each layer's output, `[n, tokens, width]`: one more
    /// than the model has layers. None has gone through the final layer norm.
    pub hidden_states: Vec<Tensor<3>>,
    /// The last layer's output after the final layer norm, `[n, tokens, width]`.
    pub last_hidden_state: Tensor<3>,
    /// The end token's vector after the final layer norm, projected if the model has a
    /// projection: `[n, width]` or `[n, projection width]`.
    pub pooled: Tensor<2>,
}

impl ClipTextModel {
    /// The device that its layers are on, and their number type.
    pub(super) fn place(&self) -> (Device, DType) {
        let weight = self.final_layer_norm.weight.val();
        (weight.device(), weight.dtype())
    }

    /// A model whose weights are still to be loaded; it takes no memory until then.
    pub fn new(config: ClipTextConfig, device: &Device) -> Self {
        let width = config.hidden_size;
        let projection = config.projection;
        Self {
            embeddings: ClipEmbeddings {
                token_embedding: Embedding::new(config.vocab_size, width, device),
                position_embedding: Embedding::new(config.max_position_embeddings, width, device),
            },
            encoder: ClipStack::new(config.num_hidden_layers, config.layer(), device),
            final_layer_norm: LayerNorm::new(width, config.layer_norm_eps, device),
            text_projection: projection.map(|out| Linear::new(width, out, false, device)),
            config,
        }
    }

    /// A model with the weights of a file, packed for the kernels where there are kernels: text then
    /// goes through several times faster, and the weights can no longer be read. Also gives the
    /// memory the weights take.
    ///
    /// # Errors
    /// As [`Weights::load_into`].
    pub fn load(
        config: ClipTextConfig,
        weights: &Weights,
        options: &LoadOptions,
    ) -> crate::Result<(Self, WeightBytes)> {
        weights.load_packed(Self::new(config, &options.device), options)
    }

    /// The shape of the model.
    pub fn config(&self) -> &ClipTextConfig {
        &self.config
    }

    /// The final layer norm, `[n, tokens, width]` to the same shape: diffusers applies it to the
    /// hidden state that `clip_skip` chooses.
    pub fn normalize(&self, hidden_state: Tensor<3>) -> Tensor<3> {
        self.final_layer_norm.forward(hidden_state)
    }

    /// Runs the model on `n` prompts of token ids, all of one length.
    ///
    /// # Errors
    /// As [`hidden_states`](Self::hidden_states).
    pub fn forward(&self, ids: &[Vec<u32>]) -> Result<ClipOutput> {
        let hidden_states = self.hidden_states(ids, self.config.num_hidden_layers)?;
        let last_hidden_state = self.normalize(hidden_states[hidden_states.len() - 1].clone());
        let pooled = self.pool(ids, &last_hidden_state);
        Ok(ClipOutput {
            hidden_states,
            last_hidden_state,
            pooled,
        })
    }

    /// The embedded tokens and the outputs of the first `layers` layers, `[n, tokens, width]` each:
    /// the layers behind, of which a program may need nothing, are not computed.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when there is no prompt, lengths differ, are 0 or above
    /// `max_position_embeddings`, or an id is not in the vocabulary.
    pub fn hidden_states(&self, ids: &[Vec<u32>], layers: usize) -> Result<Vec<Tensor<3>>> {
        Ok(self.encoder.forward(self.embed(ids)?, layers))
    }

    /// As [`hidden_states`](Self::hidden_states) with tokens hidden from all: of each prompt, which
    /// of its tokens are.
    pub(super) fn hidden_states_hiding(
        &self,
        ids: &[Vec<u32>],
        hidden: &[Vec<bool>],
        layers: usize,
    ) -> Result<Vec<Tensor<3>>> {
        let x = self.embed(ids)?;
        let [n, tokens, _] = x.dims();
        let hides = |query: usize, key: usize, of: &[bool]| {
            let hides = key > query || of.get(key).is_some_and(|hidden| *hidden);
            if hides { f32::NEG_INFINITY } else { 0.0 }
        };
        let queries = |of: &Vec<bool>| {
            let pairs = (0..tokens * tokens).map(|k| (k / tokens, k % tokens));
            let values = pairs.map(|(query, key)| hides(query, key, of));
            values.collect::<Vec<f32>>()
        };
        let values: Vec<f32> = hidden.iter().flat_map(queries).collect();
        let data = TensorData::new(values, [n, 1, tokens, tokens]);
        let hiding = Tensor::from_data(data, (&x.device(), x.dtype()));
        Ok(self.encoder.forward_seeing(x, layers, Some(&hiding)))
    }

    /// The embedded tokens.
    fn embed(&self, ids: &[Vec<u32>]) -> Result<Tensor<3>> {
        let tokens = self.check(ids)?;
        let n = ids.len();
        let device = self.final_layer_norm.weight.device();
        let flat: Vec<i32> = ids.iter().flatten().map(|&id| id as i32).collect();
        let indices = Tensor::<2, Int>::from_data(TensorData::new(flat, [n, tokens]), &device);
        let positions = self.embeddings.position_embedding.weight.val();
        let positions = positions.narrow(0, 0, tokens).unsqueeze::<3>();
        let tokens = self.embeddings.token_embedding.forward(indices);
        Ok(tokens.cast(positions.dtype()) + positions)
    }

    /// Each prompt's vector at its end token, projected if the model has a projection.
    pub(super) fn pool(&self, ids: &[Vec<u32>], last_hidden_state: &Tensor<3>) -> Tensor<2> {
        let [n, tokens, width] = last_hidden_state.dims();
        let ends = ids.iter().enumerate();
        let rows = ends.map(|(i, ids)| (i * tokens + self.end_position(ids)) as i32);
        let rows = TensorData::new(rows.collect::<Vec<i32>>(), [n]);
        let rows = Tensor::<1, Int>::from_data(rows, &last_hidden_state.device());
        let flat = last_hidden_state.clone().reshape([n * tokens, width]);
        let pooled = flat.select(0, rows);
        match &self.text_projection {
            Some(projection) => projection.forward(pooled, Epilogue::NONE),
            None => pooled,
        }
    }

    /// The first end token: padding may repeat it. Without any it is 0, as in transformers.
    fn end_position(&self, ids: &[u32]) -> usize {
        let end = match self.config.eos_token_id {
            // A mistake of old configurations that transformers still honours.
            2 => ids.iter().max(),
            _ => Some(&self.config.eos_token_id),
        };
        ids.iter().position(|id| Some(id) == end).unwrap_or(0)
    }

    /// The common length of the prompts.
    fn check(&self, ids: &[Vec<u32>]) -> Result<usize> {
        let most = self.config.max_position_embeddings;
        let Some(tokens) = ids.first().map(Vec::len) else {
            return Err(Error::invalid("prompts", 0, "expected at least one"));
        };
        for ids in ids {
            if ids.len() != tokens || !(1..=most).contains(&tokens) {
                let expected = format!("expected 1 to {most} tokens, as many for each prompt");
                return Err(Error::invalid("tokens of a prompt", ids.len(), expected));
            }
            let vocabulary = self.config.vocab_size;
            if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
                let expected = format!("the vocabulary has {vocabulary} tokens");
                return Err(Error::invalid("token id", id, expected));
            }
        }
        Ok(tokens)
    }
}

pack_fields!(ClipTextModel: embeddings, encoder, text_projection);
pack_fields!(ClipEmbeddings: token_embedding);
