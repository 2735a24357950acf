use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{FloatDType, Tensor};
use sd_core::{
    Conditioning, Denoiser, Error, Held, NetworkOutput, PredictionType, Result, TextEncoder,
};

use crate::devices::to_device;
use crate::guard::guard;
use crate::memory::{DENOISE, Phases, TEXT, hold};
use crate::synchronized::synchronized;

/// A denoiser with its conditioning, and classifier-free guidance around them.
pub(crate) struct Guidance {
    denoiser: Arc<dyn Denoiser>,
    /// `[uncond; cond]` when guidance is on, else `cond` alone.
    conditioning: Conditioning,
    /// `None` when guidance is off.
    scale: Option<f64>,
    /// Keeps the denoiser loaded.
    held: Mutex<Option<Held>>,
}

impl Guidance {
    /// Encodes the prompts and prepares the denoiser for `count` images. Also gives the text that
    /// did not fit, of the prompt and of the negative prompt.
    pub(crate) fn new(
        text_encoder: &dyn TextEncoder,
        denoiser: Arc<dyn Denoiser>,
        [prompt, negative]: [&str; 2],
        scale: f64,
        count: usize,
        phases: &Phases,
    ) -> crate::Result<(Self, Vec<String>)> {
        let scale = (scale > 1.0).then_some(scale);
        let prompts = match scale {
            Some(_) => vec![negative, prompt],
            None => vec![prompt],
        };
        let text = phases.watch(TEXT, || {
            let _held = hold(text_encoder.resident())?;
            guard("the text encoder", || text_encoder.encode(&prompts))
        })?;
        let (spec, rows) = (denoiser.spec(), prompts.len());
        let found = text.tokens.dims();
        if found[0] != rows || found[2] != spec.context_width {
            let expected = format!(
                "[{rows}, tokens, {}], what the denoiser takes",
                spec.context_width
            );
            return Err(Error::shape("the text embedding", &found, expected).into());
        }
        let cut = text.cut.iter().flatten().cloned().collect();
        // Through f32 on its own device: the denoiser's may lack the encoder's precision.
        let own = text.tokens.device();
        let mut text = Conditioning::from(text).to(&own, FloatDType::F32);
        synchronized(&[&own, &spec.device], "moving the text embedding", || {
            text.context = to_device(text.context.clone(), &spec.device)?;
            let pooled = text.pooled.take();
            text.pooled = pooled.map(|p| to_device(p, &spec.device)).transpose()?;
            Ok(())
        })?;
        let text = text.to(&spec.device, spec.dtype);
        // [uncond, cond] becomes [uncond × count, cond × count].
        let conditioning = match scale {
            Some(_) => repeat(&text, 0, count).concat(repeat(&text, 1, count))?,
            None => repeat(&text, 0, count),
        };
        let (held, conditioning) = phases.watch(DENOISE, || -> Result<_> {
            let held = hold(denoiser.resident())?;
            let prepared = guard("the denoiser", || denoiser.prepare(conditioning))?;
            Ok((held, prepared))
        })?;
        let guidance = Self {
            denoiser,
            conditioning,
            scale,
            held: Mutex::new(Some(held)),
        };
        Ok((guidance, cut))
    }

    /// Lets go of the denoiser until it is asked again.
    pub(crate) fn release(&self) {
        let held = self
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(held);
    }

    fn hold(&self) -> Result<()> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_none() {
            *held = Some(hold(self.denoiser.resident())?);
        }
        Ok(())
    }

    pub(crate) fn prediction_type(&self) -> PredictionType {
        self.denoiser.spec().prediction
    }

    /// The guided network output for `x` `[count, c, h, w]`, f32 in and out, in one evaluation.
    pub(crate) fn evaluate(&self, x: Tensor<4>, t: f64) -> Result<NetworkOutput> {
        self.hold()?;
        let x = x.cast(self.denoiser.spec().dtype);
        let predict = |x: Tensor<4>| -> Result<Tensor<4>> {
            guard("the denoiser", || {
                let output = self.denoiser.predict(x, t, &self.conditioning)?;
                Ok(output.cast(FloatDType::F32))
            })
        };
        let Some(scale) = self.scale else {
            return Ok(NetworkOutput {
                guided: predict(x)?,
                uncond: None,
            });
        };
        let count = x.dims()[0];
        let output = predict(Tensor::cat(vec![x.clone(), x], 0))?;
        let uncond = output.clone().narrow(0, 0, count);
        let cond = output.narrow(0, count, count);
        Ok(NetworkOutput {
            guided: uncond.clone() + (cond - uncond.clone()) * scale,
            uncond: Some(uncond),
        })
    }
}

/// Row `row` of `text`, `count` times.
fn repeat(text: &Conditioning, row: usize, count: usize) -> Conditioning {
    let vector = |t: &Tensor<2>| t.clone().narrow(0, row, 1).repeat_dim(0, count);
    let mut repeated =
        Conditioning::new(text.context.clone().narrow(0, row, 1).repeat_dim(0, count));
    repeated.pooled = text.pooled.as_ref().map(vector);
    repeated.extra = text.extra.as_ref().map(vector);
    repeated
}
