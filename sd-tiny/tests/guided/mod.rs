//! Guiders by scale: how many prompts are still obeyed, as a table for the README.

use std::sync::Arc;

use sd_pipeline::core::Linear;
use sd_pipeline::{
    Combination, Composed, Contrast, Perturbation, Perturbed, Projected, Request, Result,
    ScaleCurve, Thresholded, ZeroStar, device,
};

use super::{PROMPTS, order};

const SCALES: [f64; 6] = [2.0, 5.0, 10.0, 15.0, 20.0, 30.0];

/// A guider's name and its guidance at a scale.
type Named = (&'static str, Box<dyn Fn(f64) -> Composed>);

fn guiders() -> Vec<Named> {
    fn combined(name: &'static str, combination: impl Combination + Clone + 'static) -> Named {
        let guidance = move |scale| Composed {
            combination: Some(Arc::new(combination.clone())),
            ..Composed::classifier_free(scale)
        };
        (name, Box::new(guidance))
    }
    fn weakened(name: &'static str, perturbation: Perturbation) -> Named {
        let guidance = move |scale| {
            let layers = vec!["mid_block".into()];
            let weak = Perturbed {
                layers,
                perturbation,
            };
            Composed {
                contrasts: vec![Contrast::perturbed(weak, scale)],
                ..Composed::prompt_alone()
            }
        };
        (name, Box::new(guidance))
    }
    let projected = Projected {
        eta: 0.0,
        momentum: -0.5,
        ..Projected::default()
    };
    let thresholded = Thresholded {
        mimic: 2.0,
        ..Thresholded::default()
    };
    let blurred = Perturbation::BlurredQueries {
        sigma: f64::INFINITY,
    };
    vec![
        combined("`cfg`", Linear),
        (
            "`--guidance-rescale 0.7`",
            Box::new(|scale| Composed {
                rescale: 0.7,
                ..Composed::classifier_free(scale)
            }),
        ),
        (
            "`--guidance-interval 0.1,0.8`",
            Box::new(|scale| Composed {
                interval: 0.1..0.8,
                ..Composed::classifier_free(scale)
            }),
        ),
        (
            "`schedule:shape=cosine`",
            Box::new(|scale| Composed::classifier_free(ScaleCurve::Cosine(scale, 1.0))),
        ),
        combined("`apg:eta=0,momentum=-0.5`", projected),
        combined("`cfg-zero`", ZeroStar::default()),
        combined("`threshold:mimic=2`", thresholded),
        weakened("`pag:scale=`", Perturbation::IdentityAttention),
        weakened("`seg:scale=`", blurred),
        weakened("`slg:scale=`", Perturbation::Skipped),
    ]
}

/// `cargo test --release --workspace --test obedience guiders -- --ignored --nocapture`.
#[test]
#[ignore = "takes minutes"]
fn guiders_obey_by_scale() -> Result<()> {
    let pipeline = sd_tiny::pipeline(&device("flex")?)?;
    println!(
        "| of {} | {} |",
        PROMPTS.len(),
        SCALES.map(|s| s.to_string()).join(" | ")
    );
    println!("|---{}|", "|---".repeat(SCALES.len()));
    for (name, guidance) in guiders() {
        let mut right = [0; SCALES.len()];
        for (right, scale) in right.iter_mut().zip(SCALES) {
            for (seed, (prompt, axis, expected)) in PROMPTS.into_iter().enumerate() {
                let request = Request {
                    seed: seed as u64,
                    guidance: Some(Arc::new(guidance(scale))),
                    ..sd_tiny::request(prompt)
                };
                let picture = &pipeline.generate(&request)?[0];
                let found = order(picture.as_raw(), picture.width() as usize, axis);
                *right += usize::from(found == Some(expected));
            }
        }
        println!("| {name} | {} |", right.map(|n| n.to_string()).join(" | "));
        // At the scale that the model was made for, none of them may spoil it.
        assert!(right[0] >= 23, "{name}: {} at {}", right[0], SCALES[0]);
    }
    Ok(())
}
