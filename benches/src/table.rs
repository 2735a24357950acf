//! The results as a table in Markdown: work by place.

use std::fmt;
use std::time::Duration;

use crate::Place;

#[derive(Default)]
pub(crate) struct Table {
    cells: Vec<Cell>,
}

struct Cell {
    place: String,
    model: String,
    work: String,
    time: Duration,
}

impl Table {
    pub(crate) fn add(&mut self, place: &Place, model: &str, work: &str, time: Duration) {
        self.cells.push(Cell {
            place: place.to_string(),
            model: model.into(),
            work: work.into(),
            time,
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    fn find(&self, place: &str, model: &str, work: &str) -> Option<Duration> {
        let found = self
            .cells
            .iter()
            .find(|cell| (&*cell.place, &*cell.model, &*cell.work) == (place, model, work));
        found.map(|cell| cell.time)
    }
}

impl fmt::Display for Table {
    /// One table per model, rows and columns in the order in which they were measured.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (k, model) in distinct(self.cells.iter().map(|cell| &*cell.model)).enumerate() {
            let of_model = || self.cells.iter().filter(|cell| cell.model == model);
            let places: Vec<&str> = distinct(of_model().map(|cell| &*cell.place)).collect();
            if k > 0 {
                writeln!(f)?;
            }
            writeln!(f, "| {model} | {} |", places.join(" | "))?;
            writeln!(f, "|---|{}", "---:|".repeat(places.len()))?;
            for work in distinct(of_model().map(|cell| &*cell.work)) {
                let time = |place: &&str| {
                    let time = self.find(place, model, work);
                    time.map_or("–".into(), readable)
                };
                let times: Vec<String> = places.iter().map(time).collect();
                writeln!(f, "| {work} | {} |", times.join(" | "))?;
            }
        }
        Ok(())
    }
}

/// Each once, in the order of first appearance.
fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> impl Iterator<Item = &'a str> {
    let mut seen = Vec::new();
    names.filter(move |name| {
        let new = !seen.contains(name);
        if new {
            seen.push(*name);
        }
        new
    })
}

/// Three digits and a unit.
fn readable(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let (value, unit) = match seconds {
        1.0.. => (seconds, "s"),
        1e-3.. => (seconds * 1e3, "ms"),
        _ => (seconds * 1e6, "µs"),
    };
    match value {
        100.0.. => format!("{value:.0} {unit}"),
        10.0.. => format!("{value:.1} {unit}"),
        _ => format!("{value:.2} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use sd_pipeline::{FloatDType, device};

    use super::*;

    #[test]
    fn the_table_has_a_row_for_each_work_and_a_column_for_each_place() {
        let device = device("flex").unwrap();
        let [f32, f16] = [FloatDType::F32, FloatDType::F16].map(|d| Place::new("flex", &device, d));
        let mut table = Table::default();
        table.add(&f32, "tiny", "decode", Duration::from_millis(1234));
        table.add(&f32, "tiny", "encode", Duration::from_micros(15_060));
        table.add(&f16, "tiny", "encode", Duration::from_nanos(999));
        table.add(&f16, "large", "encode", Duration::from_secs(600));
        let expected = "\
| tiny | flex/f32 | flex/f16 |
|---|---:|---:|
| decode | 1.23 s | – |
| encode | 15.1 ms | 1.00 µs |

| large | flex/f16 |
|---|---:|
| encode | 600 s |
";
        assert_eq!(table.to_string(), expected);
    }
}
