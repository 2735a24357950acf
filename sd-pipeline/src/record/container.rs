//! Places of texts in the files of pictures: found without decoding, and put in without encoding
//! anew, so that pixels are never touched.

use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

use flate2::Crc;
use flate2::read::ZlibDecoder;

use super::{RecordError, exif, xmp};

/// Bytes of a text beyond which it is passed over, packed or not.
const TEXT_LIMIT: u64 = 1 << 20;
/// Bytes of all texts together, likewise.
const ALL_LIMIT: usize = 4 << 20;
/// Bytes that a segment of a JPEG file can hold, the longest name before them excepted.
pub(super) const JPEG_ROOM: usize = 0xFFFF - 2 - 29;

const PNG: &[u8] = b"\x89PNG\r\n\x1A\n";
const JPEG: &[u8] = &[0xFF, 0xD8];
const EXIF: &[u8] = b"Exif\0\0";
const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

/// Texts of a file, by keyword.
#[derive(Default)]
pub(super) struct Found {
    texts: Vec<(String, String)>,
    bytes: usize,
}

impl Found {
    /// The first text of that keyword.
    pub(super) fn text(&self, keyword: &str) -> Option<&str> {
        let mut texts = self.texts.iter();
        let text = texts.find(|(name, _)| name == keyword);
        text.map(|(_, text)| &**text)
    }

    fn add(&mut self, keyword: String, text: String) {
        let bytes = self.bytes + keyword.len() + text.len();
        if bytes <= ALL_LIMIT {
            self.bytes = bytes;
            self.texts.push((keyword, text));
        }
    }

    fn add_exif(&mut self, tiff: &[u8]) {
        for (keyword, text) in exif::read(tiff) {
            self.add(keyword.into(), text);
        }
    }
}

/// The texts of a file. One that ends too soon, or goes on with what is none of its format's, has
/// those before that.
pub(super) fn read(mut file: impl Read + Seek) -> io::Result<Result<Found, RecordError>> {
    let mut start = Vec::new();
    file.by_ref().take(12).read_to_end(&mut start)?;
    let mut found = Found::default();
    let read = if start.starts_with(PNG) {
        file.seek(SeekFrom::Start(8))?;
        read_png(file, &mut found)
    } else if start.starts_with(JPEG) {
        file.seek(SeekFrom::Start(2))?;
        read_jpeg(file, &mut found)
    } else if start.starts_with(b"RIFF") && start.ends_with(b"WEBP") {
        read_webp(file, &mut found)
    } else {
        return Ok(Err(RecordError::NotAPicture));
    };
    match read {
        Err(e) if e.kind() != ErrorKind::UnexpectedEof => Err(e),
        _ => Ok(Ok(found)),
    }
}

