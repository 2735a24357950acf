//! Prompts for parts of a picture.

use image::GrayImage;
use sd_core::{Error, Prompt};

use crate::{Resampling, Result, resize};

/// Part of a picture with a prompt of its own.
///
/// The network is evaluated on the whole latent under each region's prompt, and at each place the
/// mean of its outputs there is followed, by the regions' shares (MultiDiffusion's region-based
/// generation, Bar-Tal et al. 2023, arXiv:2302.08113, section 5.2; "latent couple"; ComfyUI's
/// conditioning with masks). Where regions leave room the request's own prompt has what is missing
/// to 1, and where they overlap they share. It is done before guidance combines, which sees one
/// output of the prompt, so it goes with every guidance, solver and network; the price is an
/// evaluation for each region.
///
/// ```
/// use sd_pipeline::{Area, Region, Request};
///
/// let request = Request {
///     regions: vec![
///         Region::new("a red cube", Area::rectangle(0.0, 0.0, 0.5, 1.0)),
///         Region::new("a blue sphere", Area::rectangle(0.5, 0.0, 1.0, 1.0)),
///     ],
///     ..Request::new("solids on a table")
/// };
/// ```
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Region {
    /// Text that says what it should show. With A1111's syntax it changes with the step and has
    /// parts (`AND`) as any other.
    pub prompt: Prompt,
    /// Place in the picture that is drawn.
    pub area: Area,
    /// Share of its prompt in its area, above 0 to 1; the request's own prompt has the rest.
    #[cfg_attr(feature = "serde", serde(default = "whole"))]
    pub weight: f64,
}

/// Place in a picture of any size.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Area {
    /// A rectangle.
    Rectangle(Rectangle),
    /// White of a mask, which is stretched to the latent's size by Pillow's box filter; grey is a
    /// share.
    Mask(#[cfg_attr(feature = "serde", serde(with = "crate::serde_values::grey"))] GrayImage),
}

/// Edges of a rectangle, in fractions of a picture's width and height.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Rectangle {
    /// Left edge, from 0.
    pub left: f64,
    /// Upper edge, from 0.
    pub top: f64,
    /// Right edge, to 1.
    pub right: f64,
    /// Lower edge, to 1.
    pub bottom: f64,
}

#[cfg(feature = "serde")]
fn whole() -> f64 {
    1.0
}

impl Region {
    /// All of `prompt` in `area`.
    pub fn new(prompt: impl Into<Prompt>, area: Area) -> Self {
        Self {
            prompt: prompt.into(),
            area,
            weight: 1.0,
        }
    }
}

impl Area {
    /// The rectangle of these edges, in fractions of width and height.
    pub fn rectangle(left: f64, top: f64, right: f64, bottom: f64) -> Self {
        Self::Rectangle(Rectangle {
            left,
            top,
            right,
            bottom,
        })
    }

    /// The share of each of `height · width` latent pixels that lies in it, 0 to 1.
    fn coverage(&self, [height, width]: [usize; 2]) -> Result<Vec<f64>> {
        match self {
            Self::Rectangle(rectangle) => {
                rectangle.check()?;
                let Rectangle {
                    left,
                    top,
                    right,
                    bottom,
                } = *rectangle;
                let (rows, columns) = (along(top, bottom, height), along(left, right, width));
                let cells = rows
                    .iter()
                    .flat_map(|row| columns.iter().map(move |c| row * c));
                Ok(cells.collect())
            }
            Self::Mask(mask) => {
                let mask = resize(mask, width as u32, height as u32, Resampling::Box)?;
                Ok(mask.iter().map(|byte| f64::from(*byte) / 255.0).collect())
            }
        }
    }
}

impl Rectangle {
    fn check(&self) -> Result<()> {
        let Self {
            left,
            top,
            right,
            bottom,
        } = *self;
        let within = |start: f64, end: f64| 0.0 <= start && start < end && end <= 1.0;
        if within(left, right) && within(top, bottom) {
            return Ok(());
        }
        let found = format!("{left},{top},{right},{bottom}");
        let expected = "expected left, upper, right and lower edge from 0 to 1, right and lower \
                        beyond left and upper";
        Err(Error::invalid("region", found, expected).into())
    }
}

