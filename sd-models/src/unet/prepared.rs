use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::tensor::{DType, Int, Tensor, TensorData};
use sd_core::{
    Cancel, Conditioning, Error, Network, Perturbed, Result, SavedState, SizeConditioning,
    TextEmbedding,
};

use super::cache::{Memory, Reuse, StepCache};
use super::class_label::ClassLabel;
use super::config::{TextTimeConfig, UNetConfig};
use super::decoupled::DecoupledAttention;
use super::freeu::FreeU;
use super::perturbed;
use super::residuals::{self, Beside, UNetAdapters, UNetResiduals};
use super::{UNet, UNet2DConditionModel, UNetContext, UNetEmbeddings, timestep_embedding};
use crate::BesideLayers;
use crate::layer_changes::changed;

/// A U-Net with a run's conditioning.
///
/// Branches are evaluated together whenever their prompts have the same number of tokens and the
/// same is computed of them. What a set of branches shares between steps (keys and values of the
/// prompt, embeddings) is computed when the set is first asked for.
pub(super) struct PreparedUNet {
    unet: Arc<UNet>,
    branches: Vec<Branch>,
    /// Networks beside it.
    adapters: Vec<Beside>,
    /// What each branch remembers, where it has a cache.
    memories: Mutex<Vec<Memory>>,
    /// By the branches they are of.
    batches: Mutex<HashMap<Vec<usize>, Arc<Batch>>>,
}

/// One branch's conditioning, checked.
struct Branch {
    text: TextEmbedding,
    /// Its sizes and crops, as many as the network embeds.
    size: Option<Vec<f64>>,
    guidance_scale: Option<f64>,
    class_label: Option<usize>,
    concat: Option<Tensor<4>>,
    beside: DecoupledAttention,
    perturbed: Option<Perturbed>,
    freeu: Option<FreeU>,
    cache: Option<StepCache>,
    changes: BesideLayers,
    /// The network with what is beside its layers.
    model: Arc<UNet2DConditionModel>,
}

/// Branches that are evaluated together.
struct Batch {
    context: UNetContext,
    /// Each timestep that was asked for, by its bits, as the blocks see it.
    times: Mutex<HashMap<u64, Tensor<2>>>,
}

