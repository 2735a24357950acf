//! Values that are NaN or infinite, found where they first appear.
//!
//! A device adds the values up and gives one number, once a step, when it is waited for anyway:
//! microseconds for latents and embeddings, and a few bytes where the device is another machine's.

use burn::tensor::{FloatDType, Tensor};
use sd_core::{Error, Result};

/// A number that is finite just when all of `values` are, `[1]`.
#[derive(Debug, Clone)]
pub(crate) struct Witness(Tensor<1>);

impl Witness {
    pub(crate) fn of<const D: usize>(values: &Tensor<D>) -> Self {
        // So small that no number of finite values can add up to an infinite one.
        let parts = values.clone().cast(FloatDType::F32) * 2f32.powi(-64);
        Self(parts.sum())
    }

    /// The first of `witnesses`, all on one device, to values that are not all finite.
    pub(crate) fn first_bad(witnesses: impl IntoIterator<Item = Self>) -> Result<Option<usize>> {
        let sums: Vec<_> = witnesses.into_iter().map(|Self(sum)| sum).collect();
        if sums.is_empty() {
            return Ok(None);
        }
        let sums = Tensor::cat(sums, 0).try_into_vec_as::<f32>();
        let sums = sums.map_err(|e| Error::backend("looking for NaN", e))?;
        Ok(sums.iter().position(|sum| !sum.is_finite()))
    }
}

/// `true` when all of `values` are finite.
pub(crate) fn is_finite<const D: usize>(values: &Tensor<D>) -> Result<bool> {
    Ok(Witness::first_bad([Witness::of(values)])?.is_none())
}

/// Refuses the argument `name` when one of `values` is not finite.
pub(crate) fn require<const D: usize>(name: &'static str, values: &Tensor<D>) -> Result<()> {
    match is_finite(values)? {
        true => Ok(()),
        false => Err(Error::invalid(
            name,
            "NaN or infinite in places",
            "expected finite numbers",
        )),
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, TensorData};

    use super::*;

    fn tensor(values: &[f32], dtype: DType) -> Tensor<1> {
        let data = TensorData::new(values.to_vec(), [values.len()]);
        Tensor::from_data(data, (&Device::flex(), dtype))
    }

    #[test]
    fn one_bad_value_shows_and_large_ones_do_not() {
        let large = vec![f32::MAX; 100_000];
        assert!(is_finite(&tensor(&large, DType::F32)).unwrap());
        assert!(is_finite(&tensor(&[65504.0; 1000], DType::F16)).unwrap());
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                for place in [0, 500, 999] {
                    let mut values = [1.0; 1000];
                    values[place] = bad;
                    assert!(
                        !is_finite(&tensor(&values, dtype)).unwrap(),
                        "{bad} {dtype:?}"
                    );
                }
            }
        }
        // Infinities of both signs do not cancel.
        let both = [f32::INFINITY, f32::NEG_INFINITY];
        assert!(!is_finite(&tensor(&both, DType::F32)).unwrap());
    }

    #[test]
    fn the_first_bad_one_is_found() {
        let good = || Witness::of(&tensor(&[1.0, 2.0], DType::F32));
        let bad = || Witness::of(&tensor(&[1.0, f32::NAN], DType::F32));
        assert_eq!(Witness::first_bad([]).unwrap(), None);
        assert_eq!(Witness::first_bad([good(), good()]).unwrap(), None);
        assert_eq!(Witness::first_bad([good(), bad(), bad()]).unwrap(), Some(1));
    }
}
