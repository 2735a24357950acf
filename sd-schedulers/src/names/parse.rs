use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};

use super::nearest::nearest;
use super::table::{Opt, SCHEDULES, SOLVERS, ScheduleRow, SolverRow, names};
use crate::NameError;
use crate::error::shortened;

/// A solver and, if one was named, a sigma schedule: `"DPM++ 2M Karras"`, `"euler_a"`,
/// `"dpmpp_2m karras"`, `"EulerDiscreteScheduler"`.
///
/// Upper and lower case, spaces, `_` and `-` make no difference. Printed, it is its canonical name.
#[derive(Clone, Copy)]
pub struct SchedulerName {
    solver: &'static SolverRow,
    schedule: Option<&'static ScheduleRow>,
}

impl SchedulerName {
    /// The diffusers class behind the name, or this library's own where diffusers has none.
    pub fn class(&self) -> &'static str {
        self.solver.class
    }

    /// Sets the keys that the name stands for.
    pub(crate) fn apply(&self, map: &mut Map<String, Value>) {
        let schedule = self.schedule.map_or([].as_slice(), |row| row.options);
        for (key, value) in self.solver.options.iter().chain(schedule) {
            let value = match *value {
                Opt::Flag(flag) => Value::from(flag),
                Opt::Text(text) => Value::from(text),
                Opt::Count(count) => Value::from(count),
            };
            map.insert((*key).into(), value);
        }
    }
}

impl FromStr for SchedulerName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let name = squeezed(text);
        if let Some(solver) = solver(&name) {
            return Ok(Self {
                solver,
                schedule: None,
            });
        }
        let both = SCHEDULES.iter().find_map(|schedule| {
            let mut spellings = schedule.aliases.iter().chain([&schedule.name]);
            let solver = spellings.find_map(|s| solver(name.strip_suffix(&squeezed(s))?))?;
            Some(Self {
                solver,
                schedule: Some(schedule),
            })
        });
        both.ok_or_else(|| unknown(text))
    }
}

impl fmt::Display for SchedulerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.solver.name)?;
        match self.schedule {
            Some(schedule) => write!(f, " {}", schedule.name),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for SchedulerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SchedulerName({self})")
    }
}

impl PartialEq for SchedulerName {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for SchedulerName {}

/// The solver with that squeezed name.
fn solver(name: &str) -> Option<&'static SolverRow> {
    SOLVERS
        .iter()
        .find(|row| spellings(row).any(|s| squeezed(s) == name))
}

/// All names of a solver: its own, its aliases, and the class where it is that class's default.
fn spellings(row: &'static SolverRow) -> impl Iterator<Item = &'static str> {
    let class = row.options.is_empty().then_some(row.class);
    [row.name]
        .into_iter()
        .chain(row.aliases.iter().copied())
        .chain(class)
}

/// Lower case, without what separates words.
fn squeezed(name: &str) -> String {
    let kept = name
        .chars()
        .filter(|c| !matches!(c, ' ' | '_' | '-' | '\t'));
    kept.flat_map(char::to_lowercase).collect()
}

fn unknown(text: &str) -> NameError {
    let name = shortened(text);
    let candidates = SOLVERS.iter().flat_map(spellings);
    NameError {
        nearest: nearest(&name, candidates, 3),
        known: names(),
        name,
    }
}
