//! Names of a network's modules in every spelling that adapters have for them.

use std::collections::BTreeMap;

use super::grammar::{Target, spelling};
use crate::ldm::{Layout, Storage};

/// Modules of one network by what adapters call them.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// By [`spelling`]: the module, or `None` where two have the same.
    modules: BTreeMap<String, Option<String>>,
    /// Blocks of the modules that are in one, as [`BlockScales`](super::BlockScales) names them.
    blocks: BTreeMap<String, String>,
}

impl Names {
    /// Of the modules that hold `parameters`, which also a single file has under the names of
    /// `layout`.
    pub(crate) fn of_unet<'a>(parameters: impl Iterator<Item = &'a str>, layout: &Layout) -> Self {
        let mut names = Self::default();
        for (module, parameter) in modules(parameters) {
            names.add(module, module);
            let place = layout.in_file(parameter);
            let whole = place.filter(|place| place.storage == Storage::Whole);
            if let Some((theirs, _)) = whole.as_ref().and_then(|place| place.name.rsplit_once('.'))
            {
                names.add(theirs, module);
                if let Some(block) = block(theirs) {
                    names.blocks.insert(module.into(), block);
                }
            }
            // Before diffusers 0.17 the output projection was no list.
            if let Some(short) = module.strip_suffix(".to_out.0") {
                names.add(&format!("{short}.to_out"), module);
            }
        }
        names
    }

    /// Of a text encoder's modules, which adapters write with transformers' outer name. diffusers'
    /// first versions named the attention's layers as the U-Net's.
    pub(crate) fn of_text<'a>(parameters: impl Iterator<Item = &'a str>) -> Self {
        const OLD: &[(&str, &str)] = &[
            (".q_proj", ".to_q"),
            (".k_proj", ".to_k"),
            (".v_proj", ".to_v"),
            (".out_proj", ".to_out"),
        ];
        let mut names = Self::default();
        for (module, _) in modules(parameters) {
            names.blocks.insert(module.into(), "BASE".into());
            let mut add = |theirs: &str| {
                names.add(theirs, module);
                names.add(&format!("text_model.{theirs}"), module);
            };
            add(module);
            for (today, old) in OLD {
                if let Some(attention) = module.strip_suffix(today) {
                    add(&format!("{attention}{old}"));
                }
            }
        }
        names
    }

    /// The module that an adapter spells so.
    pub(super) fn find(&self, spelled: &str) -> Option<&str> {
        self.modules.get(spelled)?.as_deref()
    }

    /// The block that `module` is in.
    pub(super) fn block(&self, module: &str) -> Option<&str> {
        self.blocks.get(module).map(String::as_str)
    }

    /// All blocks there are.
    pub(super) fn blocks(&self) -> impl Iterator<Item = &str> {
        self.blocks.values().map(String::as_str)
    }

    fn add(&mut self, theirs: &str, module: &str) {
        let entry = self.modules.entry(spelling(theirs));
        let known = entry.or_insert_with(|| Some(module.into()));
        if known.as_deref() != Some(module) {
            *known = None;
        }
    }
}

/// Each module that has a weight or a bias of its own, with the name of one of the two.
fn modules<'a>(
    parameters: impl Iterator<Item = &'a str>,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    let split = parameters.filter_map(|parameter| {
        let (module, last) = parameter.rsplit_once('.')?;
        matches!(last, "weight" | "bias").then_some((module, (module, parameter)))
    });
    split.collect::<BTreeMap<_, _>>().into_values()
}

/// The block of a module of the original code's U-Net.
fn block(theirs: &str) -> Option<String> {
    let mut parts = theirs.split('.');
    let side = match parts.next()? {
        "middle_block" => return Some("MID".into()),
        "input_blocks" => "IN",
        "output_blocks" => "OUT",
        _ => return None,
    };
    Some(format!("{side}{:02}", parts.next()?.parse::<usize>().ok()?))
}

impl Target {
    /// `true` where a module that belongs to `self` may be one of `network`.
    pub(super) fn may_be(self, network: Self) -> bool {
        self == Self::Any || self == network
    }
}
