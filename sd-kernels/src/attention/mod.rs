//! Attention that never holds more of the score matrix than one block (FlashAttention, Dao et al.
//! 2022, arXiv:2205.14135).
//!
//! Scores are computed transposed, keys down and queries across: a register then holds one key's
//! scores of neighbouring queries, the softmax's maxima and sums are taken without crossing lanes,
//! and the exponentials are already the packed right-hand matrix of the second product.

mod block;
mod pack;
mod paired;
mod single;

use crate::buffer::{LINE, Shared, with_scratch};
use crate::error::{Error, Result, check_len};
use crate::parallel::for_each;
use crate::products::Products;
use crate::simd::Isa;

use block::Queries;
use pack::{PackKeys, Packed};

/// The sizes of one attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Sequences in the batch.
    pub n: usize,
    /// Heads.
    pub heads: usize,
    /// Width of a head.
    pub head_size: usize,
    /// Tokens that ask.
    pub queries: usize,
    /// Tokens that are looked at.
    pub keys: usize,
    /// Factor of the scores; usually 1/√`head_size`.
    pub scale: f32,
    /// Query i sees the keys 0..=i alone.
    pub causal: bool,
}

impl AttentionShape {
    /// Attention without mask, scaled by 1/√`head_size`.
    pub fn new(n: usize, heads: usize, head_size: usize, queries: usize, keys: usize) -> Self {
        Self {
            n,
            heads,
            head_size,
            queries,
            keys,
            scale: 1.0 / (head_size as f32).sqrt(),
            causal: false,
        }
    }
}

/// f32 of packed keys and values held at once, for as many heads as that allows.
const PACKED: usize = 1 << 20;

/// `softmax(scale · q·kᵀ)·v` for each head: `q` `[n, queries, heads·head_size]`, `k` and `v`
/// `[n, keys, heads·head_size]`, `out` as `q`. Heads lie side by side, as linear layers write them.
///
/// # Errors
/// A slice whose length does not fit, and queries without keys.
pub fn attention(
    isa: Isa,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    shape: AttentionShape,
    out: &mut [f32],
) -> Result<()> {
    attention_by(Products::F32, isa, q, k, v, shape, out)
}

/// [`attention`] whose two products are `products`. Between those of bf16 the exponentials are powers of
/// two in 16 bits, right to 0.75 %; their sum is of these, in f32.
///
/// # Errors
/// As [`attention`].
pub fn attention_by(
    products: Products,
    isa: Isa,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    shape: AttentionShape,
    out: &mut [f32],
) -> Result<()> {
    let AttentionShape {
        n,
        heads,
        head_size,
        queries,
        keys,
        ..
    } = shape;
    check_len("the queries", q.len(), &[n, queries, heads, head_size])?;
    check_len("the keys", k.len(), &[n, keys, heads, head_size])?;
    check_len("the values", v.len(), &[n, keys, heads, head_size])?;
    check_len("the output", out.len(), &[n, queries, heads, head_size])?;
    if out.is_empty() {
        return Ok(());
    }
    if keys == 0 {
        return Err(Error::Dimension {
            name: "keys",
            value: keys,
            expected: "at least 1",
        });
    }
    let call = Call {
        q: q.as_ptr(),
        k: k.as_ptr(),
        v: v.as_ptr(),
        out: Shared(out.as_mut_ptr()),
        shape,
    };
    let products = products.on(isa);
    let packed = Packed::new(isa, products, &shape);
    let all = n * heads;
    let group = (PACKED / packed.size).clamp(1, all);
    let chunk = Queries::chunk(isa, products, head_size);
    let chunks = queries.div_ceil(chunk);
    // A tile reads whole ones of its unit's: those rows are not used.
    let beyond = products.rows(isa) * LINE;
    with_scratch(group * packed.size + beyond, |memory| {
        let memory = Shared(memory);
        for first in (0..all).step_by(group) {
            let count = group.min(all - first);
            for_each(count * packed.blocks, |task| {
                let (head, block) = (task / packed.blocks, task % packed.blocks);
                with_scratch(packed.scratch(), |scratch| {
                    // SAFETY: each head has memory of its own.
                    let to = unsafe { memory.get().add(head * packed.size) };
                    let pack = PackKeys {
                        call,
                        packed,
                        head: first + head,
                        block,
                        to,
                        scratch,
                    };
                    products.run(isa, pack);
                });
            });
            for_each(count * chunks, |task| {
                let (head, index) = (task / chunks, task % chunks);
                let size = Queries::scratch(isa, chunk, &packed);
                with_scratch(size, |scratch| {
                    let some = Queries {
                        call,
                        packed,
                        // SAFETY: inside the memory packed above.
                        from: unsafe { memory.get().add(head * packed.size) },
                        head: first + head,
                        first: index * chunk,
                        count: chunk.min(queries - index * chunk),
                        scratch,
                    };
                    products.run(isa, some);
                });
            });
        }
    });
    Ok(())
}

/// f32 of scratch memory that all threads take together, and the calling one keeps.
pub(crate) fn scratch(shape: &AttentionShape) -> usize {
    let packed = Packed::new(Isa::best(), Products::F32, shape);
    let all = shape.n * shape.heads;
    (PACKED / packed.size.max(1)).clamp(1, all.max(1)) * packed.size
}

/// Slices that one attention reads and writes, and their sizes.
#[derive(Clone, Copy)]
struct Call {
    q: *const f32,
    k: *const f32,
    v: *const f32,
    out: Shared,
    shape: AttentionShape,
}

// SAFETY: the constant pointers are read only, and tasks write queries of their own.
unsafe impl Send for Call {}
// SAFETY: as above.
unsafe impl Sync for Call {}

impl Call {
    /// f32 from one token to the next.
    fn stride(&self) -> usize {
        self.shape.heads * self.shape.head_size
    }

    /// Start of a head (counted over the batch) in a tensor of `tokens` per sequence.
    fn offset(&self, head: usize, tokens: usize) -> usize {
        let (n, head) = (head / self.shape.heads, head % self.shape.heads);
        n * tokens * self.stride() + head * self.shape.head_size
    }
}
