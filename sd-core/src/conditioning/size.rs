/// Size conditioning of SDXL (Podell et al. 2023, arXiv:2307.01952, section 2.2), in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SizeConditioning {
    /// Height and width that the picture had before it was scaled for training.
    pub original: [usize; 2],
    /// Pixels cut off at the top and at the left; none is a centred subject.
    pub crop: [usize; 2],
    /// Height and width of the picture that is drawn.
    pub target: [usize; 2],
    /// Aesthetic score that the refiner takes in place of the target, about 2.5 to 6.
    pub aesthetic_score: Option<f64>,
}

impl SizeConditioning {
    /// A whole, uncropped picture of that height and width.
    pub fn of(size: [usize; 2]) -> Self {
        Self {
            original: size,
            crop: [0, 0],
            target: size,
            aesthetic_score: None,
        }
    }

    /// The numbers a network embeds: original and crop, and the score or else the target.
    pub fn numbers(&self) -> Vec<f64> {
        let [original, crop, target] = [self.original, self.crop, self.target];
        let pixels = |pair: [usize; 2]| pair.map(|side| side as f64);
        let mut numbers = [pixels(original), pixels(crop)].concat();
        match self.aesthetic_score {
            Some(score) => numbers.push(score),
            None => numbers.extend(pixels(target)),
        }
        numbers
    }
}
