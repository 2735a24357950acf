/// Bytes of weights, by how they are held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct WeightBytes {
    /// As tensors of the device.
    pub plain: u64,
    /// Laid out for the CPU kernels.
    pub packed: u64,
}

impl WeightBytes {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.plain + self.packed
    }
}

impl std::ops::Add for WeightBytes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            plain: self.plain + other.plain,
            packed: self.packed + other.packed,
        }
    }
}
