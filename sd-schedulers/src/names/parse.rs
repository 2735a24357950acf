use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};

use super::markdown::names;
use super::nearest::nearest;
use super::table::{
    ConfigValue, Frontend, FrontendSchedule, FrontendSolver, Options, ScheduleRow, SolverRow,
};
use super::{FRONTENDS, SCHEDULES, SOLVERS};
use crate::NameError;
use crate::error::shortened;

/// A solver and, if one was named, a sigma schedule: `"DPM++ 2M Karras"`, `"euler_a"`,
/// `"dpmpp_2m karras"`, `"EulerDiscreteScheduler"`.
///
/// Upper and lower case, spaces, `_` and `-` make no difference. A name means the class with its
/// default options, whichever program it is from, but for ComfyUI's `uni_pc` and `uni_pc_bh2`. With
/// a prefix, `a1111:DPM2`, `comfyui:dpm_2 karras`, `sd.cpp:…`, it is the program's own variant, on
/// the schedule that is usual there if none is named, and the model's `scheduler_config.json` does
/// not come in. `diffusers:…` is a class's name. Printed, it is its canonical name.
///
/// A schedule behind a solver that has levels of its own (`DDIM Karras`) is ignored, as these
/// programs do, and not printed.
///
#[doc = include_str!("../../NAMES.md")]
#[derive(Clone, Copy)]
pub struct SchedulerName {
    solver: &'static SolverRow,
    origin: Origin,
}

/// Origin of the solver that is meant, and its schedule.
#[derive(Clone, Copy)]
enum Origin {
    Class(Option<&'static ScheduleRow>),
    Frontend {
        frontend: &'static Frontend,
        name: &'static FrontendSolver,
        /// The one named, if it counts.
        schedule: Option<&'static FrontendSchedule>,
    },
}

impl SchedulerName {
    /// The diffusers class behind the name, or this library's own where diffusers has none.
    pub fn class(&self) -> &'static str {
        self.solver.class
    }

    /// True of a program's own variant, which has nothing to do with a model's
    /// `scheduler_config.json`.
    pub(crate) fn is_variant(&self) -> bool {
        matches!(self.origin, Origin::Frontend { .. })
    }

    /// Sets the keys that the name stands for.
    pub(crate) fn apply(&self, map: &mut Map<String, Value>) {
        match self.origin {
            Origin::Class(schedule) => {
                set(map, self.solver.options);
                if let Some(row) = schedule {
                    map.insert(row.key.into(), row.value.into());
                }
            }
            Origin::Frontend {
                frontend,
                name,
                schedule,
            } => {
                set(map, frontend.options);
                set(map, self.solver.options);
                let usual = name.schedule.filter(|_| frontend.automatic.is_none());
                let usual = frontend.schedule(usual.unwrap_or(frontend.usual));
                if let Some(row) = usual {
                    map.insert("sigmas".into(), row.value.into());
                }
                set(map, name.options);
                if let Some(row) = schedule {
                    map.insert("sigmas".into(), row.value.into());
                }
            }
        }
    }
}

fn set(map: &mut Map<String, Value>, options: Options) {
    for (key, value) in options {
        let value = match *value {
            ConfigValue::Flag(flag) => Value::from(flag),
            ConfigValue::Text(text) => Value::from(text),
            ConfigValue::Count(count) => Value::from(count),
            ConfigValue::Number(number) => Value::from(number),
        };
        map.insert((*key).into(), value);
    }
}

impl Frontend {
    fn schedule(&self, name: &str) -> Option<&'static FrontendSchedule> {
        self.schedules.iter().find(|row| row.name == name)
    }

    /// The program's own variant of that name.
    fn parse(&'static self, name: &str) -> Option<SchedulerName> {
        let solver = |name: &str| find(self.solvers, name, |row| vec![row.name]);
        let of = |name: &'static FrontendSolver, schedule: Option<&'static FrontendSchedule>| {
            let solver = SOLVERS.iter().find(|row| row.name == name.solver)?;
            let schedule = schedule.filter(|_| solver.takes_sigmas);
            let origin = Origin::Frontend {
                frontend: self,
                name,
                schedule,
            };
            Some(SchedulerName { solver, origin })
        };
        if let Some(name) = solver(name) {
            return of(name, None);
        }
        let automatic = self.automatic.into_iter().find_map(|spelling| {
            let name = before(name, spelling, solver)?;
            of(name, self.schedule(name.schedule.unwrap_or(self.usual)))
        });
        let named = || {
            self.schedules
                .iter()
                .find_map(|row| of(before(name, row.name, solver)?, Some(row)))
        };
        automatic.or_else(named)
    }
}

