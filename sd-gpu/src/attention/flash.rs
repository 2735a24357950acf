//! Burn's flash attention, whose scores never leave the cube that makes them.

use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::{ElemType, FloatKind, UIntKind};
use cubek::attention::forward::definition::{
    AccumulatorPrecision, AttentionGlobalTypes, AttentionOptions,
};
use cubek::attention::forward::launch::{BlueprintStrategy, Strategy, launch_ref};
use cubek::attention::forward::routines::blackbox_accelerated::BlackboxAcceleratedStrategy;

use super::Whole;
use crate::tensor::elem;
use crate::unavailable::Unavailable;

/// Planes of a cube that are worth trying on matrix units, the likeliest first.
pub(super) const PLANES: [u8; 3] = [4, 8, 2];

/// On matrix units: fragments of f16, sums of f32.
pub(super) fn accelerated(num_planes: u8) -> Strategy {
    Strategy::BlackboxAccelerated(BlueprintStrategy::Inferred(BlackboxAcceleratedStrategy {
        num_planes,
        seq_q: 1,
        seq_kv: 1,
    }))
}

/// On plain units.
pub(super) fn unit() -> Strategy {
    Strategy::Unit(BlueprintStrategy::Inferred(()))
}

impl Whole {
    /// Tokens `[n, tokens, heads · width]`, where there is such a kernel for them.
    pub(super) fn gather(&self, way: Strategy) -> Result<CubeTensor, Unavailable> {
        let [out, side_by_side] = self.out();
        let [query, key, value] = [&self.query, &self.key, &self.value].map(Clone::clone);
        let client = query.client.clone();
        let types = AttentionGlobalTypes {
            query: elem(&query),
            key: elem(&key),
            value: elem(&value),
            // There is none.
            mask: ElemType::UInt(UIntKind::U8),
            out: elem(&out),
        };
        let options = AttentionOptions {
            causal: self.causal,
            accumulator_precision: AccumulatorPrecision::Strict(ElemType::Float(FloatKind::F32)),
        };
        let launched = launch_ref(
            way,
            &client,
            query.binding(),
            key.binding(),
            value.binding(),
            None,
            out.binding(),
            &types,
            options,
        );
        launched.map_err(Unavailable::new)?;
        Ok(side_by_side)
    }
}
