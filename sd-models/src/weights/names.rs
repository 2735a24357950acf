//! Names that older generations of diffusers and transformers gave a tensor.

/// One difference between an older generation's names and today's.
enum Row {
    /// The whole name begins with this, and today's goes without it.
    Prefix(&'static str),
    /// The whole name begins with this twice, and today's once.
    Twice(&'static str),
    /// A tensor of this name, in whatever part of a model, is no parameter; nothing reads it.
    Ignore(&'static str),
    /// A layer `from` directly in `attentions.{n}` is called `to` today.
    Attention {
        from: &'static str,
        to: &'static str,
    },
}

/// Applied top to bottom, each row to the name the rows above it made.
const ROWS: &[Row] = &[
    // transformers 4 wrapped the text encoder; a model with a projection is still wrapped today.
    Row::Prefix("text_model."),
    // And the tower of pictures within a safety checker.
    Row::Twice("vision_model."),
    // 0, 1, 2 …, saved by transformers before 4.31 in each of CLIP's halves.
    Row::Ignore("embeddings.position_ids"),
    // The VAE's attention before diffusers 0.18.
    Row::Attention {
        from: "query",
        to: "to_q",
    },
    Row::Attention {
        from: "key",
        to: "to_k",
    },
    Row::Attention {
        from: "value",
        to: "to_v",
    },
    Row::Attention {
        from: "proj_attn",
        to: "to_out.0",
    },
];

/// Today's name of a tensor, `None` for one that is no parameter.
pub(super) fn current(name: &str) -> Option<String> {
    let mut name = name.to_string();
    for row in ROWS {
        match row {
            Row::Prefix(prefix) => {
                if let Some(rest) = name.strip_prefix(prefix) {
                    name = rest.into();
                }
            }
            Row::Twice(prefix) => {
                let rest = name.strip_prefix(prefix);
                if let Some(rest) = rest.filter(|rest| rest.starts_with(prefix)) {
                    name = rest.into();
                }
            }
            Row::Ignore(ignored) if is_or_ends_with(&name, ignored) => return None,
            Row::Ignore(_) => {}
            Row::Attention { from, to } => {
                if let Some(renamed) = rename_in_attention(&name, from, to) {
                    name = renamed;
                }
            }
        }
    }
    Some(name)
}

/// `true` where the last parts of `name`, between dots, are `end`.
fn is_or_ends_with(name: &str, end: &str) -> bool {
    let rest = name.strip_suffix(end);
    rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn rename_in_attention(name: &str, from: &str, to: &str) -> Option<String> {
    let (rest, parameter) = name.rsplit_once('.')?;
    let block = rest.strip_suffix(from)?.strip_suffix('.')?;
    let (attentions, index) = block.rsplit_once('.')?;
    let is_attention = attentions == "attentions" || attentions.ends_with(".attentions");
    let is_index = !index.is_empty() && index.bytes().all(|b| b.is_ascii_digit());
    (is_attention && is_index).then(|| format!("{block}.{to}.{parameter}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_published_safety_checker_has_todays_tensors() {
        let (_, published) = sd_fixtures::keys("safety_checker_published");
        let (_, today) = sd_fixtures::keys("safety_checker");
        assert_eq!(published.len(), 397);
        let renamed = published.into_iter();
        let renamed = renamed.filter_map(|(name, shape)| Some((current(&name)?, shape)));
        assert_eq!(renamed.collect::<BTreeMap<_, _>>(), today);
    }

    #[test]
    fn the_towers_of_one_file_stay_apart() {
        let [text, vision] = ["text_model", "vision_model"];
        for rest in [
            "embeddings.position_embedding.weight",
            "encoder.layers.0.layer_norm1.bias",
        ] {
            assert_eq!(current(&format!("{text}.{rest}")).as_deref(), Some(rest));
            let name = format!("{vision}.{rest}");
            assert_eq!(current(&name), Some(name.clone()));
            assert_eq!(current(&format!("{vision}.{name}")), Some(name));
        }
        for tower in [
            "",
            "text_model.",
            "vision_model.",
            "vision_model.vision_model.",
        ] {
            assert_eq!(current(&format!("{tower}embeddings.position_ids")), None);
        }
    }
}
