//! The choice among the ways to attend, measured once for a kind of shape.

use burn::tensor::Tensor;
use burn_cubecl::CubeTuneId;
use burn_cubecl::tensor::CubeTensor;
use cubecl::tune::{LocalTuner, Tunable, TunableSet, local_tuner};
use cubek::attention::forward::launch::AttentionAutotuneKey;

use super::{Attention, Whole, flash};
use crate::tensor::{cube, elem, reshaped, tensor};

/// What is measured: the tokens, and scores that may be in memory at once.
type Inputs = (Whole, usize);

impl Attention {
    pub(super) fn tuned(self) -> Tensor<3> {
        static TUNER: LocalTuner<AttentionAutotuneKey, CubeTuneId> = local_tuner!();

        let scores = self.scores;
        let whole = Whole::of(self);
        let client = whole.query.client.clone();
        let id = CubeTuneId::new(&client, &whole.query.device);
        let ways = TUNER.init(&id, ways);
        tensor(TUNER.execute(&id, &client, ways, (whole, scores)))
    }
}

/// Each works whatever the shape, for what was measured serves all shapes of its key.
fn ways() -> TunableSet<AttentionAutotuneKey, Inputs, CubeTensor> {
    let separately = |(whole, scores): Inputs| cube(whole.tokens(scores).separately());
    let first = Tunable::new("separately", move |inputs: Inputs| {
        Ok::<_, String>(separately(inputs))
    });
    let inputs = |_: &AttentionAutotuneKey, inputs: &Inputs| inputs.clone();
    let ways = TunableSet::new(key, inputs).with(first);
    flash::PLANES.into_iter().fold(ways, |ways, planes| {
        let at_once = move |inputs: Inputs| {
            let made = inputs.0.gather(flash::accelerated(planes));
            Ok::<_, String>(made.unwrap_or_else(|_| separately(inputs)))
        };
        ways.with(Tunable::new(&format!("flash of {planes} planes"), at_once))
    })
}

fn key((whole, _): &Inputs) -> AttentionAutotuneKey {
    let [n, heads, queries, width] = whole.query.meta.shape().dims();
    let keys = whole.key.meta.shape()[2];
    let dtype = elem(&whole.query);
    AttentionAutotuneKey::generate(
        dtype,
        dtype,
        dtype,
        dtype,
        n * heads,
        queries,
        width,
        keys,
        width,
        false,
    )
}

impl Whole {
    /// The tokens that the heads lie side by side in.
    fn tokens(self, scores: usize) -> Attention {
        let heads = self.query.meta.shape()[1];
        let join = |mut x: CubeTensor| {
            x.meta.swap(1, 2);
            let [n, tokens, heads, width] = x.meta.shape().dims();
            tensor(reshaped(x, [n, tokens, heads * width]))
        };
        Attention {
            query: join(self.query),
            key: join(self.key),
            value: join(self.value),
            heads,
            causal: self.causal,
            scores,
        }
    }
}
