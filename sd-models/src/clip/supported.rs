//! Settings of CLIP's towers that are implemented.

use crate::{ConfigFile, Result};

/// Settings of text that are read.
const TEXT: &[&str] = &[
    "eos_token_id",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_norm_eps",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "projection_dim",
    "vocab_size",
];

/// Settings of pictures that are read.
const VISION: &[&str] = &[
    "hidden_act",
    "hidden_size",
    "image_size",
    "intermediate_size",
    "layer_norm_eps",
    "num_attention_heads",
    "num_hidden_layers",
    "patch_size",
    "projection_dim",
];

/// Settings of the whole that are read, and where its training began.
const WHOLE: &[&str] = &[
    "logit_scale_init_value",
    "projection_dim",
    "text_config",
    "text_config_dict",
    "vision_config",
    "vision_config_dict",
];

/// Settings that transformers gives every model, and that change nothing in this one: of training,
/// of other kinds of models, of text that is generated.
const INERT: &[&str] = &[
    "add_cross_attention",
    "attention_dropout",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dropout",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "pruned_heads",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tie_word_embeddings",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torchscript",
    "typical_p",
    "use_bfloat16",
    "use_cache",
];

/// Settings that are known and not implemented.
const FIXED: &[(&str, &[&str])] = &[
    ("quantization_config", &[]),
    // diffusers' pipelines then hide the padding from the encoder.
    ("use_attention_mask", &[]),
];

/// Settings that may have one value, of pictures.
const FIXED_VISION: &[(&str, &[&str])] = &[("num_channels", &["3"])];

/// Refuses settings of text that nothing reads.
pub(super) fn check_text(file: &ConfigFile) -> Result<()> {
    file.refuse_others(&[TEXT, INERT].concat(), FIXED)
}

/// Refuses settings of pictures that nothing reads.
pub(super) fn check_vision(file: &ConfigFile) -> Result<()> {
    file.refuse_others(&[VISION, INERT].concat(), &[FIXED, FIXED_VISION].concat())
}

/// Refuses settings of the whole that nothing reads; those of its parts are the parts' own.
pub(super) fn check_whole(file: &ConfigFile) -> Result<()> {
    file.refuse_others(&[WHOLE, INERT].concat(), FIXED)
}
