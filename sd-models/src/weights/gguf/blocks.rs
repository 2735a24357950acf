//! Encodings of values in a GGUF file.

use burn::tensor::DType;
use sd_kernels::Blocks;

/// An encoding: blocks of so many elements in so many bytes.
#[derive(Debug)]
pub(super) struct Encoding {
    /// ggml's number for it.
    id: u32,
    pub(super) name: &'static str,
    /// The type in which values are read; `None` where they are not.
    pub(super) dtype: Option<DType>,
    pub(super) elements: usize,
    pub(super) bytes: usize,
    /// The blocks of those that are read; `None` where values lie as they are.
    pub(super) blocks: Option<Blocks>,
}

/// The encoding that ggml numbers so.
pub(super) fn encoding(id: u32) -> Option<&'static Encoding> {
    ENCODINGS.iter().find(|encoding| encoding.id == id)
}

const ENCODINGS: &[Encoding] = &[
    plain(0, "F32", Some(DType::F32), 4),
    plain(1, "F16", Some(DType::F16), 2),
    quantised(2, "Q4_0", Blocks::Q4_0),
    quantised(3, "Q4_1", Blocks::Q4_1),
    quantised(6, "Q5_0", Blocks::Q5_0),
    quantised(7, "Q5_1", Blocks::Q5_1),
    quantised(8, "Q8_0", Blocks::Q8_0),
    unread(9, "Q8_1", 32, 36),
    quantised(10, "Q2_K", Blocks::Q2K),
    quantised(11, "Q3_K", Blocks::Q3K),
    quantised(12, "Q4_K", Blocks::Q4K),
    quantised(13, "Q5_K", Blocks::Q5K),
    quantised(14, "Q6_K", Blocks::Q6K),
    unread(15, "Q8_K", 256, 292),
    unread(16, "IQ2_XXS", 256, 66),
    unread(17, "IQ2_XS", 256, 74),
    unread(18, "IQ3_XXS", 256, 98),
    unread(19, "IQ1_S", 256, 50),
    unread(20, "IQ4_NL", 32, 18),
    unread(21, "IQ3_S", 256, 110),
    unread(22, "IQ2_S", 256, 82),
    unread(23, "IQ4_XS", 256, 136),
    plain(24, "I8", None, 1),
    plain(25, "I16", None, 2),
    plain(26, "I32", None, 4),
    plain(27, "I64", None, 8),
    plain(28, "F64", Some(DType::F64), 8),
    unread(29, "IQ1_M", 256, 56),
    plain(30, "BF16", Some(DType::BF16), 2),
    unread(34, "TQ1_0", 256, 54),
    unread(35, "TQ2_0", 256, 66),
    unread(39, "MXFP4", 32, 17),
];

const fn plain(id: u32, name: &'static str, dtype: Option<DType>, bytes: usize) -> Encoding {
    Encoding {
        id,
        name,
        dtype,
        elements: 1,
        bytes,
        blocks: None,
    }
}

const fn quantised(id: u32, name: &'static str, blocks: Blocks) -> Encoding {
    Encoding {
        id,
        name,
        dtype: Some(DType::F32),
        elements: blocks.elements(),
        bytes: blocks.bytes(),
        blocks: Some(blocks),
    }
}

/// A block of which only the size is known.
const fn unread(id: u32, name: &'static str, elements: usize, bytes: usize) -> Encoding {
    Encoding {
        id,
        name,
        dtype: None,
        elements,
        bytes,
        blocks: None,
    }
}
