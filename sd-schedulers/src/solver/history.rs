use std::collections::VecDeque;

use burn::tensor::Tensor;
use sd_core::{Error, Result, SavedState};

/// The last few model outputs of a run, newest first: a multistep solver's memory.
#[derive(Debug)]
pub(crate) struct History {
    outputs: VecDeque<Tensor<4>>,
    keep: usize,
}

impl History {
    /// An empty memory of up to `keep` outputs.
    pub(crate) fn new(keep: usize) -> Self {
        Self {
            outputs: VecDeque::with_capacity(keep + 1),
            keep,
        }
    }

    /// Remembers `output` and forgets what is too old.
    pub(crate) fn push(&mut self, output: Tensor<4>) {
        self.outputs.push_front(output);
        self.outputs.truncate(self.keep);
    }

    /// Puts `output` in the newest one's place.
    pub(crate) fn replace_newest(&mut self, output: Tensor<4>) {
        self.outputs.pop_front();
        self.outputs.push_front(output);
    }

    /// Number of outputs that are remembered.
    pub(crate) fn len(&self) -> usize {
        self.outputs.len()
    }

    /// The output `age` pushes ago, 0 the newest. `age` must be below [`Self::len`].
    pub(crate) fn get(&self, age: usize) -> Tensor<4> {
        self.outputs[age].clone()
    }

    /// Adds the outputs to `state`.
    pub(crate) fn save(&self, state: SavedState) -> SavedState {
        let named = self.outputs.iter().enumerate();
        named.fold(state, |state, (age, output)| {
            state.with_tensor(format!("history.{age}"), output.clone())
        })
    }

    /// The outputs that [`save`](Self::save) put into `state`.
    pub(crate) fn restore(&mut self, state: &SavedState) -> Result<()> {
        self.outputs = (0..)
            .map_while(|age| state.tensor(&format!("history.{age}")))
            .collect();
        if self.outputs.len() > self.keep {
            return Err(Error::SavedState(format!(
                "it holds {} model outputs, this solver keeps {}",
                self.outputs.len(),
                self.keep
            )));
        }
        Ok(())
    }
}
