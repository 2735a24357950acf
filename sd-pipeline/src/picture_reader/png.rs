use super::PictureError;

pub(super) const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1A\n";

/// Bytes of metadata that may say how a picture is turned.
const MAX_EXIF: usize = 1 << 16;

/// The width and the height that the head of the PNG `file` says.
pub(super) fn size(file: &[u8]) -> Option<(u32, u32)> {
    let side = |at: usize| Some(u32::from_be_bytes(file.get(at..at + 4)?.try_into().ok()?));
    Some((side(16)?, side(20)?))
}

/// Of the PNG `file` that of which the picture is made: texts, profiles and the like, which the
/// decoder would unpack and keep, are left out.
pub(super) fn picture(file: &[u8]) -> Result<Vec<u8>, PictureError> {
    let mut picture = SIGNATURE.to_vec();
    let mut rest = &file[SIGNATURE.len()..];
    while let Some((length, behind)) = rest.split_first_chunk() {
        let length = u32::from_be_bytes(*length) as usize;
        // Its kind, and a check sum behind it.
        let end = length.saturating_add(4 + 8);
        let is_cut = end > rest.len();
        let (chunk, next) = rest.split_at(end.min(rest.len()));
        let is_kept = match behind.get(..4) {
            Some(b"IHDR" | b"PLTE" | b"tRNS" | b"IDAT") if is_cut => {
                return Err(PictureError::Truncated);
            }
            Some(b"IHDR" | b"PLTE" | b"tRNS" | b"IDAT" | b"IEND") => true,
            Some(b"eXIf") => length <= MAX_EXIF,
            Some(b"acTL") => {
                let frames = behind.get(4..8).and_then(|bytes| bytes.try_into().ok());
                if frames.is_some_and(|frames| u32::from_be_bytes(frames) > 1) {
                    return Err(PictureError::Animated);
                }
                false
            }
            _ => false,
        };
        if is_kept {
            picture.extend(chunk);
        }
        rest = next;
    }
    Ok(picture)
}
