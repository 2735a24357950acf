//! Names of an adapter's tensors: which network, which module of it, and which part of its change.

/// Target that a module belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// The U-Net.
    Denoiser,
    /// The text encoder of this number, from 0.
    TextEncoder(usize),
    /// Whichever has a module of that name: files of a single network do not say it.
    Any,
}

/// Part that a tensor plays in the change of its module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Role {
    Down,
    Up,
    Mid,
    Alpha,
    /// DoRA's magnitudes as LyCORIS lays them out.
    Scale,
    /// DoRA's magnitudes as peft does: one of each output, whatever their shape.
    Magnitude,
    HadaA1,
    HadaB1,
    HadaA2,
    HadaB2,
    HadaT1,
    HadaT2,
    Kron1,
    KronA1,
    KronB1,
    Kron2,
    KronA2,
    KronB2,
    KronT2,
    /// Orthogonal blocks of LyCORIS, over the outputs.
    Blocks,
    Rescale,
    /// Orthogonal blocks of peft, over the inputs.
    Rotation,
    Diff,
    DiffBias,
}

/// Endings of tensors' names, each behind its module's; the first that fits counts.
///
/// From kohya's sd-scripts (`networks/lora.py`), LyCORIS (`modules/*.py`), peft, diffusers of 2023
/// and ComfyUI (`comfy/weight_adapter`).
const ENDINGS: &[(&str, Role)] = &[
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".lora_mid.weight", Role::Mid),
    (".lora_A.default.weight", Role::Down),
    (".lora_B.default.weight", Role::Up),
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_A", Role::Down),
    (".lora_B", Role::Up),
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    ("_lora.down.weight", Role::Down),
    ("_lora.up.weight", Role::Up),
    (".alpha", Role::Alpha),
    (".dora_scale", Role::Scale),
    (".lora_magnitude_vector.default.weight", Role::Magnitude),
    (".lora_magnitude_vector.weight", Role::Magnitude),
    (".lora_magnitude_vector", Role::Magnitude),
    (".hada_w1_a", Role::HadaA1),
    (".hada_w1_b", Role::HadaB1),
    (".hada_w2_a", Role::HadaA2),
    (".hada_w2_b", Role::HadaB2),
    (".hada_t1", Role::HadaT1),
    (".hada_t2", Role::HadaT2),
    (".lokr_w1", Role::Kron1),
    (".lokr_w1_a", Role::KronA1),
    (".lokr_w1_b", Role::KronB1),
    (".lokr_w2", Role::Kron2),
    (".lokr_w2_a", Role::KronA2),
    (".lokr_w2_b", Role::KronB2),
    (".lokr_t2", Role::KronT2),
    (".oft_blocks", Role::Blocks),
    (".rescale", Role::Rescale),
    (".oft_R.default.weight", Role::Rotation),
    (".oft_R.weight", Role::Rotation),
    (".diff", Role::Diff),
    (".diff_b", Role::DiffBias),
    (".w_norm", Role::Diff),
    (".b_norm", Role::DiffBias),
];

/// Beginnings of names that say the network; the first that fits counts.
const BEGINNINGS: &[(&str, Target)] = &[
    ("lora_unet_", Target::Denoiser),
    ("lora_te1_", Target::TextEncoder(0)),
    ("lora_te2_", Target::TextEncoder(1)),
    ("lora_te_", Target::TextEncoder(0)),
    ("lycoris_", Target::Any),
    ("base_model.model.", Target::Any),
    ("unet.", Target::Denoiser),
    ("text_encoder.", Target::TextEncoder(0)),
    ("text_encoder_2.", Target::TextEncoder(1)),
    ("text_encoders.clip_l.transformer.", Target::TextEncoder(0)),
    ("text_encoders.clip_g.transformer.", Target::TextEncoder(1)),
    ("model.diffusion_model.", Target::Denoiser),
    ("diffusion_model.", Target::Denoiser),
];

/// A tensor's name, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parsed<'a> {
    pub(super) network: Target,
    /// The module's name as the file spells it, without what says the network.
    pub(super) module: &'a str,
    pub(super) role: Role,
}

/// Takes a tensor's name apart; `None` for one that is no part of a change.
pub(super) fn parse(name: &str) -> Option<Parsed<'_>> {
    let (module, role) = ENDINGS
        .iter()
        .find_map(|(ending, role)| Some((name.strip_suffix(ending)?, *role)))?;
    let (module, network) = BEGINNINGS
        .iter()
        .find_map(|(start, network)| Some((module.strip_prefix(start)?, *network)))
        // Files of diffusers' first months have the U-Net's names alone.
        .unwrap_or((module, Target::Any));
    (!module.is_empty()).then_some(Parsed {
        network,
        module,
        role,
    })
}

/// Takes the name of a Control-LoRA's factor apart.
pub(super) fn parse_control(name: &str) -> Option<Parsed<'_>> {
    let roles = [(".up", Role::Up), (".down", Role::Down)];
    let mut found = roles
        .into_iter()
        .filter_map(|(end, role)| Some((name.strip_suffix(end)?, role)));
    let (module, role) = found.next()?;
    Some(Parsed {
        network: Target::Denoiser,
        module,
        role,
    })
}

/// A module's name in the one spelling by which names are compared: every dot an underscore, for
/// kohya's files have nothing else, and without what only some files write.
pub(super) fn spelling(module: &str) -> String {
    let plain = module.replace(".processor.", ".");
    // peft's wrapper, within a network.
    let plain = plain.replace(".base_layer", "");
    plain.replace('.', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_is_taken_apart() {
        use Target::{Any, Denoiser, TextEncoder};
        let rows = [
            (
                "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",
                (Denoiser, "down_blocks_0_attentions_0_proj_in", Role::Down),
            ),
            (
                "lora_te2_text_model_encoder_layers_3_mlp_fc1.alpha",
                (
                    TextEncoder(1),
                    "text_model_encoder_layers_3_mlp_fc1",
                    Role::Alpha,
                ),
            ),
            (
                "unet.mid_block.attentions.0.proj_out.lora_magnitude_vector",
                (Denoiser, "mid_block.attentions.0.proj_out", Role::Magnitude),
            ),
            (
                "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.up.weight",
                (
                    Any,
                    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q",
                    Role::Up,
                ),
            ),
            (
                "diffusion_model.input_blocks.4.1.proj_in.lokr_w2_b",
                (Denoiser, "input_blocks.4.1.proj_in", Role::KronB2),
            ),
            (
                "base_model.model.conv_in.lora_A.weight",
                (Any, "conv_in", Role::Down),
            ),
        ];
        for (name, (network, module, role)) in rows {
            let expected = Parsed {
                network,
                module,
                role,
            };
            assert_eq!(parse(name), Some(expected), "{name}");
        }
        for name in ["conv_in.weight", ".alpha", "lora_unet_.alpha", "emb_params"] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
