//! The choice among the ways to attend, measured once for a kind of shape.

use burn::tensor::Tensor;
use burn_cubecl::CubeTuneId;
use burn_cubecl::tensor::CubeTensor;
use cubecl::tune::{LocalTuner, Tunable, TunableSet, TuneGroup, local_tuner};
use cubek::attention::forward::launch::AttentionAutotuneKey;

use super::{Attention, Whole, flash};
use crate::tensor::{cube, elem, tensor};

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

/// The first always works. Plain units come last: they are tried where nothing else can be launched.
fn ways() -> TunableSet<AttentionAutotuneKey, Inputs, CubeTensor> {
    const FIRST: i8 = 2;
    const LAST: i8 = 0;
    let group = TuneGroup::<AttentionAutotuneKey>::new("attention", |_| FIRST);
    let plain = TuneGroup::<AttentionAutotuneKey>::new("attention on plain units", |_| LAST);
    let separately =
        |(whole, scores): Inputs| Ok::<_, String>(cube(whole.tokens(scores).separately()));
    let mut ways = TunableSet::new(key, |_: &AttentionAutotuneKey, inputs: &Inputs| {
        inputs.clone()
    })
    .with(Tunable::new("separately", separately).group(&group, |_| FIRST));
    for planes in flash::PLANES {
        let at_once = move |(whole, _): Inputs| whole.gather(flash::accelerated(planes));
        let way = Tunable::new(&format!("flash of {planes} planes"), at_once);
        ways = ways.with(way.group(&group, |_| FIRST));
    }
    let at_once = |(whole, _): Inputs| whole.gather(flash::unit());
    ways.with(Tunable::new("flash on plain units", at_once).group(&plain, |_| LAST))
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
            tensor(crate::tensor::reshaped(x, [n, tokens, heads * width]))
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
