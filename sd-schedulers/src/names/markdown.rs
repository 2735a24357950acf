//! The tables of names in print.

use super::table::{ConfigValue, Frontend, Options};
use super::{FRONTENDS, SCHEDULES, SOLVERS, list};

/// The own names of all solvers.
pub fn names() -> Vec<&'static str> {
    SOLVERS.iter().map(|row| row.name).collect()
}

/// The programs' own variants of solvers, each with its prefix: `a1111:DPM2` for example.
pub fn variants() -> Vec<String> {
    let of = |frontend: &&'static Frontend| {
        let prefix = frontend.prefixes[0];
        let solvers = frontend.solvers.iter();
        solvers.map(move |row| format!("{prefix}:{}", row.name))
    };
    FRONTENDS.iter().flat_map(of).collect()
}

/// All names of solvers and sigma schedules as Markdown tables; `NAMES.md` beside the crate's
/// manifest is this.
pub fn names_markdown() -> String {
    let mut text = String::from(
        "| solver | class | options | A1111 | ComfyUI | stable-diffusion.cpp | any σ |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for row in SOLVERS {
        let tools = FRONTENDS.map(|frontend| {
            let named = frontend.solvers.iter().filter(|n| n.bare == row.name);
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
        let tools = FRONTENDS.map(|frontend| {
            let named = frontend.schedules.iter().filter(|n| n.bare == row.name);
            code(named.map(|n| n.name))
        });
        text += &format!("| {} | {} |\n", row.name, tools.join(" | "));
    }
    text += "\nWith a prefix a name means the program's own variant. What differs from the solver's \
             defaults:\n\n| name | solver | options |\n|---|---|---|\n";
    for frontend in FRONTENDS {
        let prefix = frontend.prefixes[0];
        text += &format!("| `{prefix}:…` | all | {} |\n", options(frontend.options));
        for row in frontend.solvers {
            let own_schedule = row.schedule.filter(|_| frontend.automatic.is_none());
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
        for row in frontend.schedules {
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
            ConfigValue::Flag(flag) => format!("`{key}={flag}`"),
            ConfigValue::Text(text) => format!("`{key}={text}`"),
            ConfigValue::Count(count) => format!("`{key}={count}`"),
            ConfigValue::Number(number) => format!("`{key}={number}`"),
        })
        .collect();
    if texts.is_empty() {
        "–".into()
    } else {
        list(&texts)
    }
}
