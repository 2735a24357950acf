//! XMP that says where a picture comes from (ISO 16684-1; IPTC Photo Metadata Standard 2025.1).

use super::{Record, SOFTWARE};

/// Keyword of a packet in a PNG file.
pub(super) const KEYWORD: &str = "XML:com.adobe.xmp";

/// IPTC's vocabulary of digital source types.
const SOURCES: &str = "http://cv.iptc.org/newscodes/digitalsourcetype/";

/// A packet that says that the picture was generated, or that a generated part is in it, and by
/// what model.
pub(super) fn packet(record: &Record) -> String {
    let source = match record.strength {
        Some(_) => "compositeWithTrainedAlgorithmicMedia",
        None => "trainedAlgorithmicMedia",
    };
    let tool = escaped(record.software.as_deref().unwrap_or(SOFTWARE));
    let mut properties =
        format!("xmp:CreatorTool=\"{tool}\" Iptc4xmpExt:DigitalSourceType=\"{SOURCES}{source}\"");
    if let Some(model) = &record.model {
        properties += &format!(" Iptc4xmpExt:AISystemUsed=\"{}\"", escaped(model));
    }
    format!(
        "<?xpacket begin=\"\u{FEFF}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\
         <x:xmpmeta xmlns:x=\"adobe:ns:meta/\">\
         <rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\
         <rdf:Description rdf:about=\"\" xmlns:xmp=\"http://ns.adobe.com/xap/1.0/\" \
         xmlns:Iptc4xmpExt=\"http://iptc.org/std/Iptc4xmpExt/2008-02-29/\" {properties}/>\
         </rdf:RDF></x:xmpmeta><?xpacket end=\"r\"?>"
    )
}

/// `text` as an attribute's value; XML has no way to write most control characters.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '"' => escaped += "&quot;",
            '\u{FFFE}' | '\u{FFFF}' => {}
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}
