//! Settings of the published models with narrow tensors: what every file of a class says, under
//! what a family's row of [`families`] says.

use std::collections::BTreeMap;

use sd_pipeline::models::{ComponentClass, ConfigFile, Result};
use serde_json::{Map, Value, json};

use super::{Family, GROUPS, families, tokenizer};

/// Channels of the first block, of the U-Net and of the autoencoder.
pub(super) const CHANNELS: usize = 4;
/// Channels of the autoencoder at each resolution, in this ratio to the first.
pub(super) const RATIO: [usize; 4] = [1, 2, 3, 3];
/// Width of the prompt's tokens where there is one text encoder, and of each where there are two.
pub(super) const TEXT: usize = 16;
pub(super) const TEXT_1: usize = 6;
pub(super) const TEXT_2: usize = 8;
/// Side of a latent; pictures are 128×128.
pub(super) const SIDE: usize = 16;

const VERSION: &str = "0.42.1";

type Object = Map<String, Value>;

/// Channels in this ratio to the first block's.
pub(super) fn channels(ratio: &[usize]) -> Vec<usize> {
    ratio.iter().map(|ratio| ratio * CHANNELS).collect()
}

/// What the files of a family say.
pub(super) struct Settings {
    /// Of `model_index.json`.
    index: Object,
    /// Of each component's own file.
    components: BTreeMap<String, Object>,
}

impl Settings {
    pub(super) fn new(family: Family) -> Self {
        let mut said = said(family);
        let mut index = said.remove("index").unwrap_or_default();
        index.insert("_diffusers_version".into(), VERSION.into());
        let component = |(name, entry): (&String, &Value)| {
            let mut settings = common(entry.get(1)?.as_str()?)?;
            settings.extend(said.remove(name).unwrap_or_default());
            Some((name.clone(), settings))
        };
        let components = index.iter().filter_map(component).collect();
        Self { index, components }
    }

    /// The class of a component and its file, of one that the family has and that has weights.
    pub(super) fn component(&self, name: &str) -> Option<(&'static ComponentClass, ConfigFile)> {
        let class = ComponentClass::named(self.index.get(name)?.get(1)?.as_str()?)?;
        let file = self.components.get(name)?.clone();
        Some((class, ConfigFile::new(format!("{name}/config.json"), file)))
    }

    /// The file of a component that the family has, as the library reads it.
    pub(super) fn read<C>(&self, name: &str, how: impl Fn(&ConfigFile) -> Result<C>) -> C {
        let file = self.component(name);
        let (_, file) = file.unwrap_or_else(|| unreachable!("the family has a {name}"));
        read(&file, how)
    }

    /// One setting of a component.
    pub(super) fn get(&self, component: &str, field: &str) -> Option<&Value> {
        self.components.get(component)?.get(field)
    }

    /// The JSON files of diffusers' layout, without the tokenizers'.
    pub(super) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let index = ("model_index.json".into(), bytes(&self.index));
        let components = self.components.iter().map(|(name, settings)| {
            let stem = match name.as_str() {
                "scheduler" => "scheduler_config",
                _ => "config",
            };
            (format!("{name}/{stem}.json"), bytes(settings))
        });
        components.chain([index]).collect()
    }

    /// The folders of the tokenizers, and the token that each fills its prompts up with.
    pub(super) fn tokenizers(&self) -> impl Iterator<Item = (String, usize)> {
        let folders = [
            ("tokenizer", "text_encoder"),
            ("tokenizer_2", "text_encoder_2"),
        ];
        let found = folders.map(|(folder, encoder)| {
            let pad = self.get(encoder, "pad_token_id")?.as_u64()? as usize;
            Some((folder.to_string(), pad))
        });
        found.into_iter().flatten()
    }
}

/// A file as the library reads it.
pub(super) fn read<C>(file: &ConfigFile, how: impl Fn(&ConfigFile) -> Result<C>) -> C {
    how(file).expect("the micro models' settings are in range")
}

