use std::sync::Arc;

use burn::tensor::Tensor;

use crate::{
    Cancel, Conditioning, Denoiser, DenoiserSpec, Error, Network, NoiseSchedule, Result,
    SavedState, SecondNetwork,
};

/// A denoiser with a second one beside it, which evaluates the branches that say so
/// ([`SecondNetwork`]): what autoguidance takes (Karras et al. 2024, arXiv:2406.02507).
///
/// To all others it is the first one.
pub struct DenoiserPair {
    first: Arc<dyn Denoiser>,
    second: Arc<dyn Denoiser>,
}

impl DenoiserPair {
    /// A pair of denoisers of the same latents, texts and outputs, on one device in one precision.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when they differ in one of these.
    pub fn new(first: Arc<dyn Denoiser>, second: Arc<dyn Denoiser>) -> Result<Self> {
        let (a, b) = (first.spec(), second.spec());
        let same = [
            (
                a.parameterization == b.parameterization,
                "the meaning of their outputs",
            ),
            (a.latent_channels == b.latent_channels, "latent channels"),
            (
                a.concat_channels == b.concat_channels,
                "channels beside the latent",
            ),
            (
                a.context_width == b.context_width,
                "the width of the text's tokens",
            ),
            (a.device == b.device, "the device"),
            (a.dtype == b.dtype, "the precision"),
        ];
        match same.iter().find(|(same, _)| !same) {
            Some((_, what)) => Err(Error::Unsupported(format!(
                "a pair of denoisers that differ in {what}"
            ))),
            None => Ok(Self { first, second }),
        }
    }
}

impl Denoiser for DenoiserPair {
    fn spec(&self) -> &DenoiserSpec {
        self.first.spec()
    }

    fn schedule(&self, latent: [usize; 2]) -> Result<Arc<NoiseSchedule>> {
        self.first.schedule(latent)
    }

    fn prepare(self: Arc<Self>, branches: Vec<Conditioning>) -> Result<Box<dyn Network>> {
        let (mut places, mut parts) = (Vec::new(), [Vec::new(), Vec::new()]);
        for mut branch in branches {
            let network = usize::from(branch.extensions.take::<SecondNetwork>().is_some());
            places.push((network, parts[network].len()));
            parts[network].push(branch);
        }
        let [first, second] = parts;
        let prepared = |denoiser: &Arc<dyn Denoiser>, branches: Vec<Conditioning>| {
            let any = !branches.is_empty();
            any.then(|| denoiser.clone().prepare(branches)).transpose()
        };
        Ok(Box::new(PreparedPair {
            networks: [
                prepared(&self.first, first)?,
                prepared(&self.second, second)?,
            ],
            places,
        }))
    }
}

struct PreparedPair {
    networks: [Option<Box<dyn Network>>; 2],
    /// Of each branch, its network and its number there.
    places: Vec<(usize, usize)>,
}

/// Names in a saved state are the second network's behind this.
const SECOND: &str = "second.";

impl Network for PreparedPair {
    fn predict(
        &self,
        x: &Tensor<4>,
        t: f64,
        branches: &[usize],
        cancel: &Cancel,
    ) -> Result<Vec<Tensor<4>>> {
        let place = |branch: &usize| {
            self.places.get(*branch).copied().ok_or_else(|| {
                let expected = format!("expected less than {}", self.places.len());
                Error::invalid("branch", branch, expected)
            })
        };
        let places = branches.iter().map(place).collect::<Result<Vec<_>>>()?;
        let mut outputs = Vec::new();
        // Neighbours in one network go together.
        for group in places.chunk_by(|a, b| a.0 == b.0) {
            let own: Vec<usize> = group.iter().map(|(_, branch)| *branch).collect();
            let (network, _) = group[0];
            if let Some(network) = &self.networks[network] {
                outputs.extend(network.predict(x, t, &own, cancel)?);
            }
        }
        Ok(outputs)
    }

    fn save(&self) -> SavedState {
        let [first, second] = &self.networks;
        let saved = |network: &Option<Box<dyn Network>>| {
            network
                .as_ref()
                .map(|network| network.save())
                .unwrap_or_default()
        };
        let (mut state, second) = (saved(first), saved(second));
        let named = |name: String| format!("{SECOND}{name}");
        state
            .numbers
            .extend(second.numbers.into_iter().map(|(name, v)| (named(name), v)));
        state
            .tensors
            .extend(second.tensors.into_iter().map(|(name, v)| (named(name), v)));
        state
    }

    fn restore(&self, state: &SavedState) -> Result<()> {
        let mut parts = [SavedState::default(), SavedState::default()];
        let own = |name: &str| match name.strip_prefix(SECOND) {
            Some(name) => (1, name.to_string()),
            None => (0, name.to_string()),
        };
        for (name, value) in &state.numbers {
            let (part, name) = own(name);
            parts[part].numbers.push((name, *value));
        }
        for (name, value) in &state.tensors {
            let (part, name) = own(name);
            parts[part].tensors.push((name, value.clone()));
        }
        for (network, state) in self.networks.iter().zip(&parts) {
            if let Some(network) = network {
                network.restore(state)?;
            }
        }
        Ok(())
    }
}
