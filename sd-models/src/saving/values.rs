//! Values in another number type.

use burn::tensor::DType;
use half::slice::HalfFloatSliceExt;
use half::vec::HalfFloatVecExt;
use half::{bf16, f16};

/// Appends `values`, which are of type `from`, to `to` in the type `dtype`, rounded to nearest and
/// ties to even; gives the number of finite ones that became infinite. Both types are among f16,
/// bf16, f32 and f64, little-endian.
///
/// All goes through f32, which holds every half exactly; torch rounds f64 to a half in the same two
/// steps.
pub(super) fn convert(from: DType, values: &[u8], dtype: DType, to: &mut Vec<u8>) -> u64 {
    if from == dtype {
        to.extend_from_slice(values);
        return 0;
    }
    let mut lost = 0;
    let values: Vec<f32> = match from {
        DType::F64 => {
            let narrow = |bytes: &[u8; 8]| {
                let wide = f64::from_le_bytes(*bytes);
                let value = wide as f32;
                lost += u64::from(wide.is_finite() && value.is_infinite());
                value
            };
            values.as_chunks().0.iter().map(narrow).collect()
        }
        DType::F16 => halves(values, f16::from_le_bytes).to_f32_vec(),
        DType::BF16 => halves(values, bf16::from_le_bytes).to_f32_vec(),
        _ => {
            let values = values.as_chunks().0.iter();
            values.map(|bytes| f32::from_le_bytes(*bytes)).collect()
        }
    };
    match dtype {
        DType::F16 => {
            let narrow = Vec::<f16>::from_f32_slice(&values);
            lost += overflows(&values, &narrow, f16::is_infinite);
            to.extend(narrow.into_iter().flat_map(f16::to_le_bytes));
        }
        DType::BF16 => {
            let narrow = Vec::<bf16>::from_f32_slice(&values);
            lost += overflows(&values, &narrow, bf16::is_infinite);
            to.extend(narrow.into_iter().flat_map(bf16::to_le_bytes));
        }
        DType::F64 => to.extend(values.iter().flat_map(|x| f64::from(*x).to_le_bytes())),
        _ => to.extend(values.iter().flat_map(|x| x.to_le_bytes())),
    }
    lost
}

fn halves<T>(values: &[u8], from: impl Fn([u8; 2]) -> T) -> Vec<T> {
    values
        .as_chunks()
        .0
        .iter()
        .map(|bytes| from(*bytes))
        .collect()
}

/// Number of `wide` values that are finite and in `narrow` are not.
fn overflows<T: Copy>(wide: &[f32], narrow: &[T], is_infinite: impl Fn(T) -> bool) -> u64 {
    let pairs = wide.iter().zip(narrow);
    let lost = pairs.filter(|(wide, narrow)| wide.is_finite() && is_infinite(**narrow));
    lost.count() as u64
}
