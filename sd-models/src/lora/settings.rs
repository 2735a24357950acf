//! Factors that are written beside an adapter's tensors: peft's settings.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::grammar::Target;
use crate::{Error, Result};

/// `adapter_config.json`, of which this is read (peft 0.21, `LoraConfig` and its kin).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Settings {
    peft_type: Option<String>,
    #[serde(alias = "alpha")]
    lora_alpha: Option<f64>,
    r: Option<f64>,
    rank_pattern: BTreeMap<String, f64>,
    alpha_pattern: BTreeMap<String, f64>,
    use_rslora: bool,
    fan_in_fan_out: bool,
    use_cayley_neumann: Option<bool>,
    num_cayley_neumann_terms: Option<u64>,
    lora_bias: bool,
}

/// Kinds of peft's adapters whose tensors are read here.
const KINDS: &[&str] = &["LORA", "LOHA", "LOKR", "OFT"];

impl Settings {
    /// Settings in an `adapter_config.json` at `path`.
    pub(super) fn parse(path: &Path, text: &[u8]) -> Result<Self> {
        let settings: Self = serde_json::from_slice(text).map_err(|source| Error::Json {
            path: path.into(),
            source,
        })?;
        settings.check().map_err(|reason| Error::Adapter {
            path: path.into(),
            reason,
        })?;
        Ok(settings)
    }

    /// Settings of each network that diffusers puts into a file's notes
    /// (`lora_adapter_metadata`), by the beginnings of their names.
    pub(super) fn from_notes(path: &Path, text: &str) -> Result<Vec<(Target, Self)>> {
        let fault = |reason: String| Error::Adapter {
            path: path.into(),
            reason: format!("its note lora_adapter_metadata {reason}"),
        };
        let all: Map<String, Value> =
            serde_json::from_str(text).map_err(|e| fault(format!("is no JSON: {e}")))?;
        let mut found = Vec::new();
        for (start, network) in [
            ("unet.", Target::Denoiser),
            ("text_encoder.", Target::TextEncoder(0)),
            ("text_encoder_2.", Target::TextEncoder(1)),
        ] {
            let own = all.iter().filter_map(|(name, value)| {
                Some((name.strip_prefix(start)?.into(), value.clone()))
            });
            let own: Map<String, Value> = own.collect();
            if own.is_empty() {
                continue;
            }
            let settings: Self = serde_json::from_value(own.into())
                .map_err(|e| fault(format!("is not peft's settings: {e}")))?;
            settings.check().map_err(fault)?;
            found.push((network, settings));
        }
        Ok(found)
    }

    fn check(&self) -> Result<(), String> {
        if let Some(kind) = &self.peft_type
            && !KINDS.contains(&kind.as_str())
        {
            return Err(format!(
                "peft_type is {kind}, supported is {}",
                KINDS.join(", ")
            ));
        }
        if self.fan_in_fan_out {
            return Err("fan_in_fan_out is true, supported is false".into());
        }
        if self.use_cayley_neumann == Some(false) {
            return Err("use_cayley_neumann is false, supported is true".into());
        }
        if let Some(terms) = self.num_cayley_neumann_terms.filter(|terms| *terms != 5) {
            return Err(format!(
                "num_cayley_neumann_terms is {terms}, supported is 5"
            ));
        }
        if self.lora_bias {
            return Err("lora_bias is true, supported is false".into());
        }
        // Without an alpha no factor is made of it: peft's OFT says 0 where it has blocks of one size.
        let has_alpha = self.lora_alpha.is_some() || !self.alpha_pattern.is_empty();
        let patterns = self
            .rank_pattern
            .values()
            .chain(&self.r)
            .filter(|_| has_alpha);
        if let Some(rank) = patterns.into_iter().find(|rank| **rank < 1.0) {
            return Err(format!("r is {rank}, expected at least 1"));
        }
        Ok(())
    }

    /// Factor of the change of the module `name`; `None` where nothing is said.
    pub(super) fn factor(&self, name: &str) -> Option<f32> {
        let own = |pattern: &BTreeMap<String, f64>| {
            let is_of = |key: &str| {
                let rest = name.strip_suffix(key);
                rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            };
            pattern
                .iter()
                .find_map(|(key, value)| is_of(key).then_some(*value))
        };
        let alpha = own(&self.alpha_pattern).or(self.lora_alpha)?;
        let rank = own(&self.rank_pattern).or(self.r)?;
        Some((alpha / if self.use_rslora { rank.sqrt() } else { rank }) as f32)
    }
}
