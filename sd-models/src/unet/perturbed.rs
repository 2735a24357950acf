//! Layers that a branch perturbs, found by their paths.

use sd_core::{Error, Perturbation, Perturbed, Result};

use super::blocks::StageContext;
use super::config::UNetConfig;

/// `true` when `selector` is the transformer block `path` or something that holds it.
pub(super) fn selects(selector: &str, path: &str) -> bool {
    let rest = path.strip_prefix(selector);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Path of a transformer block.
pub(super) fn path(list: &str, attention: usize, block: usize) -> String {
    format!("{list}.attentions.{attention}.transformer_blocks.{block}")
}

/// Refuses paths under which the network has nothing to perturb.
pub(super) fn check(config: &UNetConfig, perturbed: &Perturbed) -> Result<()> {
    perturbed.perturbation.check()?;
    let lists = |name: &'static str, stages: Vec<_>| {
        let stages = stages.into_iter().enumerate();
        stages.map(move |(i, stage)| (format!("{name}.{i}"), stage))
    };
    let stages = lists("down_blocks", config.down_stages())
        .chain(config.mid_stage().map(|stage| ("mid_block".into(), stage)))
        .chain(lists("up_blocks", config.up_stages()));
    // A transformer that looks at the prompt twice has no self-attention to perturb.
    let any = perturbed.perturbation == Perturbation::Skipped;
    let (mut blocks, mut holders) = (Vec::new(), Vec::new());
    for (list, stage) in stages {
        let transformers = stage.transformers.iter().enumerate();
        let transformers = transformers.filter(|(_, t)| any || !t.only_cross_attention);
        let found = transformers.flat_map(|(i, t)| (0..t.layers).map(move |k| (i, k)));
        let before = blocks.len();
        blocks.extend(found.map(|(i, k)| path(&list, i, k)));
        if blocks.len() > before {
            holders.push(list);
        }
    }
    let expected = || match holders.is_empty() {
        true => "expected none: this U-Net has no such layers".into(),
        false => format!(
            "expected a transformer block's path in {}",
            holders.join(", ")
        ),
    };
    if perturbed.layers.is_empty() {
        return Err(Error::invalid("the layers to perturb", "none", expected()));
    }
    let lost = |selector: &&String| !blocks.iter().any(|path| selects(selector, path));
    match perturbed.layers.iter().find(lost) {
        Some(selector) => Err(Error::invalid(
            "a layer to perturb",
            format!("'{selector}'"),
            expected(),
        )),
        None => Ok(()),
    }
}

/// Marks the transformer blocks that `perturbed` selects in `stage`, which lies at `list`.
pub(super) fn mark(list: &str, stage: &mut StageContext, perturbed: &Perturbed) {
    for (i, transformer) in stage.iter_mut().enumerate() {
        for (k, block) in transformer.iter_mut().enumerate() {
            let path = path(list, i, k);
            if perturbed
                .layers
                .iter()
                .any(|selector| selects(selector, &path))
            {
                block.perturbation = Some(perturbed.perturbation);
            }
        }
    }
}
