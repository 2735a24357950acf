//! What a program that listens to `tracing` learns of a run. Alone in its process: where several
//! threads meet a span for the first time at once, one without a listener may decide for all.

use std::sync::{Arc, Mutex};

use sd_pipeline::{Request, device};
use tracing::span::{Attributes, Id};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// Remembers each span's name and fields.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Span>>>);

type Span = (String, Vec<&'static str>);

impl<S: tracing::Subscriber> Layer<S> for Seen {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        let metadata = attributes.metadata();
        let fields = metadata.fields().iter().map(|field| field.name());
        let span = (metadata.name().to_string(), fields.collect());
        self.0.lock().unwrap().push(span);
    }
}

fn draw() {
    let pipeline = sd_tiny::pipeline(&device("flex").unwrap()).unwrap();
    let request = Request {
        steps: 2,
        ..sd_tiny::request("a red cube")
    };
    pipeline.generate(&request).unwrap();
}

#[test]
fn spans_tell_what_a_run_does() {
    let seen = Seen::default();
    let subscriber = tracing_subscriber::registry().with(seen.clone());
    tracing::subscriber::with_default(subscriber, draw);
    let seen = seen.0.lock().unwrap();
    let count = |name: &str| seen.iter().filter(|(n, _)| n == name).count();
    assert_eq!(
        ["open", "encode_text", "step", "decode"].map(count),
        [1, 1, 2, 1]
    );
    assert!(count("block") >= 6, "blocks of two evaluations");
    for name in ["step", "decode", "block"] {
        let (_, fields) = seen.iter().find(|(n, _)| n == name).unwrap();
        assert!(
            fields.contains(&"device") && fields.contains(&"shape"),
            "{name}"
        );
    }
}