/// What the rows of a family and of all it descends from say, the nearest last.
fn said(family: Family) -> BTreeMap<String, Object> {
    let families::Row { parent, files } = families::row(family);
    let mut said = parent.map_or_else(BTreeMap::new, said);
    for (name, settings) in object(files) {
        said.entry(name).or_default().extend(object(settings));
    }
    said
}

fn object(value: Value) -> Object {
    let Value::Object(object) = value else {
        unreachable!("a file of settings is an object")
    };
    object
}

/// A JSON file with its settings in alphabetical order, whichever order `serde_json` keeps.
pub(super) fn bytes(settings: &Object) -> Vec<u8> {
    let sorted: BTreeMap<&String, &Value> = settings.iter().collect();
    serde_json::to_vec_pretty(&sorted).expect("JSON can be written")
}

/// What every file of a class says; of a class without a file nothing.
fn common(class: &str) -> Option<Object> {
    let mut settings = object(match class {
        "CLIPTokenizer" => return None,
        "CLIPTextModel" | "CLIPTextModelWithProjection" => json!({
            "architectures": [class],
            "attention_dropout": 0.0,
            "bos_token_id": tokenizer::COUNT - 2,
            "dropout": 0.0,
            "eos_token_id": tokenizer::COUNT - 1,
            "hidden_size": TEXT,
            "initializer_factor": 1.0,
            "initializer_range": 0.02,
            "intermediate_size": 2 * TEXT,
            "layer_norm_eps": 1e-5,
            "max_position_embeddings": 77,
            "model_type": "clip_text_model",
            "num_attention_heads": 2,
            "pad_token_id": tokenizer::COUNT - 1,
            "projection_dim": TEXT,
            "torch_dtype": "float16",
            "vocab_size": tokenizer::COUNT,
        }),
        "UNet2DConditionModel" => json!({
            "act_fn": "silu",
            "center_input_sample": false,
            "downsample_padding": 1,
            "flip_sin_to_cos": true,
            "freq_shift": 0,
            "in_channels": 4,
            "layers_per_block": 2,
            "mid_block_scale_factor": 1,
            "norm_eps": 1e-5,
            "norm_num_groups": GROUPS,
            "out_channels": 4,
            "sample_size": SIDE,
        }),
        "AutoencoderKL" => json!({
            "act_fn": "silu",
            "block_out_channels": channels(&RATIO),
            "down_block_types": (["DownEncoderBlock2D"; 4]),
            "in_channels": 3,
            "latent_channels": 4,
            "layers_per_block": 2,
            "norm_num_groups": GROUPS,
            "out_channels": 3,
            "sample_size": 8 * SIDE,
            "up_block_types": (["UpDecoderBlock2D"; 4]),
        }),
        "AutoencoderTiny" => json!({
            "act_fn": "relu",
            "decoder_block_out_channels": ([2 * CHANNELS; 4]),
            "encoder_block_out_channels": ([2 * CHANNELS; 4]),
            "force_upcast": false,
            "in_channels": 3,
            "latent_channels": 4,
            "latent_magnitude": 3,
            "latent_shift": 0.5,
            "num_decoder_blocks": [3, 3, 3, 1],
            "num_encoder_blocks": [1, 3, 3, 3],
            "out_channels": 3,
            "scaling_factor": 1.0,
            "upsampling_scaling_factor": 2,
        }),
        _scheduler => json!({
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "clip_sample": false,
            "num_train_timesteps": 1000,
            "prediction_type": "epsilon",
            "set_alpha_to_one": false,
            "skip_prk_steps": true,
            "steps_offset": 1,
            "trained_betas": null,
        }),
    });
    if !settings.contains_key("architectures") {
        settings.insert("_class_name".into(), class.into());
        settings.insert("_diffusers_version".into(), VERSION.into());
    }
    Some(settings)
}
