//! The little of EXIF that carries records: the tags UserComment and MakerNote (EXIF 2.32, in TIFF 6).

use super::OWN;

const EXIF_FOLDER: u16 = 0x8769;
const MAKER_NOTE: u16 = 0x927C;
const USER_COMMENT: u16 = 0x9286;
const MAKE: u16 = 0x010F;
const MODEL: u16 = 0x0110;
/// TIFF's type of bytes without a meaning.
const UNDEFINED: u16 = 7;
const LONG: u16 = 4;

/// A block with a UserComment in UTF-16, as A1111 and piexif write it, and this library's JSON as
/// the maker's note.
pub(super) fn write(comment: Option<&str>, own: Option<&str>) -> Vec<u8> {
    let note = own.map(|own| [OWN.as_bytes(), &[0], own.as_bytes()].concat());
    let comment = comment.map(|text| {
        let units = text.encode_utf16().flat_map(u16::to_be_bytes);
        b"UNICODE\0"
            .iter()
            .copied()
            .chain(units)
            .collect::<Vec<u8>>()
    });
    let values = [(MAKER_NOTE, note), (USER_COMMENT, comment)];
    let values: Vec<_> = values
        .into_iter()
        .filter_map(|(tag, value)| Some((tag, value?)))
        .collect();

    let entry = |block: &mut Vec<u8>, tag: u16, kind: u16, count: usize, place: usize| {
        block.extend(tag.to_be_bytes());
        block.extend(kind.to_be_bytes());
        block.extend((count as u32).to_be_bytes());
        block.extend((place as u32).to_be_bytes());
    };
    // The header, a folder with a single entry, and behind it the other folder.
    let folder = 8 + 2 + 12 + 4;
    let mut block = b"MM\0\x2A\0\0\0\x08\0\x01".to_vec();
    entry(&mut block, EXIF_FOLDER, LONG, 1, folder);
    block.extend([0; 4]);
    block.extend((values.len() as u16).to_be_bytes());
    let mut place = folder + 2 + 12 * values.len() + 4;
    for (tag, value) in &values {
        entry(&mut block, *tag, UNDEFINED, value.len(), place);
        place += value.len().next_multiple_of(2);
    }
    block.extend([0; 4]);
    for (_, value) in values {
        block.extend(&value);
        block.extend(&[0][..value.len() % 2]);
    }
    block
}

/// The texts of a block, by the keywords that they have in PNG files. Writers put tags into either
/// folder.
pub(super) fn read(tiff: &[u8]) -> Vec<(&'static str, String)> {
    let mut texts = Vec::new();
    let Some(block) = Block::new(tiff) else {
        return texts;
    };
    let main = block.long(4);
    let exif = block.entries(main).find(|entry| entry.tag == EXIF_FOLDER);
    let exif = exif.map(|entry| entry.place);
    for folder in [main, exif].into_iter().flatten() {
        for entry in block.entries(Some(folder)) {
            let Some(value) = block.value(&entry) else {
                continue;
            };
            let utf8 = |value: &[u8]| std::str::from_utf8(value).map(str::to_owned).ok();
            let text = match entry.tag {
                USER_COMMENT => comment(value).map(|text| ("parameters", text)),
                MAKER_NOTE => value
                    .strip_prefix(OWN.as_bytes())
                    .and_then(|own| utf8(own.strip_prefix(&[0])?))
                    .map(|own| (OWN, own)),
                // ComfyUI's, which begin with the keyword.
                MAKE | MODEL => value
                    .strip_prefix(b"prompt:")
                    .and_then(utf8)
                    .map(|text| ("prompt", text.trim_end_matches('\0').into())),
                _ => None,
            };
            texts.extend(text);
        }
    }
    texts
}

/// TIFF's structure in either order of bytes.
struct Block<'a> {
    bytes: &'a [u8],
    little: bool,
}

struct Entry {
    tag: u16,
    kind: u16,
    count: u32,
    /// Where the value is, or the value of up to four bytes.
    place: u32,
    /// Where the entry has that.
    at: usize,
}

impl<'a> Block<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let little = match bytes.get(..4)? {
            b"II\x2A\0" => true,
            b"MM\0\x2A" => false,
            _ => return None,
        };
        Some(Self { bytes, little })
    }

    fn short(&self, at: usize) -> Option<u16> {
        let bytes = self.bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(match self.little {
            true => u16::from_le_bytes(bytes),
            false => u16::from_be_bytes(bytes),
        })
    }

    fn long(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(match self.little {
            true => u32::from_le_bytes(bytes),
            false => u32::from_be_bytes(bytes),
        })
    }

    /// The entries of the folder at `place`, as far as the block has them.
    fn entries(&self, place: Option<u32>) -> impl Iterator<Item = Entry> {
        let folder = place.map_or(usize::MAX, |place| place as usize);
        let count = self.short(folder).unwrap_or(0);
        (0..usize::from(count)).map_while(move |k| {
            let at = folder + 2 + 12 * k;
            Some(Entry {
                tag: self.short(at)?,
                kind: self.short(at + 2)?,
                count: self.long(at + 4)?,
                place: self.long(at + 8)?,
                at: at + 8,
            })
        })
    }

    /// The bytes of a value: of text, of bytes or of no type.
    fn value(&self, entry: &Entry) -> Option<&'a [u8]> {
        if !matches!(entry.kind, 1 | 2 | UNDEFINED) {
            return None;
        }
        let length = entry.count as usize;
        let start = if length <= 4 {
            entry.at
        } else {
            entry.place as usize
        };
        self.bytes.get(start..start.checked_add(length)?)
    }
}

/// Text of a UserComment: a code of eight bytes, then the text. Behind `UNICODE` writers put UTF-16
/// of either order, whatever the block's is, and UTF-8.
fn comment(value: &[u8]) -> Option<String> {
    let (code, text) = value.split_first_chunk::<8>()?;
    let text = match code {
        b"UNICODE\0" => unicode(text),
        b"ASCII\0\0\0" | b"\0\0\0\0\0\0\0\0" => String::from_utf8_lossy(text).into_owned(),
        _ => String::from_utf8_lossy(value).into_owned(),
    };
    let text = text.trim_matches(|c| c == '\0' || c == '\u{FEFF}');
    (!text.trim().is_empty()).then(|| text.to_owned())
}

fn unicode(text: &[u8]) -> String {
    let pairs = text.as_chunks::<2>().0;
    // A record is mostly of characters whose other byte is 0.
    let zeros = |k: usize| pairs.iter().filter(|pair| pair[k] == 0).count();
    let little = match pairs.first() {
        Some([0xFF, 0xFE]) => true,
        Some([0xFE, 0xFF]) => false,
        _ => match (zeros(0), zeros(1)) {
            (0, 0) if std::str::from_utf8(text).is_ok() => {
                return String::from_utf8_lossy(text).into_owned();
            }
            (high, low) => low > high,
        },
    };
    let unit = if little {
        u16::from_le_bytes
    } else {
        u16::from_be_bytes
    };
    let units = pairs.iter().map(|pair| unit(*pair));
    char::decode_utf16(units)
        .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}
