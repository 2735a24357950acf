//! Kinds of pipelines that are not opened here, and what they are.

/// Beginnings of pipeline classes' names, the longer first where one begins another, and the kind
/// of model that such a folder holds.
static OTHERS: &[(&str, &str)] = &[
    (
        "StableDiffusion3",
        "Stable Diffusion 3: a transformer, no U-Net",
    ),
    (
        "StableDiffusionUpscale",
        "the ×4 upscaler, which adds to a small picture",
    ),
    (
        "StableDiffusionLatentUpscale",
        "the latent upscaler, which enlarges a latent",
    ),
    (
        "StableDiffusionDepth2Img",
        "Stable Diffusion 2 on a depth map",
    ),
    (
        "StableDiffusionImageVariation",
        "Stable Diffusion on a picture in the prompt's place",
    ),
    (
        "StableDiffusionXLControlNet",
        "an SDXL model with a ControlNet; give the model's own folder",
    ),
    (
        "StableDiffusionControlNet",
        "a model with a ControlNet; give the model's own folder",
    ),
    (
        "StableDiffusionAdapter",
        "a model with a T2I adapter; give the model's own folder",
    ),
    (
        "StableDiffusionXLAdapter",
        "an SDXL model with a T2I adapter; give the model's own folder",
    ),
    (
        "StableDiffusionGLIGEN",
        "GLIGEN, with boxes for each phrase",
    ),
    ("StableUnCLIP", "Stable unCLIP, on an embedded picture"),
    ("StableVideoDiffusion", "Stable Video Diffusion"),
    (
        "StableCascade",
        "Stable Cascade: three models, another latent",
    ),
    (
        "StableDiffusionPipelineSafe",
        "Stable Diffusion with a safety guidance",
    ),
    (
        "FlaxStableDiffusion",
        "weights for Flax; convert them to PyTorch",
    ),
    (
        "OnnxStableDiffusion",
        "an ONNX export; give the folder of the weights",
    ),
    (
        "OnnxRuntimeModel",
        "an ONNX export; give the folder of the weights",
    ),
    (
        "AltDiffusion",
        "AltDiffusion, with a multilingual text encoder",
    ),
    ("AnimateDiff", "a video model"),
    ("AuraFlow", "AuraFlow: a transformer, no U-Net"),
    ("Chroma", "Chroma: a transformer, no U-Net"),
    ("CogVideo", "a video model"),
    ("CogView", "CogView: a transformer, no U-Net"),
    ("DDIMPipeline", "a model of pixels without a prompt"),
    ("DDPMPipeline", "a model of pixels without a prompt"),
    ("DiTPipeline", "DiT: a transformer, no U-Net"),
    ("Flux", "Flux: a transformer, no U-Net"),
    ("Hunyuan", "Hunyuan: a transformer, no U-Net"),
    ("IFPipeline", "DeepFloyd IF: a model of pixels"),
    ("IFSuperResolution", "DeepFloyd IF: a model of pixels"),
    (
        "Kandinsky",
        "Kandinsky, with a prior and another autoencoder",
    ),
    ("Kolors", "Kolors: SDXL's U-Net with a ChatGLM text encoder"),
    (
        "LDMTextToImage",
        "the first latent diffusion, with a BERT text encoder",
    ),
    ("LTX", "a video model"),
    ("Lumina", "Lumina: a transformer, no U-Net"),
    ("Marigold", "Marigold: depth and normals of a picture"),
    ("PixArt", "PixArt: a transformer, no U-Net"),
    ("QwenImage", "Qwen-Image: a transformer, no U-Net"),
    ("Sana", "Sana: a transformer, no U-Net"),
    ("Wan", "a video model"),
    ("Wuerstchen", "Würstchen: another latent"),
    ("ZImage", "Z-Image: a transformer, no U-Net"),
];

/// Words on the kind of model that the pipeline class `class` is of, where that is known.
pub(super) fn kind(class: &str) -> Option<&'static str> {
    let mut others = OTHERS.iter();
    let found = others.find(|(beginning, _)| class.starts_with(beginning));
    found.map(|(_, kind)| *kind)
}
