use burn::tensor::Tensor;

/// Memory of a [`Sampler`](crate::Sampler) or a [`Guide`](crate::Guide) in plain values, so that a
/// run can be written to disk and continued.
#[derive(Debug, Clone, Default)]
pub struct SavedState {
    /// Numbers by name.
    pub numbers: Vec<(String, f64)>,
    /// Tensors by name, `[n, c, h, w]` each: earlier model outputs, for example.
    pub tensors: Vec<(String, Tensor<4>)>,
}

/// The number that [`SavedState::at`] sets.
const INDEX: &str = "index";

impl SavedState {
    /// A state whose only content is the stage to do next, for solvers without memory.
    pub fn at(index: usize) -> Self {
        Self::default().with_number(INDEX, index as f64)
    }

    /// The stage to do next, 0 where none was saved.
    pub fn index(&self) -> usize {
        self.number(INDEX).unwrap_or(0.0) as usize
    }

    /// Adds a number.
    pub fn with_number(mut self, name: impl Into<String>, value: f64) -> Self {
        self.numbers.push((name.into(), value));
        self
    }

    /// Adds a tensor.
    pub fn with_tensor(mut self, name: impl Into<String>, value: Tensor<4>) -> Self {
        self.tensors.push((name.into(), value));
        self
    }

    /// The number of that name.
    pub fn number(&self, name: &str) -> Option<f64> {
        let found = self.numbers.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| *value)
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<4>> {
        let found = self.tensors.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.clone())
    }
}
