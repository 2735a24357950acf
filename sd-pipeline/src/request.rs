use burn::tensor::Tensor;
use sd_core::{AutoencoderSpec, DenoiserSpec, Error};

/// What to draw.
///
/// ```
/// use sd_pipeline::Request;
///
/// let request = Request {
///     negative_prompt: "blurry".into(),
///     seed: 7,
///     ..Request::new("a red cube on top of a blue sphere")
/// };
/// ```
#[derive(Debug, Clone)]
pub struct Request {
    /// What the picture should show.
    pub prompt: String,
    /// What it should not show: the text of the unconditional branch, usually empty.
    pub negative_prompt: String,
    /// Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598): how far to go beyond the
    /// unconditional prediction. At 1 or below it is off, and only the prompt is evaluated.
    pub guidance_scale: f64,
    /// Steps of the scheduler.
    pub steps: usize,
    /// Picture width in pixels, a multiple of the autoencoder's factor (8). `None`: what the
    /// model was trained at.
    pub width: Option<usize>,
    /// Picture height, likewise.
    pub height: Option<usize>,
    /// Seed of the first image; image `k` uses `seed + k`.
    pub seed: u64,
    /// How many images to draw at once. Memory grows with it.
    pub count: usize,
    /// Initial noise `[count, c, height/8, width/8]` of unit variance, instead of the seed's.
    pub latents: Option<Tensor<4>>,
}

/// No side of a picture may be longer, in pixels.
const MAX_SIDE: usize = 16_384;
/// No run may have more pixels in all its pictures together.
const MAX_PIXELS: usize = 1 << 28;

impl Request {
    /// One image of `prompt` with diffusers' defaults: 50 steps, guidance 7.5, seed 0, the size
    /// the model was trained at.
    pub fn new(prompt: impl Into<String>) -> Self {
        Self {
            prompt: prompt.into(),
            negative_prompt: String::new(),
            guidance_scale: 7.5,
            steps: 50,
            width: None,
            height: None,
            seed: 0,
            count: 1,
            latents: None,
        }
    }

    /// The shape `[count, c, h, w]` of this request's latents, after checking every number in it.
    pub(crate) fn latent_shape(
        &self,
        denoiser: &DenoiserSpec,
        autoencoder: &AutoencoderSpec,
    ) -> sd_core::Result<[usize; 4]> {
        if !self.guidance_scale.is_finite() {
            let expected = "expected a finite number, usually 1 to 15";
            let value = self.guidance_scale;
            return Err(Error::invalid("guidance_scale", value, expected));
        }
        if self.count == 0 {
            return Err(Error::invalid("count", 0, "expected at least 1 image"));
        }
        let factor = autoencoder.factor;
        let [h, w] = denoiser.sample_size;
        let height = side("height", self.height.unwrap_or(h * factor), factor)?;
        let width = side("width", self.width.unwrap_or(w * factor), factor)?;
        if self.count.saturating_mul(width * height) > MAX_PIXELS {
            let expected = format!(
                "at {width}x{height} pixels at most {} at once",
                MAX_PIXELS / (width * height)
            );
            return Err(Error::invalid("count", self.count, expected));
        }
        let channels = denoiser.latent_channels;
        let shape = [self.count, channels, height / factor, width / factor];
        if let Some(latents) = &self.latents
            && latents.dims() != shape
        {
            let expected = format!("{shape:?}: [count, channels, height/{factor}, width/{factor}]");
            return Err(Error::shape("latents", &latents.dims(), expected));
        }
        Ok(shape)
    }
}

fn side(name: &'static str, pixels: usize, factor: usize) -> sd_core::Result<usize> {
    if pixels == 0 || !pixels.is_multiple_of(factor) || pixels > MAX_SIDE {
        let expected = format!("expected a multiple of {factor} from {factor} to {MAX_SIDE}");
        return Err(Error::invalid(name, pixels, expected));
    }
    Ok(pixels)
}
