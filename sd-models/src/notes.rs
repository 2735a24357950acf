//! Settings that programs leave in a configuration as notes to themselves.

/// `true` when the setting `field` says nothing about the network in its file.
pub(crate) fn is_note(field: &str) -> bool {
    field.starts_with('_') || NOTES.iter().any(|notes| notes.contains(&field))
}

const NOTES: &[&[&str]] = &[AVERAGE, WRITER, LOADING, EXECUTION];

/// diffusers' `EMAModel`, which saves its own state with the averaged weights.
const AVERAGE: &[&str] = &[
    "decay",
    "inv_gamma",
    "min_decay",
    "optimization_step",
    "power",
    "update_after_step",
    "use_ema_warmup",
];

/// Names of what is saved, and of what saved it.
const WRITER: &[&str] = &[
    "architectures",
    "auto_map",
    "diffusers_version",
    "dtype",
    "model_type",
    "name_or_path",
    "torch_dtype",
    "transformers_version",
];

/// Arguments of `from_pretrained` that went into what was saved afterwards.
const LOADING: &[&str] = &[
    "cache_dir",
    "device_map",
    "force_download",
    "from_flax",
    "ignore_mismatched_sizes",
    "local_files_only",
    "low_cpu_mem_usage",
    "offload_folder",
    "offload_state_dict",
    "output_loading_info",
    "proxies",
    "resume_download",
    "return_unused_kwargs",
    "revision",
    "subfolder",
    "token",
    "use_auth_token",
    "use_safetensors",
    "variant",
];

/// Ways to compute the same numbers.
const EXECUTION: &[&str] = &[
    "attn_implementation",
    "gradient_checkpointing",
    "split_head_dim",
    "use_flash_attention",
    "use_gradient_checkpointing",
    "use_memory_efficient_attention",
    "use_memory_efficient_attention_xformers",
];
