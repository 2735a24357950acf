//! The grammars against the programs they are of: `fixtures/gen/prompts_parse.py`.

use sd_prompts::{Weighted, a1111, comfyui, compel};
use serde::Deserialize;

fn cases<T: for<'de> Deserialize<'de>>(json: &str) -> Vec<T> {
    let cases: Vec<T> = serde_json::from_str(json).unwrap();
    assert!(cases.len() >= 500, "{}", cases.len());
    cases
}

/// Equal pieces; a number read from JSON may be off in its last bit.
fn same(found: &[(String, f64)], expected: &[(String, f64)]) -> bool {
    let mut both = found.iter().zip(expected);
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-14 * b.abs();
    found.len() == expected.len() && both.all(|(a, b)| a.0 == b.0 && close(a.1, b.1))
}

fn pairs(pieces: Vec<Weighted>) -> Vec<(String, f64)> {
    let pieces = pieces.into_iter();
    pieces.map(|piece| (piece.text, piece.weight)).collect()
}

#[derive(Deserialize)]
struct A1111 {
    text: String,
    /// All that A1111's parser makes of it; where it raises, `None`.
    schedules: Vec<Option<Vec<(usize, String)>>>,
    parts: Vec<(String, f64)>,
    weights: Option<Vec<(String, f64)>>,
}

#[test]
fn a1111_is_read_as_by_itself() {
    let cases: Vec<A1111> = cases(include_str!("../../fixtures/data/prompts/a1111.json"));
    let mut scheduled = 0;
    for case in cases {
        let text = &case.text;
        let found = a1111::schedule(text, 10, 0).ok().map(|timed| {
            let timed = timed.into_iter().map(|timed| (timed.end, timed.text));
            timed.collect::<Vec<_>>()
        });
        scheduled += usize::from(found.as_ref().is_some_and(|timed| timed.len() > 1));
        let all = &case.schedules;
        assert!(
            all.contains(&found),
            "{text:?}: {found:?}, expected {all:?}"
        );
        let found = pairs(a1111::parts(text).unwrap());
        assert!(same(&found, &case.parts), "{text:?}: {found:?}");
        let found = a1111::weights(text).ok().map(pairs);
        let (found, expected) = (found.as_deref(), case.weights.as_deref());
        let is_same = match (found, expected) {
            (Some(found), Some(expected)) => same(found, expected),
            (found, expected) => found == expected,
        };
        assert!(is_same, "{text:?}: {found:?}, expected {expected:?}");
    }
    assert!(scheduled > 100, "{scheduled}");
}

#[derive(Deserialize)]
struct ComfyUi {
    text: String,
    weights: Vec<(String, f64)>,
}

#[test]
fn comfyui_is_read_as_by_itself() {
    let cases: Vec<ComfyUi> = cases(include_str!("../../fixtures/data/prompts/comfyui.json"));
    for ComfyUi { text, weights } in cases {
        let found = pairs(comfyui::weights(&text).unwrap());
        assert!(same(&found, &weights), "{text:?}: {found:?}");
    }
}

#[derive(Deserialize)]
struct CompelCase {
    text: String,
    /// Weights and parts, where compel reads it.
    weights: Option<Vec<f64>>,
    parts: Option<Vec<CompelPart>>,
    loras: Option<usize>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum CompelPart {
    /// `.swap()`, which is not read here.
    Swap(#[expect(dead_code)] String),
    Text(Vec<(String, f64)>),
    Blend {
        normalize: bool,
        weights: Vec<f64>,
        prompts: Vec<Vec<(String, f64)>>,
    },
}

#[test]
fn compel_is_read_as_by_itself() {
    let cases: Vec<CompelCase> = cases(include_str!("../../fixtures/data/prompts/compel.json"));
    let mut refused = 0;
    for case in cases {
        let text = &case.text;
        let found = compel::parts(text);
        let parts = case.parts.unwrap_or_default();
        let unread = |part: &CompelPart| matches!(part, CompelPart::Swap(_));
        if parts.is_empty() || parts.iter().any(unread) || case.loras != Some(0) {
            refused += 1;
            assert!(found.is_err(), "{text:?}: {found:?}");
            continue;
        }
        let found = found.unwrap_or_else(|e| panic!("{text:?}: {e}"));
        let weights: Vec<f64> = found.iter().map(|part| part.weight).collect();
        assert_eq!(Some(weights), case.weights, "{text:?}");
        assert_eq!(found.len(), parts.len(), "{text:?}");
        for (found, part) in found.into_iter().zip(parts) {
            match (found.content, part) {
                (compel::Content::Text(found), CompelPart::Text(part)) => {
                    let found = pairs(found);
                    assert!(same(&found, &part), "{text:?}: {found:?}");
                }
                (
                    compel::Content::Blend { texts, normalizes },
                    CompelPart::Blend {
                        normalize,
                        weights,
                        prompts,
                    },
                ) => {
                    let (own, texts): (Vec<f64>, Vec<_>) = texts.into_iter().unzip();
                    let texts: Vec<_> = texts.into_iter().map(pairs).collect();
                    let expected = (normalize, weights, prompts);
                    assert_eq!((normalizes, own, texts), expected, "{text:?}");
                }
                (found, _) => panic!("{text:?}: {found:?}"),
            }
        }
    }
    assert!(refused > 0);
}

const SIGNS: &[&str] = &[
    "(", ")", "[", "]", ":", "|", "\\", "+", "-", "\"", ",", ".", "1.2", "5", "a", " ", "\n", "é",
    " AND ", " BREAK ", "#", "<a:b>", ".blend(", ".and(", ".swap(",
];

proptest::proptest! {
    #[test]
    fn any_text_is_read_or_refused_at_a_place_in_it(
        signs in proptest::collection::vec(proptest::sample::select(SIGNS), 0..60),
        steps in 0..9_usize,
    ) {
        let text = signs.concat();
        let errors = [
            a1111::without_comments(&text).err(),
            a1111::parts(&text).err(),
            a1111::schedule(&text, steps, 0).err(),
            a1111::weights(&text).err(),
            comfyui::weights(&text).err(),
            compel::parts(&text).err(),
        ];
        for error in errors.into_iter().flatten() {
            let rest: String = text.chars().skip(error.position).collect();
            proptest::prop_assert!(rest.starts_with(&error.found), "{text:?}: {error}");
        }
    }
}
