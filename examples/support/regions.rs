//! Prompts for parts of a picture as words: `AREA[:SHARE]=PROMPT`.

use std::path::PathBuf;

use sd_pipeline::{Area, Region, read_mask};

/// A region whose mask is not read yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RegionArgument {
    place: Place,
    weight: f64,
    prompt: String,
}

#[derive(Debug, Clone, PartialEq)]
enum Place {
    Rectangle([f64; 4]),
    Mask(PathBuf),
}

impl RegionArgument {
    /// The region, its mask read.
    pub(crate) fn read(&self) -> sd_pipeline::Result<Region> {
        let area = match &self.place {
            Place::Rectangle([left, top, right, bottom]) => {
                Area::rectangle(*left, *top, *right, *bottom)
            }
            Place::Mask(file) => Area::Mask(read_mask(file)?),
        };
        Ok(Region {
            weight: self.weight,
            ..Region::new(&self.prompt, area)
        })
    }
}

pub(crate) fn region(text: &str) -> Result<RegionArgument, String> {
    let (place, prompt) = text
        .split_once('=')
        .ok_or("expected L,T,R,B=PROMPT or MASK=PROMPT")?;
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|n| n.is_finite());
    let share = place.rsplit_once(':');
    let share = share.and_then(|(place, share)| Some((place, number(share)?)));
    let (place, weight) = share.unwrap_or((place, 1.0));
    let edges: Option<Vec<f64>> = place.split(',').map(number).collect();
    let place = match edges.map(<[f64; 4]>::try_from) {
        Some(Ok(edges)) => Place::Rectangle(edges),
        Some(Err(edges)) => {
            let found = edges.len();
            return Err(format!("a rectangle has 4 edges L,T,R,B, not {found}"));
        }
        None if place.is_empty() => return Err("the mask's file is missing".into()),
        None => Place::Mask(place.into()),
    };
    let prompt = prompt.into();
    Ok(RegionArgument {
        place,
        weight,
        prompt,
    })
}
