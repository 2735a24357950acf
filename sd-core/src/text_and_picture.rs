use burn::tensor::Tensor;

use crate::{At, Conditioning, Error, Guidance, Guide, NetworkOutput, Result, Text, exactly};

/// Guidance of a network that sees a picture beside the latent, in two directions (Brooks et al.
/// 2023, arXiv:2211.09800, equation 3): towards what the prompt says and towards what the picture
/// shows.
///
/// Three branches are evaluated: the prompt with the picture, the negative prompt with the picture,
/// and the negative prompt without, that is with zeros in the picture's place. The result is
/// `u + scale·(full − picture) + picture_scale·(picture − u)` of their outputs `full`, `picture` and
/// `u`; the order is diffusers'.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TextAndPicture {
    /// Guidance scale of the text, above 1; usually 3 to 10.
    pub scale: f64,
    /// Guidance scale of the picture, from 1; usually 1 to 2. The larger it is, the nearer to the
    /// picture the result stays.
    pub picture_scale: f64,
}

impl Guidance for TextAndPicture {
    fn texts(&self) -> Vec<Text> {
        vec![Text::Prompt, Text::Negative]
    }

    fn branches(&self, texts: Vec<Conditioning>) -> Result<Vec<Conditioning>> {
        let found = texts.len();
        let Ok([full, picture]) = <[Conditioning; 2]>::try_from(texts) else {
            let expected = "expected 2: the prompt's and the negative prompt's";
            return Err(Error::invalid("conditioning", found, expected));
        };
        let mut neither = picture.clone();
        neither.concat = picture.concat.as_ref().map(Tensor::zeros_like);
        Ok(vec![full, picture, neither])
    }

    fn evaluations(&self, _step: usize, _steps: usize) -> usize {
        3
    }

    fn start(&self) -> Box<dyn Guide> {
        Box::new(*self)
    }
}

impl Guide for TextAndPicture {
    fn wanted(&self, _: &At<'_>) -> Vec<usize> {
        vec![0, 1, 2]
    }

    fn combine(&mut self, _: &At<'_>, outputs: Vec<Tensor<4>>) -> Result<NetworkOutput> {
        let [full, picture, neither] = exactly(outputs)?;
        let text = (full - picture.clone()) * self.scale;
        let guided = neither.clone() + text + (picture - neither.clone()) * self.picture_scale;
        Ok(NetworkOutput {
            guided,
            uncond: Some(neither),
        })
    }
}
