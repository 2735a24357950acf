//! Mutations of valid files that know their structure, each from a seed.

use serde_json::{Map, Value, json};

/// Random numbers (Steele et al. 2014, SplitMix64).
pub(crate) struct Random(u64);

impl Random {
    /// Those of case `case` of `seed`.
    pub(crate) fn new(seed: u64, case: u64) -> Self {
        let mut random = Self(seed);
        random.0 = random.next().wrapping_add(case);
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A JSON file with some of its values, keys or bytes changed.
pub(crate) fn json(file: &[u8], random: &mut Random) -> Vec<u8> {
    let changed = match serde_json::from_slice(file) {
        Ok(value) => values(value, random).to_string().into_bytes(),
        Err(_) => file.to_vec(),
    };
    sometimes_bytes(changed, random)
}

/// A safetensors file with a changed header, length or data.
pub(crate) fn safetensors(file: &[u8], random: &mut Random) -> Vec<u8> {
    let Some((length, rest)) = file.split_first_chunk() else {
        return bytes(file.to_vec(), random);
    };
    let length = (u64::from_le_bytes(*length) as usize).min(rest.len());
    let (header, data) = rest.split_at(length);
    let mut data = data.to_vec();
    let mut header = match serde_json::from_slice(header) {
        Ok(value) if !random.one_in(4) => values(value, random).to_string().into_bytes(),
        _ => header.to_vec(),
    };
    if random.one_in(4) {
        header = bytes(header, random);
    }
    if random.one_in(4) {
        let length = random.below(2 * data.len() + 2);
        data.resize(length, 0xff);
    }
    let length = match random.below(8) {
        0 => number(random).as_u64().unwrap_or(u64::MAX),
        1 => header.len() as u64 + random.below(9) as u64,
        _ => header.len() as u64,
    };
    let whole = [&length.to_le_bytes()[..], &header, &data].concat();
    sometimes_bytes(whole, random)
}

/// A binary file with some of its bytes changed, mostly so few that much of it stays right.
pub(crate) fn binary(file: &[u8], random: &mut Random) -> Vec<u8> {
    let mut file = file.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(file.len());
        let numbers = [0, 1, 0x7f, 0x80, 0xff, b'R', b'.', random.next() as u8];
        if let Some(byte) = file.get_mut(at) {
            *byte = numbers[random.below(numbers.len())];
        }
    }
    match random.one_in(3) {
        true => bytes(file, random),
        false => file,
    }
}

/// A prompt with signs of the grammars put in, and parts taken out or repeated.
pub(crate) fn prompt(file: &[u8], random: &mut Random) -> Vec<u8> {
    const SIGNS: [&str; 32] = [
        "(", ")", "[", "]", ":", "|", "\\", "+", "-", "\"", ",", ".", "1.2", "0.5", "5", "a", " ",
        "\n", "\t", "é", " AND ", " BREAK ", "#", "<a:b>", "{", ").blend(", ").and(", ".swap(",
        "\0", "nan", "9e999", "()",
    ];
    let mut file = match random.one_in(4) {
        true => Vec::new(),
        false => file.to_vec(),
    };
    for _ in 0..=random.below(24) {
        let at = random.below(file.len() + 1);
        let end = (at + random.below(12)).min(file.len());
        let sign = SIGNS[random.below(SIGNS.len())].as_bytes();
        match random.below(8) {
            0 => drop(file.drain(at..end)),
            1 => {
                let part = file[at..end].to_vec();
                file.splice(at..at, part);
            }
            // Deeper than anything may recurse.
            2 if random.one_in(64) => drop(file.splice(at..at, sign.repeat(5000))),
            _ => drop(file.splice(at..at, sign.iter().copied())),
        }
    }
    file
}

/// A text with some of its lines changed.
pub(crate) fn lines(file: &[u8], random: &mut Random) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = file.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    for _ in 0..=random.below(3) {
        let at = random.below(lines.len());
        match random.below(7) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, lines[at].clone()),
            2 => lines.truncate(at),
            3 => lines[at].push(b'\r'),
            4 => lines[at] = bytes(std::mem::take(&mut lines[at]), random),
            5 => lines.insert(at, string(random).into_bytes()),
            _ => {
                let other = random.below(lines.len());
                lines.swap(at, other);
            }
        }
        if lines.is_empty() {
            lines.push(Vec::new());
        }
    }
    sometimes_bytes(lines.join(&b'\n'), random)
}

fn sometimes_bytes(file: Vec<u8>, random: &mut Random) -> Vec<u8> {
    match random.one_in(5) {
        true => bytes(file, random),
        false => file,
    }
}

/// Some bytes changed, put in or taken out.
fn bytes(mut file: Vec<u8>, random: &mut Random) -> Vec<u8> {
    for _ in 0..=random.below(4) {
        let at = random.below(file.len() + 1);
        let end = (at + random.below(64)).min(file.len());
        match random.below(5) {
            0 => file.truncate(at),
            1 => drop(file.drain(at..end)),
            2 => drop(file.splice(at..at, file[at..end].to_vec())),
            3 => {
                let byte = random.next() as u8;
                file[at..end].fill(byte);
            }
            _ => {
                let nested = b"[{\"\\".map(|b| vec![b; 1 + random.below(3000)]);
                let [brackets, ..] = nested;
                file.splice(at..at, brackets);
            }
        }
    }
    file
}