/// The share of each of `count` cells of a side that lies between two fractions of it.
fn along(start: f64, end: f64, count: usize) -> Vec<f64> {
    let (start, end) = (start * count as f64, end * count as f64);
    let share = |cell: usize| {
        let cell = cell as f64;
        (end.min(cell + 1.0) - start.max(cell)).clamp(0.0, 1.0)
    };
    (0..count).map(share).collect()
}

/// Shares of the request's own prompt and then of each of `regions`, of `height · width` latent
/// pixels each; those of a pixel sum to 1.
///
/// # Errors
/// A number that is out of range, and an area that covers no pixel.
pub(crate) fn shares(regions: &[Region], size: [usize; 2]) -> Result<Vec<Vec<f64>>> {
    let mut all = vec![vec![1.0; size[0] * size[1]]];
    for (k, region) in regions.iter().enumerate() {
        if !(region.weight > 0.0 && region.weight <= 1.0) {
            let expected = "expected a number above 0, at most 1";
            return Err(Error::invalid("region's weight", region.weight, expected).into());
        }
        let mut coverage = region.area.coverage(size)?;
        if coverage.iter().all(|share| *share == 0.0) {
            let expected = "expected some of the picture";
            let found = format!("nothing in number {}", k + 1);
            return Err(Error::invalid("region", found, expected).into());
        }
        coverage
            .iter_mut()
            .for_each(|share| *share *= region.weight);
        all.push(coverage);
    }
    for pixel in 0..size[0] * size[1] {
        let taken: f64 = all[1..].iter().map(|shares| shares[pixel]).sum();
        all[0][pixel] = (1.0 - taken).max(0.0);
        for shares in &mut all[1..] {
            shares[pixel] /= taken.max(1.0);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_sum_to_1_and_overlaps_share() {
        let regions = [
            Region::new("a", Area::rectangle(0.0, 0.0, 0.5, 1.0)),
            Region {
                weight: 0.5,
                ..Region::new("b", Area::rectangle(0.25, 0.5, 1.0, 1.0))
            },
        ];
        let all = shares(&regions, [2, 3]).unwrap();
        let close = |found: &[f64], expected: [f64; 6]| {
            let pairs = found.iter().zip(expected);
            assert!(
                pairs.clone().all(|(a, b)| (a - b).abs() < 1e-12),
                "{found:?}"
            );
        };
        // Of 3 columns the first region has 1 and a half, the second in its row from a quarter on.
        close(&all[1], [1.0, 0.5, 0.0, 1.0 / 1.125, 0.5, 0.0]);
        close(&all[2], [0.0, 0.0, 0.0, 0.125 / 1.125, 0.5, 0.5]);
        close(&all[0], [0.0, 0.5, 1.0, 0.0, 0.0, 0.5]);
    }

    #[test]
    fn masks_are_of_any_size_and_grey_is_a_share() {
        let mask = GrayImage::from_raw(4, 2, vec![255, 255, 0, 51, 255, 255, 0, 51]).unwrap();
        let all = shares(&[Region::new("a", Area::Mask(mask))], [1, 2]).unwrap();
        assert_eq!(all[1][0], 1.0);
        // Pillow rounds: 25.5 to 26.
        assert_eq!(all[1][1], 26.0 / 255.0);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let of = |area: Area, weight: f64| {
            let region = Region {
                weight,
                ..Region::new("a", area)
            };
            shares(&[region], [4, 4]).unwrap_err().to_string()
        };
        let half = || Area::rectangle(0.0, 0.0, 0.5, 1.0);
        for weight in [0.0, -1.0, 1.5, f64::NAN] {
            assert!(of(half(), weight).contains("region's weight"));
        }
        for [l, t, r, b] in [
            [0.5, 0.0, 0.5, 1.0],
            [0.6, 0.0, 0.5, 1.0],
            [-0.1, 0.0, 0.5, 1.0],
            [0.0, 0.0, 1.1, 1.0],
            [0.0, f64::NAN, 1.0, 1.0],
        ] {
            assert!(of(Area::rectangle(l, t, r, b), 1.0).contains("edge"));
        }
        let black = Area::Mask(GrayImage::new(8, 8));
        assert!(of(black, 1.0).contains("nothing in number 1"));
        assert!(!of(Area::Mask(GrayImage::new(0, 0)), 1.0).is_empty());
    }
}
