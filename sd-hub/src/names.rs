//! Names that somebody else wrote and that become names of files here.

/// `true` for a path of plain names with `/` between them: it stays in its folder.
pub(crate) fn is_inside(path: &str) -> bool {
    path.split('/').all(is_plain)
}

/// `true` for the name of one file in a folder, on every system.
pub(crate) fn is_plain(name: &str) -> bool {
    let is_bad = |c: char| c.is_control() || matches!(c, '/' | '\\' | ':');
    !matches!(name, "" | "." | "..") && name.len() <= 255 && !name.contains(is_bad)
}

/// `true` for the hash of a commit.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && is_hexadecimal(text)
}

/// `true` where all are lower-case hexadecimal digits.
pub(crate) fn is_hexadecimal(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// `true` for an etag under which a file may lie among the blobs, beside files that are not yet
/// whole.
pub(crate) fn is_blob(etag: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'+');
    is_plain(etag)
        && etag.len() <= 128
        && etag.bytes().all(is_allowed)
        && !etag.starts_with('.')
        && !etag.ends_with(".incomplete")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_out_of_its_folder() {
        for good in [
            "a",
            "unet/config.json",
            "a b/ü.bin",
            "..a/b..",
            ".gitattributes",
        ] {
            assert!(is_inside(good), "{good}");
        }
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "a/../b",
            "./a",
            "a//b",
            "a/",
            "C:/x",
            "a\\..\\b",
            "a\0b",
            "a\nb",
            "unet/..",
        ] {
            assert!(!is_inside(bad), "{bad:?}");
        }
        assert!(is_blob("9e26dfeeb6e641a33dae4961196235bdb965b21b") && is_blob("abc-2"));
        for bad in [
            "",
            "..",
            "a/b",
            ".hidden",
            "x.incomplete",
            "a b",
            "W/x",
            &"f".repeat(129),
        ] {
            assert!(!is_blob(bad), "{bad:?}");
        }
    }
}
