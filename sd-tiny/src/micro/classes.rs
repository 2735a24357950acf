//! The classes of components that have weights.

use std::collections::BTreeMap;

use sd_pipeline::Device;
use sd_pipeline::models::unet::{UNet2DConditionModel, UNetConfig};
use sd_pipeline::models::vae::{AutoencoderKL, AutoencoderTiny, TinyVaeConfig, VaeConfig};
use sd_pipeline::models::{ClipTextConfig, ClipTextModel, ConfigFile, parameter_shapes};

use super::config::read;

/// Shapes by the library's names.
type Shapes = BTreeMap<String, Vec<usize>>;

/// A class of components that have weights.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) name: &'static str,
    /// The weights' file, without its extension.
    pub(super) stem: &'static str,
    /// Shapes in the file of a component with this configuration.
    pub(super) shapes: fn(&ConfigFile) -> Shapes,
    /// The module that all but the projection are in, as in the published files, which are older
    /// than transformers' shorter names.
    within: &'static str,
}

impl Class {
    /// The class of that name; `None` of one without weights.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        CLASSES.iter().find(|class| class.name == name)
    }

    /// A tensor's name in the file.
    pub(super) fn published(&self, tensor: String) -> String {
        match tensor.starts_with("text_projection.") {
            true => tensor,
            false => format!("{}{tensor}", self.within),
        }
    }
}

static CLASSES: &[Class] = &[
    text("CLIPTextModel"),
    text("CLIPTextModelWithProjection"),
    model("UNet2DConditionModel", unet),
    model("AutoencoderTiny", |file| {
        let config = read(file, TinyVaeConfig::new);
        shapes(|device| parameter_shapes(&AutoencoderTiny::new(&config, device)))
    }),
    model("AutoencoderKL", |file| {
        shapes(|device| parameter_shapes(&AutoencoderKL::new(&read(file, VaeConfig::new), device)))
    }),
];

const fn text(name: &'static str) -> Class {
    Class {
        name,
        stem: "model",
        shapes: |file| {
            let config = read(file, ClipTextConfig::from_file);
            shapes(|device| parameter_shapes(&ClipTextModel::new(config, device)))
        },
        within: "text_model.",
    }
}

const fn model(name: &'static str, shapes: fn(&ConfigFile) -> Shapes) -> Class {
    Class {
        name,
        stem: "diffusion_pytorch_model",
        shapes,
        within: "",
    }
}

fn unet(file: &ConfigFile) -> Shapes {
    let config = read(file, UNetConfig::new);
    let mut shapes = shapes(|device| parameter_shapes(&UNet2DConditionModel::new(&config, device)));
    // The library's linear layer serves both kinds of projection.
    let linear = read(file, |file| file.flag("use_linear_projection", false));
    let projection = |name: &str| {
        ["proj_in.weight", "proj_out.weight"]
            .iter()
            .any(|end| name.ends_with(end))
    };
    for (name, shape) in &mut shapes {
        if !linear && projection(name) {
            shape.extend([1, 1]);
        }
    }
    shapes
}

/// Of a module that is made; without values it belongs to no device yet, and naming one starts
/// nothing.
fn shapes(of: impl FnOnce(&Device) -> Shapes) -> Shapes {
    of(&Device::default())
}