fn bytes<const N: usize>(file: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The next `length` bytes, which the file must have: nothing is taken for what is only claimed.
fn block(file: &mut impl Read, length: u64) -> io::Result<Vec<u8>> {
    let mut block = Vec::new();
    let read = file.take(length).read_to_end(&mut block)?;
    match read as u64 == length {
        true => Ok(block),
        false => Err(ErrorKind::UnexpectedEof.into()),
    }
}

fn skip(file: &mut impl Seek, length: u64) -> io::Result<()> {
    // Lengths have 32 bits.
    file.seek_relative(length as i64)
}

/// Keyword and text of a chunk, if it is sound.
type Text = Option<(String, String)>;

fn read_png(mut file: impl Read + Seek, found: &mut Found) -> io::Result<()> {
    loop {
        let length = u64::from(u32::from_be_bytes(bytes(&mut file)?));
        let kind: [u8; 4] = bytes(&mut file)?;
        let text: Option<fn(&[u8]) -> Text> = match &kind {
            b"tEXt" => Some(text_chunk),
            b"zTXt" => Some(packed_chunk),
            b"iTXt" => Some(international_chunk),
            b"IEND" => return Ok(()),
            _ => None,
        };
        match text.filter(|_| length <= TEXT_LIMIT) {
            None => skip(&mut file, length + 4)?,
            Some(text) => {
                let data = block(&mut file, length)?;
                let sum = u32::from_be_bytes(bytes(&mut file)?);
                if check_sum(&kind, &data) == sum
                    && let Some((keyword, text)) = text(&data)
                {
                    found.add(keyword, text);
                }
            }
        }
    }
}

fn check_sum(kind: &[u8], data: &[u8]) -> u32 {
    let mut sum = Crc::new();
    sum.update(kind);
    sum.update(data);
    sum.sum()
}

/// What is before the next zero, and what is behind it.
fn until_zero(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = data.iter().position(|byte| *byte == 0)?;
    Some((&data[..end], &data[end + 1..]))
}

fn latin(data: &[u8]) -> String {
    data.iter().map(|byte| char::from(*byte)).collect()
}

/// Text of a tEXt chunk. Programs are known that write UTF-8 there, which as Latin-1 is gibberish.
fn latin_or_utf8(data: &[u8]) -> String {
    std::str::from_utf8(data).map_or_else(|_| latin(data), Into::into)
}

fn unpacked(data: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let read = ZlibDecoder::new(data)
        .take(TEXT_LIMIT + 1)
        .read_to_end(&mut text);
    (read.ok()? as u64 <= TEXT_LIMIT).then_some(text)
}

fn text_chunk(data: &[u8]) -> Text {
    let (keyword, text) = until_zero(data)?;
    Some((latin(keyword), latin_or_utf8(text)))
}

fn packed_chunk(data: &[u8]) -> Text {
    let (keyword, rest) = until_zero(data)?;
    let packed = rest.strip_prefix(&[0])?;
    Some((latin(keyword), latin_or_utf8(&unpacked(packed)?)))
}

fn international_chunk(data: &[u8]) -> Text {
    let (keyword, rest) = until_zero(data)?;
    let (flags, rest) = rest.split_first_chunk::<2>()?;
    let (_language, rest) = until_zero(rest)?;
    let (_translated, text) = until_zero(rest)?;
    let text = match flags {
        [0, _] => text.to_vec(),
        [1, 0] => unpacked(text)?,
        _ => return None,
    };
    Some((latin(keyword), String::from_utf8(text).ok()?))
}

fn read_jpeg(mut file: impl Read + Seek, found: &mut Found) -> io::Result<()> {
    loop {
        let [mark, mut kind] = bytes(&mut file)?;
        if mark != 0xFF {
            return Ok(());
        }
        while kind == 0xFF {
            [kind] = bytes(&mut file)?;
        }
        match kind {
            // Marks without a length.
            0x01 | 0xD0..=0xD7 => continue,
            // The picture itself, or its end.
            0xD9 | 0xDA => return Ok(()),
            _ => {}
        }
        let length = u64::from(u16::from_be_bytes(bytes(&mut file)?));
        let Some(length) = length.checked_sub(2) else {
            return Ok(());
        };
        if kind != 0xE1 {
            skip(&mut file, length)?;
            continue;
        }
        let data = block(&mut file, length)?;
        if let Some(tiff) = data.strip_prefix(EXIF) {
            found.add_exif(tiff);
        } else if let Some(packet) = data.strip_prefix(XMP) {
            found.add(xmp::KEYWORD.into(), String::from_utf8_lossy(packet).into());
        }
    }
}

fn read_webp(mut file: impl Read + Seek, found: &mut Found) -> io::Result<()> {
    loop {
        let kind: [u8; 4] = bytes(&mut file)?;
        let length = u64::from(u32::from_le_bytes(bytes(&mut file)?));
        let padding = length % 2;
        if !matches!(&kind, b"EXIF" | b"XMP ") || length > TEXT_LIMIT {
            skip(&mut file, length + padding)?;
            continue;
        }
        let data = block(&mut file, length)?;
        match &kind {
            // Some write JPEG's name here again.
            b"EXIF" => found.add_exif(data.strip_prefix(EXIF).unwrap_or(&data)),
            _ => found.add(xmp::KEYWORD.into(), String::from_utf8_lossy(&data).into()),
        }
        skip(&mut file, padding)?;
    }
}

/// A PNG file with these texts before its pixels: tEXt for ASCII, as old readers of A1111's expect,
/// else iTXt, of which nobody doubts the encoding. Adobe's packet is an iTXt by its own rule.
pub(super) fn png(file: Vec<u8>, texts: &[(&str, &str)]) -> Vec<u8> {
    // The signature, and IHDR of 13 bytes.
    let head = PNG.len() + 12 + 13;
    if !file.starts_with(PNG) || file.len() < head {
        return file;
    }
    let mut chunks = Vec::new();
    for (keyword, text) in texts {
        let (kind, text) = match text.is_ascii() && *keyword != xmp::KEYWORD {
            true => (b"tEXt", text.as_bytes().to_vec()),
            // Not packed, of no language, with no other keyword.
            false => (b"iTXt", [&[0; 4], text.as_bytes()].concat()),
        };
        let data = [keyword.as_bytes(), &[0], &text].concat();
        chunks.extend((data.len() as u32).to_be_bytes());
        chunks.extend(kind);
        chunks.extend(&data);
        chunks.extend(check_sum(kind, &data).to_be_bytes());
    }
    [&file[..head], &chunks, &file[head..]].concat()
}

/// A JPEG file with these segments behind its first one, which is JFIF's. What does not fit into a
/// segment is left out, with a warning.
pub(super) fn jpeg(file: Vec<u8>, exif: &[u8], xmp: &str) -> Vec<u8> {
    let head = match file.as_slice() {
        [0xFF, 0xD8, 0xFF, 0xE0, high, low, ..] => {
            4 + usize::from(u16::from_be_bytes([*high, *low]))
        }
        [0xFF, 0xD8, ..] => 2,
        _ => return file,
    };
    let mut segments = Vec::new();
    for (name, data) in [(EXIF, exif), (XMP, xmp.as_bytes())] {
        if data.len() > JPEG_ROOM {
            tracing::warn!(
                bytes = data.len(),
                "the picture's record does not fit into a JPEG file and is left out"
            );
            continue;
        }
        segments.extend([0xFF, 0xE1]);
        segments.extend(((2 + name.len() + data.len()) as u16).to_be_bytes());
        segments.extend(name);
        segments.extend(data);
    }
    [&file[..head], &segments, &file[head..]].concat()
}

/// A WebP file of a single picture with these chunks: it becomes an extended one, which says so
/// first.
pub(super) fn webp(file: Vec<u8>, exif: &[u8], xmp: &str) -> Vec<u8> {
    let Some([width, height]) = lossless_size(&file) else {
        return file;
    };
    let mut chunks = Vec::new();
    let mut chunk = |kind: &[u8; 4], data: &[u8]| {
        chunks.extend(kind);
        chunks.extend((data.len() as u32).to_le_bytes());
        chunks.extend(data);
        chunks.extend(&[0][..data.len() % 2]);
    };
    let mut header = vec![0x08 | 0x04, 0, 0, 0];
    for side in [width, height] {
        header.extend(&(side - 1).to_le_bytes()[..3]);
    }
    chunk(b"VP8X", &header);
    chunk(b"VP8L", &file[20..20 + length(&file)]);
    chunk(b"EXIF", exif);
    chunk(b"XMP ", xmp.as_bytes());
    let size = (4 + chunks.len()) as u32;
    [b"RIFF", &size.to_le_bytes()[..], b"WEBP", &chunks].concat()
}

/// Length of a simple WebP file's one chunk.
fn length(file: &[u8]) -> usize {
    let length = file[16..20].try_into().map_or(0, u32::from_le_bytes);
    length as usize
}

/// Width and height of a simple lossless WebP file, whose chunk is all there.
fn lossless_size(file: &[u8]) -> Option<[u32; 2]> {
    let signature = file.get(12..16)? == b"VP8L" && *file.get(20)? == 0x2F;
    let bits = u32::from_le_bytes(file.get(21..25)?.try_into().ok()?);
    let whole = file.len() >= 20 + length(file);
    let side = |bits: u32| (bits & 0x3FFF) + 1;
    (signature && whole).then(|| [side(bits), side(bits >> 14)])
}