impl FromStr for SchedulerName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let found = match text.split_once(':') {
            None => bare(&worded(text)),
            Some((prefix, rest)) => {
                let (prefix, rest) = (prefix.trim().to_lowercase(), worded(rest));
                let frontend = FRONTENDS
                    .iter()
                    .find(|frontend| frontend.prefixes.contains(&prefix.as_str()));
                match frontend {
                    Some(frontend) => frontend.parse(&rest),
                    None if prefix == "diffusers" => class(&rest).map(|solver| Self {
                        solver,
                        origin: Origin::Class(None),
                    }),
                    None => None,
                }
            }
        };
        found.ok_or_else(|| unknown(text))
    }
}

/// The meaning of a name without a prefix.
fn bare(name: &str) -> Option<SchedulerName> {
    // `UniPC` and `uni_pc` are two, so the words count before the letters alone do.
    for frontend in FRONTENDS {
        let own = ["uni_pc", "uni_pc_bh2"];
        if let Some(found) = frontend.parse(name)
            && let Origin::Frontend { name: row, .. } = found.origin
            && own.contains(&row.name)
            && name.starts_with(row.name)
        {
            return Some(found);
        }
    }
    let of = |solver: &'static SolverRow, schedule: Option<&'static ScheduleRow>| SchedulerName {
        solver,
        origin: Origin::Class(schedule.filter(|_| solver.takes_sigmas)),
    };
    if let Some(solver) = solver(name) {
        return Some(of(solver, None));
    }
    let tools = FRONTENDS.iter().flat_map(|frontend| frontend.schedules);
    let theirs = tools.filter_map(|row| {
        let schedule = SCHEDULES.iter().find(|own| own.name == row.bare)?;
        Some((row.name, schedule))
    });
    let mut schedules = SCHEDULES.iter().map(|row| (row.name, row)).chain(theirs);
    schedules
        .find_map(|(spelling, schedule)| Some(of(before(name, spelling, solver)?, Some(schedule))))
}

/// The solver with that name: its own, a class's, or that of any program.
fn solver(name: &str) -> Option<&'static SolverRow> {
    let spellings = |row: &'static SolverRow| {
        let tools = FRONTENDS.iter().flat_map(|frontend| frontend.solvers);
        let theirs = tools.filter(|named| named.bare == row.name).map(|n| n.name);
        [row.name].into_iter().chain(theirs).collect()
    };
    find(SOLVERS, name, |row| vec![row.name])
        .or_else(|| find(SOLVERS, name, spellings))
        .or_else(|| class(name))
}

/// The class with that name, with or without the common ending.
fn class(name: &str) -> Option<&'static SolverRow> {
    let (name, full) = (squeezed(name), squeezed(&format!("{name}scheduler")));
    let mut classes = SOLVERS.iter().filter(|row| row.options.is_empty());
    classes.find(|row| [&name, &full].contains(&&squeezed(row.class)))
}

/// The first row one of whose spellings is `name`, by words or else by letters.
fn find<T>(
    rows: &'static [T],
    name: &str,
    spellings: impl Fn(&'static T) -> Vec<&'static str>,
) -> Option<&'static T> {
    let by = |key: fn(&str) -> String| {
        let name = key(name);
        rows.iter()
            .find(|row| spellings(row).iter().any(|n| key(n) == name))
    };
    by(worded).or_else(|| by(squeezed))
}

/// Answer of `solver` to `name` without the schedule `spelling` at its end.
fn before<T>(name: &str, spelling: &str, solver: impl Fn(&str) -> Option<T>) -> Option<T> {
    let words = name.strip_suffix(&worded(spelling)).map(worded);
    let letters = || {
        let name = squeezed(name);
        Some(name.strip_suffix(&squeezed(spelling))?.to_owned())
    };
    solver(&words.or_else(letters)?)
}

impl fmt::Display for SchedulerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schedule = match self.origin {
            Origin::Class(schedule) => {
                f.write_str(self.solver.name)?;
                schedule.map(|row| row.name)
            }
            Origin::Frontend {
                frontend,
                name,
                schedule,
            } => {
                write!(f, "{}:{}", frontend.prefixes[0], name.name)?;
                schedule.map(|row| row.name)
            }
        };
        match schedule {
            Some(schedule) => write!(f, " {schedule}"),
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
    let tools = FRONTENDS.iter().flat_map(|frontend| frontend.solvers);
    let own = SOLVERS.iter().flat_map(|row| [row.name, row.class]);
    let candidates = own.chain(tools.map(|row| row.name));
    NameError {
        nearest: nearest(&name, candidates, 3),
        known: names(),
        name,
    }
}
