use crate::buffer::Shared;
use crate::error::{Result, check_len, check_option};
use crate::gemm::{Activation, Gate, Order, PackedMatrix, Rows, Store, product, product_whole};
use crate::simd::Isa;
use crate::weight::{Packing, WeightRows, WeightStorage};

/// Last part of a layer, applied to its sums: `activation(sum + bias) + residual`, or what of it is
/// above zero.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// One value per output channel.
    pub bias: Option<&'a [f32]>,
    /// Applied after the bias.
    pub activation: Activation,
    /// Added last; laid out as the output.
    pub residual: Option<&'a [f32]>,
    /// `true` when results below zero become zero behind all of that (ReLU). NaN stays NaN.
    pub rectified: bool,
}

pub(crate) fn pointer(x: Option<&[f32]>) -> *const f32 {
    x.map_or(std::ptr::null(), <[f32]>::as_ptr)
}

/// `out = activation(x·Wᵀ + bias) + residual`: `x` `[rows, inputs]`, `out` `[rows, outputs]`.
///
/// # Errors
/// A slice whose length does not fit the weight's size.
pub fn linear(
    x: &[f32],
    rows: usize,
    weight: &PackedMatrix,
    epilogue: Epilogue<'_>,
    out: &mut [f32],
) -> Result<()> {
    let (inputs, outputs) = (weight.depth(), weight.columns());
    check_len("the input", x.len(), &[rows, inputs])?;
    check_len("the output", out.len(), &[rows, outputs])?;
    check_option("the bias", epilogue.bias, &[outputs])?;
    check_option("the residual", epilogue.residual, &[rows, outputs])?;
    let source = Rows {
        data: x.as_ptr(),
        stride: inputs,
        depth: inputs,
    };
    let store = Store {
        out: Shared(out.as_mut_ptr()),
        stride: outputs,
        columns: outputs,
        accumulate: false,
        last: true,
        bias: pointer(epilogue.bias),
        residual: pointer(epilogue.residual),
        activation: epilogue.activation,
        rectified: epilogue.rectified,
    };
    if rows > 0 && outputs > 0 {
        product(rows, source, weight, store);
    }
    Ok(())
}

/// A gated linear layer's weight, packed for [`geglu`].
#[derive(Clone, Debug)]
pub struct PackedGeglu {
    matrix: PackedMatrix,
    columns: usize,
}

impl PackedGeglu {
    /// Packs `weight`, `[2·columns, inputs]`: the values' rows, then the gates'.
    ///
    /// # Errors
    /// A `weight` of another size.
    pub fn new(isa: Isa, weight: &[f32], columns: usize, inputs: usize) -> Result<Self> {
        check_len("the weight", weight.len(), &[2, columns, inputs])?;
        Self::read(isa, weight, columns, inputs, WeightStorage::F32)
    }

    /// Reads and packs such a weight.
    ///
    /// # Errors
    /// Those of reading; a size that no memory holds.
    pub fn read<W: WeightRows + ?Sized>(
        isa: Isa,
        weight: &W,
        columns: usize,
        inputs: usize,
        packing: impl Into<Packing>,
    ) -> Result<Self, W::Error> {
        let matrix = PackedMatrix::gated(isa, weight, columns, inputs, packing)?;
        Ok(Self { matrix, columns })
    }

    /// Memory that such a packed `weight` will take, in bytes. It is read only where int8 is asked for.
    ///
    /// # Errors
    /// Those of reading.
    pub fn bytes_of<W: WeightRows + ?Sized>(
        isa: Isa,
        weight: &W,
        columns: usize,
        inputs: usize,
        packing: impl Into<Packing>,
    ) -> Result<usize, W::Error> {
        let lanes = isa.lanes();
        let padded = columns.div_ceil(lanes) * 2 * lanes;
        let size = [2 * columns, inputs];
        let (held, _) = packing.into().of(weight, Order::AsStored, size)?;
        Ok(PackedMatrix::held_bytes(isa, padded, inputs, held))
    }

    /// Number of outputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Memory it takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.matrix.bytes()
    }
}

/// GEGLU: `out = (x·Wᵥᵀ + bᵥ) · gelu(x·W_gᵀ + b_g)`, with the exact GELU.
///
/// `x` is `[rows, inputs]`, `out` `[rows, columns]`; `weight` was packed by [`PackedGeglu::new`].
/// `beside`, `[rows, 2·columns]`, is added to both products, the values' first.
///
/// # Errors
/// A slice whose length does not fit the weight's size.
pub fn geglu(
    x: &[f32],
    rows: usize,
    weight: &PackedGeglu,
    bias: Option<&[f32]>,
    beside: Option<&[f32]>,
    out: &mut [f32],
) -> Result<()> {
    let (inputs, columns) = (weight.matrix.depth(), weight.columns);
    check_len("the input", x.len(), &[rows, inputs])?;
    check_len("the output", out.len(), &[rows, columns])?;
    check_option("the bias", bias, &[2, columns])?;
    check_option("what is beside", beside, &[rows, 2, columns])?;
    let source = Rows {
        data: x.as_ptr(),
        stride: inputs,
        depth: inputs,
    };
    let gate = Gate {
        out: Shared(out.as_mut_ptr()),
        columns,
        bias: pointer(bias),
        beside: pointer(beside),
    };
    if rows > 0 && columns > 0 {
        product_whole(rows, source, &weight.matrix, gate);
    }
    Ok(())
}
