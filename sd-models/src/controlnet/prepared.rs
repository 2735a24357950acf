use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{DType, Tensor, TensorData};
use sd_core::{Cancel, Conditioning, DenoiserSpec, Error, Result, SizeConditioning, TextEmbedding};

use super::{ControlNet, ControlNetContext};
use crate::unet::{
    PreparedAdapter, Steering, UNetResiduals, number_of_sizes, sizes, timestep_embedding,
};

/// A ControlNet in a run: a picture, and the texts of the branches that it steers. Branches of one text
/// share what is computed.
pub(super) struct PreparedControlNet {
    net: Arc<ControlNet>,
    /// `[1, channels, h, w]`.
    hint: Tensor<4>,
    /// Factors of the tensors kept, the first convolution's first, and last the middle block's.
    scales: Vec<f64>,
    /// The kinds' sines and cosines.
    kinds: Option<Tensor<2>>,
    texts: Vec<Text>,
    /// Number of each branch's text.
    of_branch: Vec<usize>,
    /// By the texts they are of.
    contexts: Mutex<HashMap<Vec<usize>, Arc<ControlNetContext>>>,
}

/// What a network is told of a branch.
struct Text {
    text: TextEmbedding,
    size: Option<SizeConditioning>,
    /// SDXL's pooled prompt with the sines and cosines of sizes and crops, `[n, width]`.
    added: Option<Tensor<2>>,
    values: Vec<Option<TensorData>>,
}

impl PreparedControlNet {
    pub(super) fn new(
        net: Arc<ControlNet>,
        steering: &Steering,
        branches: &[&Conditioning],
        unet: &DenoiserSpec,
    ) -> Result<Self> {
        net.check(unet)?;
        if !steering.scale.is_finite() {
            let expected = "expected a finite number";
            return Err(Error::invalid("control scale", steering.scale, expected));
        }
        let kind = kind(&net, steering.kind)?;
        let hint = net.model.embed_picture(steering.fitted(&net.spec)?, kind);
        let mut texts: Vec<Text> = Vec::new();
        let mut of_branch = Vec::new();
        for branch in branches {
            let text = Text::new(&net, branch)?;
            let known = texts.iter().position(|other| other.is_same(&text));
            of_branch.push(known.unwrap_or(texts.len()));
            if known.is_none() {
                texts.push(text);
            }
        }
        let kinds = net.config.union.zip(kind).map(|(union, kind)| {
            let one = |k: usize| net.sinusoids(f64::from(u8::from(k == kind)), union.time_channels);
            let values: Vec<f32> = (0..union.kinds).flat_map(one).collect();
            net.upload(values)
        });
        let count = net.config.kept() + 1;
        let is_guess = steering.guess && !net.config.global_pool_conditions;
        let scale = |k: usize| match is_guess {
            // A tenth at the first, all at the last, each as many times the one before.
            true => steering.scale * 10_f64.powf(k as f64 / (count - 1) as f64 - 1.0),
            false => steering.scale,
        };
        Ok(Self {
            hint,
            scales: (0..count).map(scale).collect(),
            kinds,
            texts,
            of_branch,
            contexts: Mutex::default(),
            net,
        })
    }

    fn context(&self, texts: &[usize]) -> Result<Arc<ControlNetContext>> {
        let contexts = || self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(context) = contexts().get(texts) {
            return Ok(context.clone());
        }
        let own = || texts.iter().map(|k| &self.texts[*k]);
        let prompt = TextEmbedding::cat(own().map(|text| text.text.clone()).collect())?;
        let added: Option<Vec<_>> = own().map(|text| text.added.clone()).collect();
        let added = added.map(|rows| Tensor::cat(rows, 0));
        let model = &self.net.model;
        let context = Arc::new(model.prepare(&prompt.tokens, added, self.kinds.clone()));
        contexts().insert(texts.to_vec(), context.clone());
        Ok(context)
    }

    /// The additions to each of `texts`, whose prompts have as many tokens.
    fn together(
        &self,
        x: &Tensor<4>,
        t: f64,
        texts: &[usize],
        cancel: &Cancel,
    ) -> Result<Vec<UNetResiduals>> {
        let context = self.context(texts)?;
        let time = self.net.config.unet.time;
        let timestep = self.net.upload(self.net.sinusoids(t, time.channels));
        let n = x.dims()[0];
        let input = x.clone().repeat_dim(0, texts.len());
        let all = self
            .net
            .model
            .forward(input, timestep, self.hint.clone(), &context, cancel)?;
        let scaled = |x: Tensor<4>, scale: f64| {
            let x = if scale == 1.0 { x } else { x * scale };
            match self.net.config.global_pool_conditions {
                true => {
                    let dims = x.dims();
                    x.mean_dim(3).mean_dim(2).expand(dims)
                }
                false => x,
            }
        };
        let last = self.scales.last().copied().unwrap_or(1.0);
        let skips = all.skips.into_iter().zip(&self.scales);
        let skips: Vec<_> = skips.map(|(x, scale)| scaled(x, *scale)).collect();
        let mid = all.mid.map(|x| scaled(x, last));
        let of = |k: usize| {
            let part = |x: &Tensor<4>| x.clone().narrow(0, k * n, n);
            UNetResiduals {
                skips: skips.iter().map(part).collect(),
                mid: mid.as_ref().map(part),
                blocks: Vec::new(),
            }
        };
        Ok((0..texts.len()).map(of).collect())
    }
}

