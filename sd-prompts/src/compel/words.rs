//! What compel's grammar is made of: words, numbers, quoted texts. Each is looked for behind white
//! space.

/// Signs that mean something.
const SIGNS: [u8; 8] = *b"()\",.+-=";

/// Byte of the first character from `at` on that is no white space.
pub(super) fn skip(text: &str, at: usize) -> usize {
    text.len() - text[at..].trim_start_matches([' ', '\t', '\n', '\r']).len()
}

/// The end of `sign`, if it is next.
pub(super) fn literal(text: &str, at: usize, sign: &str) -> Option<usize> {
    let at = skip(text, at);
    text[at..].starts_with(sign).then(|| at + sign.len())
}

/// A run of one sign, `+` or `-`, and the weight that it is.
pub(super) fn signs(text: &str, at: usize) -> Option<(usize, f64)> {
    let at = skip(text, at);
    let (sign, base): (char, f64) = match text.as_bytes().get(at)? {
        b'+' => ('+', 1.1),
        b'-' => ('-', 0.9),
        _ => return None,
    };
    let count = text[at..].len() - text[at..].trim_start_matches(sign).len();
    Some((at + count, base.powf(count as f64)))
}

/// A number.
pub(super) fn number(text: &str, at: usize) -> Option<(usize, f64)> {
    let start = skip(text, at);
    let digits = |at: usize| {
        let rest = &text[at..];
        at + rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len()
    };
    let unsigned = |signs: &[char]| match text[start..].starts_with(signs) {
        true => start + 1,
        false => start,
    };
    let whole = unsigned(&['+', '-']);
    let point = digits(whole);
    let end = if text[point..].starts_with('.') && digits(point + 1) > whole + 1 {
        digits(point + 1)
    } else {
        let whole = unsigned(&['-']);
        let end = digits(whole);
        (end > whole).then_some(end)?
    };
    Some((end, text[start..end].parse().ok()?))
}

/// A word of letters and digits, `_` and `-`.
pub(super) fn keyword(text: &str, at: usize) -> Option<(usize, &str)> {
    let at = skip(text, at);
    let rest = &text[at..];
    let behind = rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "_-".contains(c));
    let end = text.len() - behind.len();
    (end > at).then(|| (end, &text[at..end]))
}

/// A word without a sign that means something. `+` and `-` within a word are of it.
pub(super) fn word(text: &str, at: usize) -> Option<(usize, String)> {
    let start = skip(text, at);
    let bytes = text.as_bytes();
    let sign = |at: usize| bytes.get(at).is_some_and(|c| SIGNS.contains(c));
    let white = |at: usize| bytes.get(at).is_some_and(|c| b" \t\n\r".contains(c));
    let mut end = start;
    while let Some(c) = text[end..].chars().next() {
        end += match c {
            '\\' if sign(end + 1) => 2,
            '+' | '-' => {
                let next = end + 1;
                let is_free = next < text.len() && !white(next) && !sign(next);
                if !is_free {
                    break;
                }
                1
            }
            c if c.is_ascii() && (sign(end) || " \t\n\r\u{b}\u{c}".contains(c)) => break,
            c => c.len_utf8(),
        };
    }
    (end > start).then(|| (end, unescaped(&text[start..end])))
}

/// All up to the next white space.
pub(super) fn free_word(text: &str, at: usize) -> Option<(usize, String)> {
    let rest = &text[at..];
    let length = rest
        .find([' ', '\t', '\n', '\r', '\u{b}', '\u{c}'])
        .unwrap_or(rest.len());
    (length > 0).then(|| (at + length, unescaped(&rest[..length])))
}

/// A text as it goes to the tokenizer.
fn unescaped(text: &str) -> String {
    text.replace("\\(", "(")
        .replace("\\)", ")")
        .replace("\\\"", "\"")
}

/// The text between quotation marks; with a backslash before it a mark is of the text.
pub(super) fn quoted(text: &str, at: usize) -> Option<(usize, String)> {
    let start = literal(text, at, "\"")?;
    let bytes = text.as_bytes();
    let (mut at, mut escaped) = (start, None);
    let end = loop {
        match bytes.get(at) {
            // A mark that would be of the text ends it where no other does.
            None | Some(b'\n' | b'\r') => break escaped?,
            Some(b'"') => break at,
            Some(b'\\') if bytes.get(at + 1) == Some(&b'"') => {
                escaped = Some(at + 1);
                at += 2;
            }
            Some(_) => at += 1,
        }
    };
    let inner = control_characters(&text[start..end]);
    Some((end + 1, inner.replace("\\\"", "\"")))
}

/// The text with `\n`, `\t` and the like as the characters that they stand for.
fn control_characters(text: &str) -> String {
    let mut made = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('\\') {
        made.push_str(before);
        let hexadecimal = |from: usize, count: usize| {
            let digits = behind.get(from..from + count)?;
            let digits = digits
                .bytes()
                .all(|c| c.is_ascii_hexdigit())
                .then_some(digits)?;
            u32::from_str_radix(digits, 16).ok()
        };
        let octal = behind
            .get(..3)
            .filter(|digits| digits.bytes().all(|c| (b'0'..b'8').contains(&c)))
            .and_then(|digits| u32::from_str_radix(digits, 8).ok());
        let (length, code) = match behind.as_bytes().first() {
            Some(b't') => (1, Some(9)),
            Some(b'n') => (1, Some(10)),
            Some(b'f') => (1, Some(12)),
            Some(b'r') => (1, Some(13)),
            Some(b'x') => (3, hexadecimal(1, 2)),
            Some(b'u') => (5, hexadecimal(1, 4)),
            Some(b'0'..b'8') if octal.is_some() => (3, octal),
            Some(b'0') => (1, Some(0)),
            _ => (0, None),
        };
        match code.and_then(char::from_u32) {
            Some(c) => {
                made.push(c);
                rest = &behind[length..];
            }
            None => {
                made.push('\\');
                rest = behind;
            }
        }
    }
    made.push_str(rest);
    made
}
