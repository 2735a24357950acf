use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};

use super::nearest::nearest;
use super::table::{Dialect, Opt, ScheduleRow, SolverRow, names};
use super::{SCHEDULES, SOLVERS};
use crate::NameError;
use crate::error::shortened;

/// A solver and, if one was named, a sigma schedule: `"DPM++ 2M Karras"`, `"euler_a"`,
/// `"dpmpp_2m karras"`, `"EulerDiscreteScheduler"`.
///
/// Upper and lower case, spaces, `_` and `-` make no difference. Printed, it is its canonical name.
/// A name means the class with its default options; a program's own variant of a name that several
/// have comes with a prefix, `a1111:DPM2`, `comfyui:…`, `sd.cpp:…` or `diffusers:…`. A schedule
/// behind a solver that has levels of its own (`DDIM Karras`) is ignored, as these programs do, and
/// not printed.
///
#[doc = include_str!("../../NAMES.md")]
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
        let (dialect, rest) = match text.split_once(':') {
            Some((prefix, rest)) => match Dialect::named(prefix) {
                Some(dialect) => (Some(dialect), rest),
                None => return Err(unknown(text)),
            },
            None => (None, text),
        };
        let name = worded(rest);
        if let Some(solver) = solver(&name, dialect) {
            return Ok(Self {
                solver,
                schedule: None,
            });
        }
        let both = SCHEDULES.iter().find_map(|schedule| {
            let front = |spelling: &str| {
                let words = name.strip_suffix(&worded(spelling)).map(worded);
                let letters = || {
                    Some(
                        squeezed(&name)
                            .strip_suffix(&squeezed(spelling))?
                            .to_owned(),
                    )
                };
                solver(&words.or_else(letters)?, dialect)
            };
            let solver = schedule.spellings().find_map(front)?;
            Some(Self {
                solver,
                schedule: solver.takes_sigmas.then_some(schedule),
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

/// The solver with that name: in one dialect, or by its own name and then in any. `UniPC` and
/// `uni_pc` are two, so the words count before the letters alone do.
fn solver(name: &str, dialect: Option<Dialect>) -> Option<&'static SolverRow> {
    let by = |key: fn(&str) -> String| {
        let name = key(name);
        let called = |names: &[&str]| names.iter().any(|n| key(n) == name);
        let find = |is: &dyn Fn(&SolverRow) -> bool| SOLVERS.iter().find(|row| is(row));
        match dialect {
            Some(dialect) => find(&|row| called(row.names_in(dialect))),
            None => find(&|row| called(&[row.name]))
                .or_else(|| find(&|row| ALL.iter().any(|d| called(row.names_in(*d))))),
        }
    };
    // diffusers' classes are also known without their common ending.
    let class = squeezed(&format!("{name}scheduler"));
    let short = || match dialect {
        None | Some(Dialect::Diffusers) => SOLVERS
            .iter()
            .find(|row| row.options.is_empty() && squeezed(row.class) == class),
        _ => None,
    };
    by(worded).or_else(|| by(squeezed)).or_else(short)
}

const ALL: [Dialect; 4] = [
    Dialect::A1111,
    Dialect::ComfyUi,
    Dialect::SdCpp,
    Dialect::Diffusers,
];

/// All names of a solver.
fn spellings(row: &'static SolverRow) -> impl Iterator<Item = &'static str> {
    let others = ALL.into_iter().flat_map(|dialect| row.names_in(dialect));
    [row.name].into_iter().chain(others.copied())
}

/// Lower case, with `_` between words and nothing around them.
fn worded(name: &str) -> String {
    let words = name
        .split([' ', '_', '-', '\t'])
        .filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("_").to_lowercase()
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
