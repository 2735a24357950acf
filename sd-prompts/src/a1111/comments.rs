use crate::SyntaxError;
use crate::python::is_word;

/// The prompt without its comments, from a `#` to the end of the line, each of which is a line break
/// (`modules/processing_scripts/comments.py`).
///
/// # Errors
/// [`SyntaxError`] for an extra network, `<lora:name:1>`: what is named in a text cannot be loaded.
pub fn without_comments(text: &str) -> Result<String, SyntaxError> {
    if let Some(at) = extra_network(text) {
        let expected = "a network named in a prompt is not loaded; expected a prompt without it";
        return Err(SyntaxError::new(text, at, expected));
    }
    if !text.contains('#') {
        return Ok(text.into());
    }
    // Whole lines first, with the line break before them.
    let mut lines = String::with_capacity(text.len());
    let mut rest = text;
    let mut first = true;
    while let Some(c) = rest.chars().next() {
        let comment = match c {
            '#' if first => Some(rest),
            '\n' => rest.strip_prefix('\n').filter(|line| line.starts_with('#')),
            _ => None,
        };
        first = false;
        match comment {
            Some(comment) => {
                lines.push('\n');
                rest = behind_line(comment);
            }
            None => {
                lines.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    let mut plain = String::with_capacity(lines.len());
    let mut rest = lines.as_str();
    while let Some((before, comment)) = rest.split_once('#') {
        plain.push_str(before);
        plain.push('\n');
        rest = behind_line(comment);
    }
    plain.push_str(rest);
    Ok(plain)
}

/// The text behind the first line of `text` and its line break.
fn behind_line(text: &str) -> &str {
    text.split_once('\n').map_or("", |(_, behind)| behind)
}

/// The first `<word:anything>`.
fn extra_network(text: &str) -> Option<usize> {
    let mut starts = text.match_indices('<').map(|(start, _)| start);
    starts.find(|start| {
        let inner = &text[start + 1..];
        let name = inner.find(|c| !is_word(c)).unwrap_or(inner.len());
        let arguments = inner[name..].strip_prefix(':');
        name > 0
            && arguments
                .and_then(|text| text.find('>'))
                .is_some_and(|end| end > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_line_breaks() {
        let cases = [
            ("a # b\nc", "a \nc"),
            ("# a\n# b\nc", "\n\nc"),
            ("a\n# b\nc", "a\nc"),
            ("a\n# b\n# c\nd", "a\n\nd"),
            ("a #", "a \n"),
            ("", ""),
        ];
        for (text, plain) in cases {
            assert_eq!(without_comments(text).unwrap(), plain, "{text:?}");
        }
    }

    #[test]
    fn a_network_in_a_prompt_is_refused() {
        for text in ["a <lora:b:1>", "<hypernet:c>", "<<x:y>"] {
            assert!(without_comments(text).is_err(), "{text}");
        }
        for text in ["a < b", "<b>", "<:b>", "<b:>", "<b:c"] {
            assert_eq!(without_comments(text).unwrap(), text);
        }
        let error = without_comments("é <lora:b:1>").unwrap_err();
        assert_eq!((error.position, &*error.found), (2, "<lora:b:1>"));
    }
}
