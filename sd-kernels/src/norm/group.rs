use super::apply::Factors;
use super::moments::{Moments, moments};
use crate::error::{Error, Result, check_len};
use crate::gemm::Activation;
use crate::simd::Isa;

/// The parameters of a group normalisation (Wu & He 2018, arXiv:1803.08494).
#[derive(Clone, Copy, Debug)]
pub struct GroupNorm<'a> {
    /// One factor per channel.
    pub weight: &'a [f32],
    /// One summand per channel.
    pub bias: &'a [f32],
    /// Number of groups; divides the number of channels.
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: f32,
    /// Applied to the result: SiLU in the networks' residual blocks.
    pub activation: Activation,
}

/// Normalises each group of channels over all pixels of a picture: `x` and `out` are
/// `[n, pixels, channels]`.
///
/// The result does not depend on the number of threads, and keeps its precision wherever the mean
/// lies.
///
/// # Errors
/// A slice whose length does not fit, and groups that do not divide the channels.
pub fn group_norm(
    isa: Isa,
    x: &[f32],
    n: usize,
    pixels: usize,
    norm: GroupNorm<'_>,
    out: &mut [f32],
) -> Result<()> {
    normalise(isa, x, n, pixels, None, norm, out)
}

/// [`group_norm`] that writes its result over `x`.
///
/// # Errors
/// As [`group_norm`].
pub fn group_norm_in_place(
    isa: Isa,
    x: &mut [f32],
    n: usize,
    pixels: usize,
    norm: GroupNorm<'_>,
) -> Result<()> {
    let channels = norm.weight.len();
    norm.check()?;
    check_len("the input", x.len(), &[n, pixels, channels])?;
    if x.is_empty() {
        return Ok(());
    }
    let moments = moments(isa, x, n, pixels, channels);
    for (x, moments) in x.chunks_exact_mut(pixels * channels).zip(&moments) {
        let x = x.as_mut_ptr();
        // SAFETY: `x` is borrowed exclusively.
        unsafe {
            let factors = norm.factors(moments, None);
            factors.apply(isa, x, pixels, x);
        }
    }
    Ok(())
}

/// [`group_norm`] of `x + shift`, where `shift`, `[1 or n, channels]`, is added at every pixel: a
/// residual block's time embedding, at no cost.
///
/// # Errors
/// As [`group_norm`].
pub fn group_norm_shifted(
    isa: Isa,
    x: &[f32],
    n: usize,
    pixels: usize,
    shift: &[f32],
    norm: GroupNorm<'_>,
    out: &mut [f32],
) -> Result<()> {
    normalise(isa, x, n, pixels, Some(shift), norm, out)
}

fn normalise(
    isa: Isa,
    x: &[f32],
    n: usize,
    pixels: usize,
    shift: Option<&[f32]>,
    norm: GroupNorm<'_>,
    out: &mut [f32],
) -> Result<()> {
    let channels = norm.weight.len();
    norm.check()?;
    check_len("the input", x.len(), &[n, pixels, channels])?;
    check_len("the output", out.len(), &[n, pixels, channels])?;
    if let Some(shift) = shift.filter(|shift| shift.len() != channels) {
        check_len("the shift", shift.len(), &[n, channels])?;
    }
    if x.is_empty() {
        return Ok(());
    }
    let shift = |sample: usize| match shift {
        Some(shift) if shift.len() == channels => Some(shift),
        shift => shift.map(|shift| &shift[sample * channels..][..channels]),
    };
    let moments = moments(isa, x, n, pixels, channels);
    for (sample, mut moments) in moments.into_iter().enumerate() {
        let (first, shift) = (sample * pixels * channels, shift(sample));
        if let Some(shift) = shift {
            moments.shift(shift);
        }
        let factors = norm.factors(&moments, shift);
        // SAFETY: the sample's part of the input and of the output.
        unsafe {
            let (x, out) = (x.as_ptr().add(first), out.as_mut_ptr().add(first));
            factors.apply(isa, x, pixels, out);
        }
    }
    Ok(())
}

/// [`group_norm`] of some pixels of a picture, `x`; `moments` are the whole picture's.
///
/// # Errors
/// A slice whose length does not fit, and groups that do not divide the channels.
pub fn group_norm_with(
    isa: Isa,
    x: &[f32],
    moments: &Moments,
    norm: GroupNorm<'_>,
    out: &mut [f32],
) -> Result<()> {
    let channels = norm.weight.len();
    norm.check()?;
    check_len("the moments", moments.channels(), &[channels])?;
    let pixels = x.len() / channels.max(1);
    check_len("the input", x.len(), &[pixels, channels])?;
    check_len("the output", out.len(), &[pixels, channels])?;
    if !x.is_empty() {
        let factors = norm.factors(moments, None);
        // SAFETY: both hold so many pixels, and `out` is borrowed exclusively.
        unsafe { factors.apply(isa, x.as_ptr(), pixels, out.as_mut_ptr()) };
    }
    Ok(())
}

impl GroupNorm<'_> {
    pub(crate) fn check(&self) -> Result<()> {
        let channels = self.weight.len();
        check_len("the bias", self.bias.len(), &[channels])?;
        if self.groups == 0 || !channels.is_multiple_of(self.groups) {
            return Err(Error::Dimension {
                name: "groups",
                value: self.groups,
                expected: "a divisor of the number of channels",
            });
        }
        Ok(())
    }

    /// Factors of each channel of a picture of these moments, which include `shift`.
    pub(crate) fn factors(&self, moments: &Moments, shift: Option<&[f32]>) -> Factors {
        let size = moments.channels() / self.groups;
        let deviation = |(mean, variance)| (mean, f64::sqrt(variance + f64::from(self.epsilon)));
        let groups: Vec<(f64, f64)> = moments.groups(self.groups).map(deviation).collect();
        Factors::new(moments.channels(), self.activation, |c| {
            let (mean, deviation) = groups[c / size];
            let shift = shift.map_or(0.0, |shift| f64::from(shift[c]));
            let (factor, centre) = (f64::from(self.weight[c]) / deviation, mean - shift);
            let rounding = f64::from(centre as f32) - centre;
            let summand = f64::from(self.bias[c]) + rounding * factor;
            [centre as f32, factor as f32, summand as f32]
        })
    }
}
