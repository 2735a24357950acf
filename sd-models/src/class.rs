//! Classes of components that have weights: their files, parameters and names.

use std::collections::BTreeMap;

use burn::tensor::Device;

use crate::clip::Activation;
use crate::ldm::{Layout, Numbering};
use crate::unet::{UNet2DConditionModel, UNetConfig};
use crate::vae::{AutoencoderKL, AutoencoderTiny, TinyVaeConfig, VaeConfig};
use crate::weights::parameter_shapes;
use crate::{ClipTextConfig, ClipTextModel, ConfigFile, Result};

/// Shapes by the library's names.
type Shapes = BTreeMap<String, Vec<usize>>;

/// A class of components that have weights, by its name in `model_index.json`.
#[derive(Debug)]
pub struct ComponentClass {
    name: &'static str,
    stem: &'static str,
    shapes: fn(&ConfigFile) -> Result<Shapes>,
    layout: fn(&ConfigFile) -> Result<Option<Layout>>,
    within: &'static str,
}

impl ComponentClass {
    /// The class of that name; `None` of one without weights, and of one that is not known.
    pub fn named(name: &str) -> Option<&'static Self> {
        CLASSES.iter().find(|class| class.name == name)
    }

    /// Name of the weights' file, without its ending.
    pub fn stem(&self) -> &'static str {
        self.stem
    }

    /// The parameters of a component with this configuration, by today's names, with the shapes
    /// that diffusers and transformers write. No values are made.
    ///
    /// # Errors
    /// Those of the class's configuration.
    pub fn shapes(&self, file: &ConfigFile) -> Result<BTreeMap<String, Vec<usize>>> {
        (self.shapes)(&self.meant(file))
    }

    /// Name in a published file of the parameter that is called `name` today. Text encoders had
    /// all but their projection in a module until transformers 5, which reads both.
    pub fn published(&self, name: &str) -> String {
        match name.starts_with("text_projection.") {
            true => name.into(),
            false => format!("{}{name}", self.within),
        }
    }

    /// Names of the tensors in a single file, without the component's own prefix; `None` of a class
    /// that the original code has not.
    ///
    /// CLIP with OpenAI's activation is transformers' own there, with the exact GELU it is
    /// OpenCLIP's: each was trained with its own.
    ///
    /// # Errors
    /// Those of the class's configuration.
    pub fn layout(&self, file: &ConfigFile) -> Result<Option<Layout>> {
        (self.layout)(&self.meant(file))
    }

    /// The class is the one that the index says, whatever the component's own file does.
    fn meant(&self, file: &ConfigFile) -> ConfigFile {
        file.clone().with("architectures", vec![self.name])
    }
}

static CLASSES: &[ComponentClass] = &[
    text("CLIPTextModel"),
    text("CLIPTextModelWithProjection"),
    model("UNet2DConditionModel", unet, |file| {
        let config = UNetConfig::new(file)?;
        Ok(Some(Layout::unet(&config, Numbering::Contiguous)))
    }),
    model(
        "AutoencoderTiny",
        |file| {
            let config = TinyVaeConfig::new(file)?;
            Ok(shapes(|device| {
                parameter_shapes(&AutoencoderTiny::new(&config, device))
            }))
        },
        |_| Ok(None),
    ),
    model(
        "AutoencoderKL",
        |file| {
            let config = VaeConfig::new(file)?;
            Ok(shapes(|device| {
                parameter_shapes(&AutoencoderKL::new(&config, device))
            }))
        },
        |file| Ok(Some(Layout::vae(&VaeConfig::new(file)?))),
    ),
];

const fn text(name: &'static str) -> ComponentClass {
    ComponentClass {
        name,
        stem: "model",
        shapes: |file| {
            let config = ClipTextConfig::from_file(file)?;
            Ok(shapes(|device| {
                parameter_shapes(&ClipTextModel::new(config, device))
            }))
        },
        layout: |file| {
            let config = ClipTextConfig::from_file(file)?;
            Ok(Some(match config.hidden_act {
                Activation::QuickGelu => Layout::clip(),
                Activation::Gelu => Layout::open_clip(&config),
            }))
        },
        within: "text_model.",
    }
}

const fn model(
    name: &'static str,
    shapes: fn(&ConfigFile) -> Result<Shapes>,
    layout: fn(&ConfigFile) -> Result<Option<Layout>>,
) -> ComponentClass {
    ComponentClass {
        name,
        stem: "diffusion_pytorch_model",
        shapes,
        layout,
        within: "",
    }
}

fn unet(file: &ConfigFile) -> Result<Shapes> {
    let config = UNetConfig::new(file)?;
    let mut shapes = shapes(|device| parameter_shapes(&UNet2DConditionModel::new(&config, device)));
    // The library's linear layer serves both kinds of projection.
    let linear = file.flag("use_linear_projection", false)?;
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
    Ok(shapes)
}

/// Of a module that is made; without values it belongs to no device yet, and naming one starts
/// nothing.
fn shapes(of: impl FnOnce(&Device) -> Shapes) -> Shapes {
    of(&Device::default())
}
