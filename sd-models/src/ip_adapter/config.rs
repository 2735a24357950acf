//! The shape of an adapter, told from its tensors.

use std::collections::BTreeMap;

use crate::weights::Weights;
use crate::{Error, Result};

/// Width of a resampler's heads, whatever its own.
pub(super) const HEAD: usize = 64;
/// Tokens that a plain adapter makes of a picture.
pub(super) const PLAIN_TOKENS: usize = 4;

/// The shape of an IP-Adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct IpAdapterConfig {
    /// The network between the image encoder and the tokens.
    pub projection: ProjectionConfig,
    /// Width of what the image encoder makes: of its projected vector for a plain adapter, else of
    /// its tokens.
    pub image_width: usize,
    /// Width of the tokens, a prompt's: 768 for Stable Diffusion 1, 2048 for SDXL.
    pub context_width: usize,
    /// Width of the keys and values in each layer of cross-attention: those on the way down, on the
    /// way up and in the middle.
    pub layers: Vec<usize>,
}

/// Networks that make tokens of what an image encoder sees.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProjectionConfig {
    /// One layer on the projected vector: 4 tokens, the plain adapter.
    Linear,
    /// Two layers on each token of the last layer but one: the "full face" adapter.
    Mlp,
    /// A resampler (Alayrac et al. 2022, arXiv:2204.14198) of the tokens of the last layer but one:
    /// Plus, Plus-face.
    Resampler {
        /// Number of tokens it makes of a picture: 16.
        tokens: usize,
        /// Width that it works in.
        width: usize,
        /// Width of its heads together, a multiple of 64.
        heads_width: usize,
        /// Inner width of its feed-forward networks.
        inner: usize,
        /// Number of its layers: 4.
        depth: usize,
    },
}

impl ProjectionConfig {
    /// The name that people know an adapter with it by.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Linear => "plain",
            Self::Mlp => "full-face",
            Self::Resampler { .. } => "Plus",
        }
    }
}

type Shapes<'a> = BTreeMap<&'a str, &'a [usize]>;

impl IpAdapterConfig {
    /// The shape of the adapter whose tensors these are. What does not belong to it is found when
    /// they are compared with the module's.
    pub(super) fn of(weights: &Weights) -> Result<Self> {
        let shapes: Shapes<'_> = weights.shapes().collect();
        let fault = |reason: String| Error::Adapter {
            path: weights.path().into(),
            reason,
        };
        let starts = |start: &str| shapes.keys().any(|name| name.starts_with(start));
        if !starts("image_proj.") || !starts("ip_adapter.") {
            return Err(Error::Contents {
                path: weights.path().into(),
                found: match shapes.keys().next() {
                    Some(name) => format!("it has tensors such as {name}"),
                    None => "it has no tensors".into(),
                },
                expected: "those of an IP-Adapter, image_proj.… and ip_adapter.N.to_k_ip.weight"
                    .into(),
            });
        }
        if is_face_id(shapes.keys().copied()) {
            let what = "an IP-Adapter of FaceID, which takes a face network's vectors: that is not \
                        supported; a plain one, Plus, Plus-face and full-face are";
            return Err(Error::Unsupported {
                path: weights.path().into(),
                what: what.into(),
            });
        }
        let matrix = |name: &str| match shapes.get(name).copied() {
            Some(&[rows, columns]) if rows > 0 && columns > 0 => Ok([rows, columns]),
            Some(shape) => Err(fault(format!("{name} is {shape:?}; expected a matrix"))),
            None => Err(fault(format!("there is no tensor {name}"))),
        };
        let [_, context_width] = matrix("ip_adapter.1.to_k_ip.weight")?;
        let count = (0..shapes.len())
            .take_while(|k| shapes.contains_key(&*keys_name(*k)))
            .count();
        let layers = (0..count).map(|k| Ok(matrix(&keys_name(k))?[0]));
        let layers = layers.collect::<Result<_>>()?;
        let (projection, image_width) = if shapes.contains_key("image_proj.proj.weight") {
            let [_, image] = matrix("image_proj.proj.weight")?;
            (ProjectionConfig::Linear, image)
        } else if shapes.contains_key("image_proj.proj.0.weight") {
            let [_, image] = matrix("image_proj.proj.0.weight")?;
            (ProjectionConfig::Mlp, image)
        } else {
            resampler(&shapes, &matrix, &fault)?
        };
        Ok(Self {
            projection,
            image_width,
            context_width,
            layers,
        })
    }

    /// The family of models that it is for, where width and number of its layers tell.
    pub fn family(&self) -> Option<&'static str> {
        family_of(self.context_width, self.layers.len())
    }
}

/// The family of models with so many layers of cross-attention to tokens that are `width` wide.
pub(crate) fn family_of(width: usize, layers: usize) -> Option<&'static str> {
    match (width, layers) {
        (1024, _) => Some("sd2"),
        (2048, _) | (_, 70) => Some("sdxl"),
        (768, _) | (_, 16) => Some("sd1"),
        _ => None,
    }
}

/// Name of the keys' tensor of the layer of number `layer`: numbers count layers of self-attention too.
fn keys_name(layer: usize) -> String {
    format!("ip_adapter.{}.to_k_ip.weight", 2 * layer + 1)
}

/// `true` of the names of an adapter that takes a face network's vectors.
pub(crate) fn is_face_id<'a>(names: impl Iterator<Item = &'a str>) -> bool {
    let (mut has_norm, mut has_layers, mut is_face_plus) = (false, false, false);
    for name in names {
        has_norm |= name == "image_proj.norm.weight";
        has_layers |= name == "image_proj.proj.0.weight";
        is_face_plus |= name.starts_with("image_proj.perceiver_resampler.");
        is_face_plus |= name.starts_with("ip_adapter.") && name.contains("_lora.");
    }
    is_face_plus || has_norm && has_layers
}

fn resampler(
    shapes: &Shapes<'_>,
    matrix: &dyn Fn(&str) -> Result<[usize; 2]>,
    fault: &dyn Fn(String) -> Error,
) -> Result<(ProjectionConfig, usize)> {
    let (tokens, width) = match shapes.get("image_proj.latents").copied() {
        Some(&[1, tokens, width]) if tokens > 0 && width > 0 => (tokens, width),
        Some(shape) => {
            let expected = "expected [1, tokens, width]";
            return Err(fault(format!(
                "image_proj.latents is {shape:?}; {expected}"
            )));
        }
        None => {
            let expected = "expected image_proj.proj.weight (plain), image_proj.latents (Plus) or \
                            image_proj.proj.0.weight (full-face)";
            return Err(fault(format!(
                "its image projection is none that is known; {expected}"
            )));
        }
    };
    let [_, image] = matrix("image_proj.proj_in.weight")?;
    let [heads_width, _] = matrix("image_proj.layers.0.0.to_q.weight")?;
    let [inner, _] = matrix("image_proj.layers.0.1.1.weight")?;
    if !heads_width.is_multiple_of(HEAD) {
        let name = "image_proj.layers.0.0.to_q.weight";
        let expected = format!("expected a multiple of {HEAD}, the width of a head");
        return Err(fault(format!("{name} has {heads_width} rows; {expected}")));
    }
    let query = |layer: usize| format!("image_proj.layers.{layer}.0.to_q.weight");
    let depth = (0..shapes.len())
        .take_while(|layer| shapes.contains_key(&*query(*layer)))
        .count();
    let config = ProjectionConfig::Resampler {
        tokens,
        width,
        heads_width,
        inner,
        depth,
    };
    Ok((config, image))
}
