use super::PictureError;

/// The mark with which a file begins.
pub(super) const START: &[u8] = &[0xFF, 0xD8];

/// Scans of a picture; of a progressive one there are some ten, and each goes over all pixels.
const MAX_SCANS: usize = 100;

/// A look at the marks of the JPEG `file`: its decoder shows what is missing as grey, and printers'
/// colours as if they were others.
pub(super) fn check(file: &[u8]) -> Result<(), PictureError> {
    let mut rest = &file[START.len()..];
    let mut scans = 0;
    loop {
        // Between the marks lies, behind the head of a scan, the scan: a mark is what is no stuffing
        // (0), no fill (0xFF) and no restart.
        let mark = rest.windows(2).position(|pair| {
            pair[0] == 0xFF && !matches!(pair[1], 0x00 | 0x01 | 0xD0..=0xD7 | 0xFF)
        });
        let Some(mark) = mark else {
            return Err(PictureError::Truncated);
        };
        let kind = rest[mark + 1];
        rest = &rest[mark + 2..];
        if kind == 0xD9 {
            return Ok(());
        }
        let length = rest.first_chunk().map(|length| u16::from_be_bytes(*length));
        let segment = length.and_then(|length| rest.get(2..usize::from(length)));
        let Some(segment) = segment else {
            return Err(PictureError::Truncated);
        };
        // The frame's head: bits, height, width, number of colours.
        let is_frame = matches!(kind, 0xC0..=0xCF) && !matches!(kind, 0xC4 | 0xC8 | 0xCC);
        if is_frame && segment.get(5) == Some(&4) {
            return Err(PictureError::Cmyk);
        }
        scans += usize::from(kind == 0xDA);
        if scans > MAX_SCANS {
            return Err(PictureError::Broken(format!("more than {MAX_SCANS} scans")));
        }
        rest = &rest[2 + segment.len()..];
    }
}
