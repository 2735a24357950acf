//! A grid of small pictures with labels in 8×8 letters.

use font8x8::UnicodeFonts;
use sd_pipeline::RgbImage;

/// Side of a picture, in pixels.
const SIDE: u32 = 128;
/// Pictures of 128×128 in rows and columns, each with a name.
pub(crate) struct Grid {
    image: RgbImage,
    /// Place of the first picture: right of the rows' names and below the columns'.
    corner: [u32; 2],
}

impl Grid {
    /// An empty grid with the names of its columns and rows, which may be empty; rows' names may
    /// have several lines.
    pub(crate) fn new(columns: &[String], rows: &[String]) -> Self {
        let lines = rows.iter().flat_map(|name| name.lines());
        let longest = lines.map(|line| line.chars().count()).max().unwrap_or(0) as u32;
        let left = if longest == 0 { 0 } else { 8 * longest + 8 };
        let top = if columns.concat().is_empty() { 0 } else { 20 };
        let [width, height] = [columns.len(), rows.len()].map(|n| SIDE * n as u32);
        let mut image = RgbImage::from_pixel(left + width, top + height, [255; 3].into());
        for (x, name) in (left..).step_by(SIDE as usize).zip(columns) {
            let indent = SIDE.saturating_sub(8 * name.chars().count() as u32) / 2;
            print(&mut image, name, [x + indent, 6]);
        }
        for (y, name) in (top..).step_by(SIDE as usize).zip(rows) {
            let first = y + (SIDE - 12 * name.lines().count() as u32) / 2;
            for (line, y) in name.lines().zip((first..).step_by(12)) {
                print(&mut image, line, [4, y]);
            }
        }
        Self {
            image,
            corner: [left, top],
        }
    }

    /// Puts a picture into its place.
    pub(crate) fn put(&mut self, picture: &RgbImage, row: usize, column: usize) {
        let [left, top] = self.corner;
        let [x, y] = [left + SIDE * column as u32, top + SIDE * row as u32];
        let inside = |&(dx, dy, _): &(u32, u32, _)| dx < SIDE && dy < SIDE;
        for (dx, dy, pixel) in picture.enumerate_pixels().filter(inside) {
            self.image.put_pixel(x + dx, y + dy, *pixel);
        }
    }

    /// The whole.
    pub(crate) fn image(&self) -> &RgbImage {
        &self.image
    }
}

/// Writes `text` in 8×8 letters.
fn print(image: &mut RgbImage, text: &str, [left, top]: [u32; 2]) {
    let glyphs = text.chars().filter_map(|c| font8x8::BASIC_FONTS.get(c));
    for (x, glyph) in (left..).step_by(8).zip(glyphs) {
        for (y, bits) in (top..).zip(glyph) {
            for column in (0..8).filter(|column| bits >> column & 1 == 1) {
                if let Some(pixel) = image.get_pixel_mut_checked(x + column, y) {
                    *pixel = [0; 3].into();
                }
            }
        }
    }
}