impl PreparedAdapter for PreparedControlNet {
    fn residuals(
        &self,
        x: &Tensor<4>,
        t: f64,
        branches: &[usize],
        cancel: &Cancel,
    ) -> Result<Vec<UNetResiduals>> {
        let ([_, _, h, w], hint) = (x.dims(), self.hint.dims());
        if hint[2..] != [h, w] {
            let factor = self.net.spec.factor;
            let found = [hint[2] * factor, hint[3] * factor];
            let expected = format!("{:?}, the size that is drawn", [h * factor, w * factor]);
            return Err(Error::shape("control picture", &found, expected));
        }
        let mut wanted: Vec<usize> = branches.iter().map(|k| self.of_branch[*k]).collect();
        // Texts of one length side by side, to be computed together.
        let tokens = |k: &usize| self.texts[*k].text.tokens.dims()[1];
        wanted.sort_unstable_by_key(|k| (tokens(k), *k));
        wanted.dedup();
        let mut made = HashMap::new();
        for group in wanted.chunk_by(|a, b| tokens(a) == tokens(b)) {
            let all = self.together(x, t, group, cancel)?;
            made.extend(group.iter().copied().zip(all));
        }
        let of = |k: &usize| made.get(&self.of_branch[*k]).cloned().unwrap_or_default();
        Ok(branches.iter().map(of).collect())
    }
}

/// The number of the picture's kind, for a network of several.
fn kind(net: &ControlNet, asked: Option<usize>) -> Result<Option<usize>> {
    match (net.spec.kinds, asked) {
        (0, None) => Ok(None),
        (0, Some(kind)) => {
            let expected = "expected none: this ControlNet knows one kind of pictures alone";
            Err(Error::invalid("control kind", kind, expected))
        }
        (kinds, Some(kind)) if kind < kinds => Ok(Some(kind)),
        (kinds, asked) => {
            let found = asked.map_or_else(|| "absent".into(), |kind| kind.to_string());
            let last = kinds - 1;
            let expected = format!(
                "expected 0 to {last}, which of its kinds of pictures it is (0 pose, 1 depth, 2 soft edges, 3 lines, 4 \
                 normals, 5 segments in the published ones)"
            );
            Err(Error::invalid("control kind", found, expected))
        }
    }
}

impl Text {
    fn new(net: &ControlNet, branch: &Conditioning) -> Result<Self> {
        let tokens = &branch.text.tokens;
        let width = net.config.unet.cross_attention_dim;
        if tokens.dims()[2] != width {
            let expected = format!("[n, tokens, {width}], which the ControlNet was trained with");
            return Err(Error::shape("context", &tokens.dims(), expected));
        }
        let mut values = vec![tokens.clone().try_into_data().ok()];
        let (mut size, mut added) = (None, None);
        if let Some(config) = net.config.unet.text_time {
            let numbers = sizes(number_of_sizes(config, &branch.text)?, branch.size)?;
            let row: Vec<f32> = (numbers.iter())
                .flat_map(|number| net.sinusoids(*number, config.time_channels))
                .collect();
            let n = branch.text.len();
            let row = net.upload(row).repeat_dim(0, n);
            size = branch.size;
            added = branch.text.pooled.as_ref().map(|pooled| {
                values.push(pooled.clone().try_into_data().ok());
                Tensor::cat(vec![pooled.clone().cast(net.spec.dtype), row], 1)
            });
        }
        Ok(Self {
            text: branch.text.clone(),
            size,
            added,
            values,
        })
    }

    /// `true` where the network is told the same.
    fn is_same(&self, other: &Self) -> bool {
        let is_read = self.values.iter().all(Option::is_some);
        is_read && self.values == other.values && self.size == other.size
    }
}

impl ControlNet {
    /// Sines and cosines of a number.
    fn sinusoids(&self, number: f64, channels: usize) -> Vec<f32> {
        let time = self.config.unet.time;
        timestep_embedding(number, channels, time.flip_sin_to_cos, time.freq_shift)
    }

    /// A row of numbers on the network's device.
    fn upload(&self, values: Vec<f32>) -> Tensor<2> {
        let (device, dtype) = (&self.spec.device, DType::from(self.spec.dtype));
        let shape = [1, values.len()];
        Tensor::from_data(TensorData::new(values, shape), (device, dtype))
    }
}
