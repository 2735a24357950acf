//! The rows of the tables of names.

/// A value of a configuration key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ConfigValue {
    Flag(bool),
    Text(&'static str),
    Count(u32),
    Number(f64),
}

/// Configuration keys and their values.
pub(crate) type Options = &'static [(&'static str, ConfigValue)];

/// A solver by its own name.
#[derive(Debug)]
pub(crate) struct SolverRow {
    /// The name it is printed with.
    pub(crate) name: &'static str,
    /// The class it is.
    pub(crate) class: &'static str,
    /// Options that tell it from the class's defaults.
    pub(crate) options: Options,
    /// True of a solver that can run on any σ.
    pub(crate) takes_sigmas: bool,
}

/// A sigma schedule by its own name.
#[derive(Debug)]
pub(crate) struct ScheduleRow {
    /// The name it is printed with behind the solver's.
    pub(crate) name: &'static str,
    /// The key that asks for it, and the value.
    pub(crate) key: &'static str,
    pub(crate) value: &'static str,
}

/// A program's names, and how what they stand for differs from the classes' defaults.
#[derive(Debug)]
pub(crate) struct Frontend {
    /// Prefixes that ask for the program's own variants, the first in print.
    pub(crate) prefixes: &'static [&'static str],
    /// Options that all its solvers have.
    pub(crate) options: Options,
    pub(crate) solvers: &'static [FrontendSolver],
    pub(crate) schedules: &'static [FrontendSchedule],
    /// The schedule of a solver that is named alone.
    pub(crate) usual: &'static str,
    /// A schedule's name that stands for each solver's own.
    pub(crate) automatic: Option<&'static str>,
}

/// A program's name of a solver.
#[derive(Debug)]
pub(crate) struct FrontendSolver {
    pub(crate) name: &'static str,
    /// The own name of the solver it is.
    pub(crate) solver: &'static str,
    /// Options that tell the program's variant from the solver.
    pub(crate) options: Options,
    /// The schedule it goes with in this program.
    pub(crate) schedule: Option<&'static str>,
    /// The own name of the solver that the name means without a prefix.
    pub(crate) bare: &'static str,
}

/// The row of a solver's name.
pub(crate) const fn solver(
    name: &'static str,
    solver: &'static str,
    options: Options,
) -> FrontendSolver {
    FrontendSolver {
        name,
        solver,
        options,
        schedule: None,
        bare: solver,
    }
}

impl FrontendSolver {
    /// The same with the schedule it goes with.
    pub(crate) const fn with(mut self, schedule: &'static str) -> Self {
        self.schedule = Some(schedule);
        self
    }

    /// The same that means something else without a prefix.
    pub(crate) const fn bare(mut self, solver: &'static str) -> Self {
        self.bare = solver;
        self
    }
}

/// A program's name of a sigma schedule.
#[derive(Debug)]
pub(crate) struct FrontendSchedule {
    pub(crate) name: &'static str,
    /// The own name of the schedule that the name means without a prefix.
    pub(crate) bare: &'static str,
    /// The schedule it is in the program.
    pub(crate) value: &'static str,
}

/// The row of a schedule's name.
pub(crate) const fn schedule(
    name: &'static str,
    bare: &'static str,
    value: &'static str,
) -> FrontendSchedule {
    FrontendSchedule { name, bare, value }
}
