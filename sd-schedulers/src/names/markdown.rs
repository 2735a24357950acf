//! The tables of names in print.

use super::table::{Opt, Options, Tool};
use super::{SCHEDULES, SOLVERS, TOOLS, list};

/// The own names of all solvers.
pub fn names() -> Vec<&'static str> {
    SOLVERS.iter().map(|row| row.name).collect()
}

/// The programs' own variants of solvers, each with its prefix: `a1111:DPM2` for example.
pub fn variants() -> Vec<String> {
    let of = |tool: &&'static Tool| {
        let prefix = tool.prefixes[0];
        let solvers = tool.solvers.iter();
        solvers.map(move |row| format!("{prefix}:{}", row.name))
    };
    TOOLS.iter().flat_map(of).collect()
}

/// All names of solvers and sigma schedules as Markdown tables; `NAMES.md` beside the crate's
/// manifest is this.
pub fn names_markdown() -> String {
    let mut text = String::from(
        "| solver | class | options | A1111 | ComfyUI | stable-diffusion.cpp | any σ |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for row in SOLVERS {
        let tools = TOOLS.map(|tool| {
            let named = tool.solvers.iter().filter(|n| n.bare == row.name);
            code(named.map(|n| n.name))
        });
        text += &format!(
            "| {} | `{}` | {} | {} | {} |\n",
            row.name,
            row.class,
            options(row.options),
            tools.join(" | "),
            if row.takes_sigmas { "yes" } else { "no" },
        );
    }
    text += "\n| schedule | A1111 | ComfyUI | stable-diffusion.cpp |\n|---|---|---|---|\n";
    for row in SCHEDULES {
        let tools = TOOLS.map(|tool| {
            let named = tool.schedules.iter().filter(|n| n.bare == row.name);
            code(named.map(|n| n.name))
        });
        text += &format!("| {} | {} |\n", row.name, tools.join(" | "));
    }
    text += "\nWith a prefix a name means the program's own variant. What differs from the solver's \
             defaults:\n\n| name | solver | options |\n|---|---|---|\n";
    for tool in TOOLS {
        let prefix = tool.prefixes[0];
        text += &format!("| `{prefix}:…` | all | {} |\n", options(tool.options));
        for row in tool.solvers {
            let own_schedule = row.schedule.filter(|_| tool.automatic.is_none());
            if row.options.is_empty() && row.solver == row.bare && own_schedule.is_none() {
                continue;
            }
            let mut differs = Vec::new();
            if !row.options.is_empty() {
                differs.push(options(row.options));
            }
            differs.extend(own_schedule.map(|name| format!("schedule `{name}`")));
            let name = format!("`{prefix}:{}`", row.name);
            let differs = if differs.is_empty() {
                "–".into()
            } else {
                differs.join(", ")
            };
            text += &format!("| {name} | {} | {differs} |\n", row.solver);
        }
        let own = |bare| {
            let row = SCHEDULES.iter().find(|row| row.name == bare);
            row.map(|row| row.value)
        };
        for row in tool.schedules {
            if own(row.bare) != Some(row.value) {
                text += &format!(
                    "| `{prefix}:… {}` | all | `sigmas={}` |\n",
                    row.name, row.value
                );
            }
        }
    }
    text
}

fn code<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    if quoted.is_empty() {
        "–".into()
    } else {
        list(&quoted)
    }
}

fn options(options: Options) -> String {
    let texts: Vec<String> = options
        .iter()
        .map(|(key, value)| match value {
            Opt::Flag(flag) => format!("`{key}={flag}`"),
            Opt::Text(text) => format!("`{key}={text}`"),
            Opt::Count(count) => format!("`{key}={count}`"),
            Opt::Number(number) => format!("`{key}={number}`"),
        })
        .collect();
    if texts.is_empty() {
        "–".into()
    } else {
        list(&texts)
    }
}
