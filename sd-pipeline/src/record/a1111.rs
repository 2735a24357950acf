//! The text that A1111's webui writes into pictures and most programs read: the prompt, the negative
//! prompt and a line of settings.

use std::collections::BTreeMap;

use super::{Record, SOFTWARE};
use crate::Upscale;

const NEGATIVE: &str = "Negative prompt:";
/// Settings of a record that are kept, of which no program has a tenth.
const MOST: usize = 256;

pub(super) fn write(record: &Record) -> String {
    let mut text = record.prompt.clone();
    if let Some(negative) = record
        .negative_prompt
        .as_ref()
        .filter(|text| !text.is_empty())
    {
        text += &format!("\n{NEGATIVE} {negative}");
    }
    let size = record.width.zip(record.height);
    let number = |value: Option<f64>| value.map(|value| value.to_string());
    let hires = record.hires.as_ref();
    let settings = [
        ("Steps", record.steps.map(|steps| steps.to_string())),
        ("Sampler", record.scheduler.clone()),
        ("CFG scale", number(record.guidance_scale)),
        ("Image CFG scale", number(record.image_guidance_scale)),
        ("Seed", record.seed.map(|seed| seed.to_string())),
        (
            "Size",
            size.map(|(width, height)| format!("{width}x{height}")),
        ),
        ("Model hash", record.model_hash.clone()),
        ("Model", record.model.clone()),
        (
            "Denoising strength",
            number(hires.map(|hires| hires.strength).or(record.strength)),
        ),
        ("Hires upscale", number(hires.map(|hires| hires.factor))),
        (
            "Hires steps",
            hires
                .and_then(|hires| hires.steps)
                .map(|steps| steps.to_string()),
        ),
        (
            "Hires upscaler",
            hires.map(|hires| Upscale::a1111(&hires.upscaler).into()),
        ),
        // A1111 counts the layer that is read.
        (
            "Clip skip",
            record
                .clip_skip
                .map(|layers| layers.saturating_add(1).to_string()),
        ),
        (
            "Version",
            Some(record.software.as_deref().unwrap_or(SOFTWARE).into()),
        ),
    ];
    let settings = settings
        .into_iter()
        .filter_map(|(key, value)| Some(format!("{key}: {}", quoted(&value?))));
    let settings: Vec<String> = settings.collect();
    format!("{text}\n{}", settings.join(", "))
}

fn quoted(value: &str) -> String {
    match value.contains([',', '\n', ':']) {
        true => serde_json::Value::from(value).to_string(),
        false => value.into(),
    }
}

/// The record that such a text is; `None` where it has no line of settings, as any comment.
pub(super) fn read(text: &str) -> Option<Record> {
    let text = text.trim().replace("\r\n", "\n");
    let (prompts, last) = text.rsplit_once('\n').unwrap_or(("", &text));
    let (pairs, mut settings) = settings(last);
    if pairs < 3 {
        return None;
    }
    let (mut prompt, mut negative) = (String::new(), None::<String>);
    for line in prompts.lines().map(str::trim) {
        let first = line.strip_prefix(NEGATIVE).map(str::trim);
        let text = match first {
            Some(_) => negative.get_or_insert_default(),
            None => negative.as_mut().unwrap_or(&mut prompt),
        };
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(first.unwrap_or(line));
    }
    settings.retain(|_, value| !value.is_empty());
    let mut take = |key: &str| settings.remove(key);
    let size = take("Size");
    let [width, height] = size
        .as_ref()
        .and_then(|size| size.split_once('x'))
        .map_or([None; 2], |(width, height)| {
            [width.parse().ok(), height.parse().ok()]
        });
    let software = take("Version");
    let is_own = software
        .as_ref()
        .is_some_and(|name| name.starts_with("sd-pipeline "));
    let scheduler = match (take("Sampler"), take("Schedule type")) {
        (Some(sampler), None) => Some(sampler),
        (Some(sampler), Some(schedule)) if schedule == "Automatic" => Some(sampler),
        (Some(sampler), Some(schedule)) => Some(format!("{sampler} {schedule}")),
        (None, _) => None,
    };
    let scheduler = scheduler.map(|name| {
        if is_own {
            name
        } else {
            format!("a1111:{name}")
        }
    });
    Some(Record {
        prompt,
        negative_prompt: negative,
        steps: take("Steps").and_then(|steps| steps.parse().ok()),
        scheduler,
        guidance_scale: take("CFG scale").and_then(|scale| finite(&scale)),
        image_guidance_scale: take("Image CFG scale").and_then(|scale| finite(&scale)),
        seed: take("Seed").and_then(|seed| seed.parse().ok()),
        width,
        height,
        model_hash: take("Model hash"),
        model: take("Model"),
        strength: take("Denoising strength").and_then(|share| finite(&share)),
        software,
        further: settings,
        ..Record::default()
    })
}

fn finite(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

/// The pairs of a line by A1111's pattern: a key of two characters or more, a colon, and a quoted
/// text or all that is before the next comma. And how many there are, of which later ones may replace
/// earlier ones.
fn settings(line: &str) -> (usize, BTreeMap<String, String>) {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let in_key = |c: char| is_word(c) || matches!(c, ' ' | '-' | '/');
    let (mut count, mut pairs) = (0, BTreeMap::new());
    let mut rest = line;
    while let Some(start) = rest.find(is_word) {
        if pairs.len() == MOST {
            break;
        }
        rest = &rest[start..];
        let end = rest.find(|c| !in_key(c)).unwrap_or(rest.len());
        let (key, behind) = rest.split_at(end);
        let Some(value) = behind
            .strip_prefix(':')
            .filter(|_| key.chars().nth(1).is_some())
        else {
            // No other start in these characters would do better.
            rest = behind;
            continue;
        };
        let value = value.trim_start();
        let plain = || value.split_at(value.find(',').unwrap_or(value.len()));
        let (value, behind) = quoted_prefix(value).unwrap_or_else(plain);
        let value = serde_json::from_str::<String>(value).unwrap_or_else(|_| value.into());
        pairs.insert(key.to_owned(), value);
        count += 1;
        rest = behind;
    }
    (count, pairs)
}

/// A quoted text that a comma or the end follows, with its quotes, and what is behind it.
fn quoted_prefix(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('"')?;
    let mut escaped = false;
    let end = inner.find(|c| match c {
        _ if escaped => {
            escaped = false;
            false
        }
        '\\' => {
            escaped = true;
            false
        }
        c => c == '"',
    })?;
    let (quoted, behind) = text.split_at(end + 2);
    (end > 0 && (behind.is_empty() || behind.starts_with(','))).then_some((quoted, behind))
}