impl Batch {
    /// The timestep `t`, embedded when it is first asked for: solvers that evaluate the network
    /// twice in a step ask again.
    fn time(&self, t: f64, embed: impl FnOnce() -> Tensor<2>) -> Tensor<2> {
        // More than any run has steps; a program that asks for ever other ones must not fill memory.
        const MOST: usize = 4096;
        if let Some(time) = lock(&self.times).get(&t.to_bits()) {
            return time.clone();
        }
        // Not under the lock: the network computes in a pool whose threads may be asked for `t` too.
        let time = embed();
        let mut times = lock(&self.times);
        if times.len() < MOST {
            times.insert(t.to_bits(), time.clone());
        }
        time
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PreparedUNet {
    pub(super) fn new(unet: Arc<UNet>, branches: Vec<Conditioning>) -> Result<Self> {
        let samples = branches.first().map_or(0, Conditioning::len);
        if samples == 0 || branches.iter().any(|branch| branch.len() != samples) {
            let found: Vec<usize> = branches.iter().map(Conditioning::len).collect();
            let expected = "the same number of samples, at least 1, in each branch";
            return Err(Error::shape("conditioning", &found, expected));
        }
        let mut branches = branches;
        let adapters = branches.iter_mut().map(|branch| {
            let adapters = branch.extensions.take::<UNetAdapters>();
            adapters.unwrap_or_default().0
        });
        let adapters: Vec<_> = adapters.collect();
        let adapters = Beside::all(&branches, &adapters, &unet.spec)?;
        let mut checked = Vec::new();
        for branch in branches {
            checked.push(self::checked(&unet, branch, &checked)?);
        }
        let branches = checked;
        Ok(Self {
            adapters,
            memories: Mutex::new(vec![Memory::default(); branches.len()]),
            branches,
            unet,
            batches: Mutex::default(),
        })
    }

    fn batch(&self, of: &[usize]) -> Result<Arc<Batch>> {
        if let Some(batch) = lock(&self.batches).get(of) {
            return Ok(batch.clone());
        }
        let branches = || of.iter().map(|branch| &self.branches[*branch]);
        let text = TextEmbedding::cat(branches().map(|b| b.text.clone()).collect())?;
        let embeddings = self.unet.embeddings(&text, branches())?;
        let first = branches().next();
        let model = first.map_or(self.unet.model(), |branch| &branch.model);
        let context = model.prepare(&text.tokens, embeddings);
        let batch = Arc::new(Batch {
            context: match first {
                Some(branch) => {
                    let beside: Vec<_> = branches().map(|branch| &branch.beside).collect();
                    let context = context.beside(&beside, branch.text.len(), self.unet.config());
                    context.changed(branch.perturbed.as_ref(), branch.freeu)
                }
                None => context,
            },
            times: Mutex::default(),
        });
        lock(&self.batches).insert(of.to_vec(), batch.clone());
        Ok(batch)
    }

    /// `true` when the two branches can be evaluated together.
    fn go_together(&self, a: usize, b: usize, memories: &[Memory]) -> bool {
        let [first, second] = [a, b].map(|branch| &self.branches[branch]);
        let tokens = |branch: &Branch| branch.text.tokens.dims()[1];
        let due = |cache| [a, b].map(|branch| memories[branch].is_due(cache));
        let in_step = match first.cache {
            None => true,
            Some(cache @ StepCache::Deep { .. }) => due(cache)[0] == due(cache)[1],
            // Each looks at its own picture, or the result would depend on who is beside it.
            Some(StepCache::FirstBlock { .. }) => false,
        };
        tokens(first) == tokens(second)
            && first.beside.goes_with(&second.beside)
            && first.perturbed == second.perturbed
            && first.freeu == second.freeu
            && first.cache == second.cache
            && first.changes == second.changes
            && in_step
    }

    /// The outputs of branches that go together, to each of which something may be `added`.
    fn together(
        &self,
        x: &Tensor<4>,
        t: f64,
        of: &[usize],
        added: Vec<Option<UNetResiduals>>,
        cancel: &Cancel,
    ) -> Result<Vec<Tensor<4>>> {
        let batch = self.batch(of)?;
        let branches = || of.iter().map(|branch| &self.branches[*branch]);
        let model = branches().next();
        let model = model.map_or(self.unet.model(), |branch| &branch.model);
        let time = batch.time(t, || self.unet.time(t, model, &batch.context));
        let inputs = branches().map(|branch| branch.input(x));
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        let added = residuals::batch(added)?;
        let input = match <[Tensor<4>; 1]>::try_from(inputs) {
            Ok([input]) => input,
            Err(inputs) => Tensor::cat(inputs, 0),
        };
        let mut own: Vec<Memory> = {
            let memories = lock(&self.memories);
            of.iter().map(|branch| memories[*branch].clone()).collect()
        };
        let cache = branches().next().and_then(|branch| branch.cache);
        let mut reuse = Reuse::of(cache, &own);
        let context = &batch.context;
        let output = model.evaluate(input, &time, context, added, cancel, &mut reuse)?;
        reuse.remember(&mut own);
        for (branch, memory) in of.iter().zip(own) {
            lock(&self.memories)[*branch] = memory;
        }
        let n = x.dims()[0];
        let output = |k| output.clone().narrow(0, k * n, n);
        Ok((0..of.len()).map(output).collect())
    }
}

impl Network for PreparedUNet {
    fn predict(
        &self,
        x: &Tensor<4>,
        t: f64,
        branches: &[usize],
        cancel: &Cancel,
    ) -> Result<Vec<Tensor<4>>> {
        let count = self.branches.len();
        if let Some(branch) = branches.iter().find(|branch| **branch >= count) {
            let expected = format!("expected less than {count}, the number of branches");
            return Err(Error::invalid("branch", branch, expected));
        }
        let samples = self.branches.first().map_or(0, |branch| branch.text.len());
        self.unet.check_latent(x, samples)?;
        if !t.is_finite() {
            return Err(Error::invalid("timestep", t, "expected a finite number"));
        }
        let before = lock(&self.memories).clone();
        let added = residuals::of_branches(&self.adapters, x, t, branches, cancel)?;
        let mut added = added.into_iter();
        let groups = branches.chunk_by(|a, b| self.go_together(*a, *b, &before));
        let outputs = groups.map(|group| {
            let added = added.by_ref().take(group.len()).collect();
            self.together(x, t, group, added, cancel)
        });
        Ok(outputs.collect::<Result<Vec<_>>>()?.concat())
    }

    fn save(&self) -> SavedState {
        let mut state = SavedState::default();
        let memories = lock(&self.memories).clone();
        for (k, (branch, memory)) in self.branches.iter().zip(memories).enumerate() {
            if branch.cache.is_some() {
                memory.save(k, &mut state);
            }
        }
        state
    }

    fn restore(&self, state: &SavedState) -> Result<()> {
        let restored = |(k, branch): (usize, &Branch)| match branch.cache {
            Some(cache) => Memory::restored(cache, self.unet.config(), branch.text.len(), k, state),
            None => Ok(Memory::default()),
        };
        let restored = self.branches.iter().enumerate().map(restored);
        *lock(&self.memories) = restored.collect::<Result<_>>()?;
        let own = self.save();
        if state.numbers.len() > own.numbers.len() || state.tensors.len() > own.tensors.len() {
            let reason = "it is of a U-Net that keeps other features, or of more branches";
            return Err(Error::SavedState(reason.into()));
        }
        Ok(())
    }
}

impl Branch {
    /// The latent `x` with this branch's channels behind it.
    fn input(&self, x: &Tensor<4>) -> Result<Tensor<4>> {
        let Some(concat) = &self.concat else {
            return Ok(x.clone());
        };
        let ([n, _, h, w], [m, c, ..]) = (x.dims(), concat.dims());
        if concat.dims()[2..] != [h, w] || (m != 1 && m != n) {
            let expected = format!("[1 or {n}, {c}, {h}, {w}]");
            return Err(Error::shape("concat", &concat.dims(), expected));
        }
        let concat = concat.clone().expand([n, c, h, w]);
        Ok(Tensor::cat(vec![x.clone(), concat], 1))
    }
}

/// A branch of `conditioning`, all of which the network must read.
/// It shares its model with one of `others` that has the same beside the layers.
fn checked(unet: &UNet, mut conditioning: Conditioning, others: &[Branch]) -> Result<Branch> {
    let (config, spec) = (unet.config(), &unet.spec);
    let tokens = &conditioning.text.tokens;
    let [n, length, width] = tokens.dims();
    if length == 0 || width != config.cross_attention_dim {
        let expected = format!("[n, tokens, {}]", config.cross_attention_dim);
        return Err(Error::shape("context", &tokens.dims(), expected));
    }
    unet.check_dtype("context dtype", tokens.dtype())?;
    let size = match config.text_time {
        Some(config) => {
            let numbers = number_of_sizes(config, &conditioning.text)?;
            Some(sizes(numbers, conditioning.size.take())?)
        }
        None => None,
    };
    let class_label = match config.class_labels {
        Some(classes) => Some(class_label(classes, conditioning.extensions.take())?),
        None => None,
    };
    let guidance_scale = match config.time.cond_proj_dim {
        Some(_) => conditioning.guidance_scale.take(),
        None => None,
    };
    if guidance_scale.is_some_and(|scale| !scale.is_finite()) {
        let scale = guidance_scale.unwrap_or_default();
        let expected = "expected a finite number";
        return Err(Error::invalid("guidance_scale", scale, expected));
    }
    let concat = match spec.concat_channels {
        0 => None,
        channels => {
            let concat = conditioning.concat.take();
            let found = concat.as_ref().map(Tensor::dims);
            if found.is_none_or(|dims| dims[1] != channels || (dims[0] != 1 && dims[0] != n)) {
                let found = found.map_or(vec![], |dims| dims.to_vec());
                let expected = format!(
                    "[1 or {n}, {channels}, h, w]: this network takes {channels} channels beside \
                     the latent"
                );
                return Err(Error::shape("concat", &found, expected));
            }
            concat.map(|concat| concat.cast(spec.dtype))
        }
    };
    let beside = conditioning.extensions.take::<DecoupledAttention>();
    let beside = beside.unwrap_or_default().checked(config, n, spec.dtype)?;
    let perturbed = conditioning.extensions.take::<Perturbed>();
    if let Some(perturbed) = &perturbed {
        perturbed::check(config, perturbed)?;
    }
    let freeu = conditioning.extensions.take::<FreeU>();
    freeu.map_or(Ok(()), |freeu| freeu.check(config))?;
    let cache = conditioning.extensions.take::<StepCache>();
    cache.map_or(Ok(()), |cache| cache.check(config))?;
    let changes = conditioning.extensions.take::<BesideLayers>();
    let changes = changes.unwrap_or_default();
    let shared = others.iter().find(|other| other.changes == changes);
    let model = match (shared, changes == BesideLayers::default()) {
        (Some(other), _) => other.model.clone(),
        (None, true) => unet.shared(),
        (None, false) => {
            let [changes] = changes.clone().of()?;
            let place = (spec.device.clone(), spec.dtype.into());
            Arc::new(changed(unet.model(), &changes, &place)?)
        }
    };
    let text = conditioning.text.clone();
    conditioning.finish("the U-Net")?;
    Ok(Branch {
        text,
        size,
        guidance_scale,
        class_label,
        concat,
        beside,
        perturbed,
        freeu,
        cache,
        changes,
        model,
    })
}

/// The label, one of `classes`, that the network embeds.
fn class_label(classes: usize, label: Option<ClassLabel>) -> Result<usize> {
    match label {
        Some(ClassLabel(label)) if label < classes => Ok(label),
        label => {
            let found = label.map_or_else(|| "absent".into(), |label| label.0.to_string());
            let expected = format!(
                "expected one of 0 to {}, which this network embeds",
                classes - 1
            );
            Err(Error::invalid("class label", found, expected))
        }
    }
}

/// The `expected` numbers that the network embeds.
pub(crate) fn sizes(expected: usize, size: Option<SizeConditioning>) -> Result<Vec<f64>> {
    let numbers = size.map_or(vec![], |size| size.numbers());
    if numbers.len() == expected && numbers.iter().all(|number| number.is_finite()) {
        return Ok(numbers);
    }
    let found = match (size, numbers.len()) {
        (None, _) => "absent".into(),
        (_, count) => format!("{count} numbers"),
    };
    let expected = format!(
        "expected {expected} finite ones: 6 are sizes and crops, 5 have an aesthetic score in the \
         target's place"
    );
    Err(Error::invalid("size conditioning", found, expected))
}

/// Number of sizes and crops there must be, from the width they and the pooled prompt make.
pub(crate) fn number_of_sizes(config: TextTimeConfig, text: &TextEmbedding) -> Result<usize> {
    let (n, whole) = (text.len(), config.input_width);
    let found = text.pooled.as_ref().map(Tensor::dims);
    let sizes = found.filter(|[m, _]| *m == n).and_then(|[_, width]| {
        let rest = whole.checked_sub(width)?;
        rest.is_multiple_of(config.time_channels)
            .then_some(rest / config.time_channels)
    });
    sizes.filter(|sizes| *sizes > 0).ok_or_else(|| {
        let found = found.map_or(vec![], |dims| dims.to_vec());
        let each = config.time_channels;
        let expected = format!("[{n}, {whole} less {each} for each size and crop]");
        Error::shape("pooled", &found, expected)
    })
}

impl UNet {
    /// The embeddings of `branches` besides the timestep's; `text` is that of all of them.
    fn embeddings<'a>(
        &self,
        text: &TextEmbedding,
        branches: impl Iterator<Item = &'a Branch> + Clone,
    ) -> Result<UNetEmbeddings> {
        let config: &UNetConfig = self.config();
        let rows = text.len();
        let added = match (config.text_time, &text.pooled) {
            (Some(config), Some(pooled)) => {
                let each = |branch: &Branch| {
                    let numbers = branch.size.iter().flatten();
                    let embed = |number: &f64| self.sinusoids(*number, config.time_channels);
                    let row: Vec<f32> = numbers.flat_map(embed).collect();
                    row.repeat(branch.text.len())
                };
                let values: Vec<f32> = branches.clone().flat_map(each).collect();
                let width = values.len() / rows;
                let pooled = pooled.clone().cast(self.spec.dtype);
                let sizes = self.upload(values, [rows, width]);
                Some(Tensor::cat(vec![pooled, sizes], 1))
            }
            _ => None,
        };
        let told = branches
            .clone()
            .any(|branch| branch.guidance_scale.is_some());
        let guidance = config.time.cond_proj_dim.filter(|_| told).map(|width| {
            let each = |branch: &Branch| {
                let row = branch
                    .guidance_scale
                    .map(|scale| guidance_embedding(scale, width));
                // What is not told adds nothing: the projection has no bias.
                row.unwrap_or_else(|| vec![0.0; width])
                    .repeat(branch.text.len())
            };
            let values: Vec<f32> = branches.clone().flat_map(each).collect();
            self.upload(values, [rows, width])
        });
        let class_labels = config.class_labels.map(|_| {
            let each = |branch: &Branch| {
                let label = branch.class_label.unwrap_or_default() as i64;
                vec![label; branch.text.len()]
            };
            let labels: Vec<i64> = branches.flat_map(each).collect();
            Tensor::<1, Int>::from_data(TensorData::new(labels, [rows]), &self.spec.device)
        });
        Ok(UNetEmbeddings {
            added,
            guidance,
            class_labels,
        })
    }

    fn sinusoids(&self, t: f64, channels: usize) -> Vec<f32> {
        let time = &self.config().time;
        timestep_embedding(t, channels, time.flip_sin_to_cos, time.freq_shift)
    }

    /// The timestep as the network's blocks see it.
    fn time(&self, t: f64, model: &UNet2DConditionModel, context: &UNetContext) -> Tensor<2> {
        let channels = self.config().time.channels;
        let timestep = self.upload(self.sinusoids(t, channels), [1, channels]);
        model.embed_time(timestep, context)
    }

    fn upload(&self, values: Vec<f32>, shape: [usize; 2]) -> Tensor<2> {
        let (device, dtype) = (&self.spec.device, DType::from(self.spec.dtype));
        Tensor::from_data(TensorData::new(values, shape), (device, dtype))
    }
}

/// A guidance scale as an LCM sees it (Luo et al. 2023, arXiv:2310.04378): sines, then cosines, of
/// `1000·(scale − 1)`, at frequencies that reach 1/10000.
fn guidance_embedding(scale: f64, width: usize) -> Vec<f32> {
    timestep_embedding(1000.0 * (scale - 1.0), width, false, 1.0)
}