/// Up to three changes anywhere in `value`.
fn values(mut value: Value, random: &mut Random) -> Value {
    for _ in 0..=random.below(3) {
        let other = somewhere(&mut value, random).clone();
        change(somewhere(&mut value, random), other, random);
    }
    value
}

/// A value at a random depth.
fn somewhere<'a>(value: &'a mut Value, random: &mut Random) -> &'a mut Value {
    let count = match value {
        Value::Array(values) => values.len(),
        Value::Object(values) => values.len(),
        _ => 0,
    };
    if count == 0 || random.one_in(8) {
        return value;
    }
    let at = random.below(count);
    let inner = match value {
        Value::Array(values) => values.get_mut(at),
        Value::Object(values) => values.values_mut().nth(at),
        _ => None,
    };
    match inner {
        Some(inner) => somewhere(inner, random),
        None => unreachable!("there are {count}"),
    }
}

fn change(value: &mut Value, other: Value, random: &mut Random) {
    match value {
        Value::Object(values) if !random.one_in(4) => keys(values, other, random),
        Value::Array(values) if !random.one_in(3) => {
            let at = random.below(values.len() + 1);
            match random.below(4) {
                0 => values.truncate(at),
                1 => values.insert(at, other),
                2 => values.resize(values.len() + random.below(2000), number(random)),
                _ => values.reverse(),
            }
        }
        Value::Number(old) if random.one_in(2) => {
            let old = old.as_f64().unwrap_or_default();
            let new = [old + 1.0, old - 1.0, -old, 2.0 * old, old / 2.0, old * 1e6];
            let new = new[random.below(new.len())];
            *value = match new.fract() == 0.0 && new.abs() < 1e15 {
                true => json!(new as i64),
                false => json!(new),
            };
        }
        _ => *value = any(other, random),
    }
}

fn keys(values: &mut Map<String, Value>, other: Value, random: &mut Random) {
    let key = values.keys().nth(random.below(values.len())).cloned();
    let key = key.unwrap_or_default();
    match random.below(4) {
        0 => drop(values.remove(&key)),
        1 => drop(values.insert(string(random), other)),
        2 => {
            let moved = values.remove(&key).unwrap_or_default();
            values.insert(format!("{key}{}", string(random)), moved);
        }
        _ => drop(values.insert(key, other)),
    }
}

fn any(other: Value, random: &mut Random) -> Value {
    match random.below(8) {
        0 => Value::Null,
        1 => Value::Bool(random.one_in(2)),
        2 | 3 => number(random),
        4 => Value::String(string(random)),
        5 => json!([other]),
        6 => (0..random.below(100)).fold(other, |inner, _| json!([inner])),
        _ => other,
    }
}

fn number(random: &mut Random) -> Value {
    let numbers = [
        json!(0),
        json!(1),
        json!(-1),
        json!(7),
        json!(255),
        json!(65_536),
        json!(i32::MAX),
        json!(u32::MAX),
        json!(1u64 << 40),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(0.5),
        json!(1e-320),
        json!(f64::MAX),
        json!(-f64::MAX),
    ];
    numbers[random.below(numbers.len())].clone()
}

fn string(random: &mut Random) -> String {
    let strings = [
        "",
        " ",
        "é",
        "\u{0}",
        "../../x",
        "..",
        "/",
        "unet",
        "F32",
        "BF16",
        "I64",
        "none",
        "NaN",
        "</w>",
        "a b",
        "Ġ",
        "\u{1F600}",
        "<|endoftext|>",
        "epsilon",
        "latents",
        "image.0.latents",
    ];
    let string = strings[random.below(strings.len())];
    match random.below(10) {
        0 => string.repeat(1 + random.below(10_000)),
        _ => string.into(),
    }
}

/// A PNG file of which one chunk is changed, with the check sum of what it then has, or any bytes.
pub(crate) fn png(file: &[u8], random: &mut Random) -> Vec<u8> {
    let mut chunks = Vec::new();
    let mut rest = &file[8.min(file.len())..];
    while let Some((length, behind)) = rest.split_first_chunk() {
        let length = u32::from_be_bytes(*length) as usize;
        if behind.len() < length + 8 {
            break;
        }
        chunks.push(behind[..4 + length].to_vec());
        rest = &behind[length + 8..];
    }
    if chunks.is_empty() || random.one_in(4) {
        return bytes(file.to_vec(), random);
    }
    for _ in 0..=random.below(2) {
        let at = random.below(chunks.len());
        let other = chunks[random.below(chunks.len())].clone();
        match random.below(4) {
            0 => chunks.insert(at, other),
            1 => chunks[at].extend(&other[4..]),
            _ => {
                let data = bytes(chunks[at].split_off(4), random);
                chunks[at].extend(data);
            }
        }
    }
    let chunks = chunks
        .iter()
        .flat_map(|chunk| png_chunk(&chunk[..4], &chunk[4..]));
    b"\x89PNG\r\n\x1A\n".iter().copied().chain(chunks).collect()
}

/// A chunk of a PNG file.
pub(crate) fn png_chunk(kind: &[u8], data: &[u8]) -> Vec<u8> {
    let whole = [kind, data].concat();
    let sum = whole.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ if sum & 1 == 1 { 0xEDB8_8320 } else { 0 }
        })
    });
    let length = (data.len() as u32).to_be_bytes();
    [&length[..], &whole, &(!sum).to_be_bytes()].concat()
}

/// A file of blocks with lengths, of which any bytes are changed.
pub(crate) fn blocks(file: &[u8], random: &mut Random) -> Vec<u8> {
    bytes(file.to_vec(), random)
}
