use std::collections::HashMap;

use super::Storage;

/// Table of one component's tensors: diffusers' names and the single file's.
#[derive(Debug, Clone)]
pub struct Layout {
    prefix: String,
    rows: Vec<Row>,
    /// Numbers of the rows, by each of their names.
    by_diffusers: HashMap<String, Vec<usize>>,
    by_file: HashMap<String, Vec<usize>>,
}

/// One row: a tensor, or a module whose tensors have the same names in both layouts.
#[derive(Debug, Clone)]
struct Row {
    diffusers: String,
    file: String,
    storage: Storage,
}

/// Place of one of diffusers' tensors in a single file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The name of the file's tensor.
    pub name: String,
    /// The form in which it holds diffusers'.
    pub storage: Storage,
}

impl Layout {
    pub(super) fn new() -> Self {
        Self {
            prefix: String::new(),
            rows: Vec::new(),
            by_diffusers: HashMap::new(),
            by_file: HashMap::new(),
        }
    }

    /// The same table with the file's names behind `prefix` and a dot: a component's name in a file
    /// of several.
    #[must_use]
    pub fn under(mut self, prefix: &str) -> Self {
        self.prefix = format!("{prefix}.");
        self
    }

    /// Place of a tensor that diffusers calls `name`; `None` where the component has no such one.
    pub fn in_file(&self, name: &str) -> Option<Place> {
        let (row, inner) = self.found(&self.by_diffusers, name).next()?;
        Some(Place {
            name: format!("{}{}{inner}", self.prefix, row.file),
            storage: row.storage,
        })
    }

    /// Diffusers' names of the tensors that the file's tensor `name` holds, each with the form in
    /// which it does: one as a rule, three for OpenCLIP's queries, keys and values, and none where
    /// the component does not use it.
    pub fn in_diffusers(&self, name: &str) -> Vec<(String, Storage)> {
        let Some(name) = name.strip_prefix(&self.prefix) else {
            return Vec::new();
        };
        let found = self.found(&self.by_file, name);
        let tensors = found.map(|(row, inner)| (format!("{}{inner}", row.diffusers), row.storage));
        tensors.collect()
    }

    /// The rows that `names` has for `name` or for a module that it is in, each with the rest of the
    /// name.
    fn found<'a>(
        &'a self,
        names: &'a HashMap<String, Vec<usize>>,
        name: &'a str,
    ) -> impl Iterator<Item = (&'a Row, &'a str)> {
        let dots = name.rmatch_indices('.').map(|(at, _)| at);
        let modules = [name.len()].into_iter().chain(dots);
        modules.flat_map(move |end| {
            let rows = names.get(&name[..end]).into_iter().flatten();
            rows.map(move |row| (&self.rows[*row], &name[end..]))
        })
    }

    pub(super) fn row(
        &mut self,
        diffusers: impl Into<String>,
        file: impl Into<String>,
        storage: Storage,
    ) {
        let (diffusers, file) = (diffusers.into(), file.into());
        let number = self.rows.len();
        let by = [
            (&mut self.by_diffusers, &diffusers),
            (&mut self.by_file, &file),
        ];
        for (names, name) in by {
            names.entry(name.clone()).or_default().push(number);
        }
        self.rows.push(Row {
            diffusers,
            file,
            storage,
        });
    }

    /// Modules and tensors that are stored as they are, by their names within a module that
    /// diffusers calls `diffusers` and the file `file`.
    pub(super) fn rows_in(&mut self, diffusers: &str, file: &str, rows: &[(&str, &str)]) {
        for (ours, theirs) in rows {
            let [ours, theirs] = [join(diffusers, ours), join(file, theirs)];
            self.row(ours, theirs, Storage::Whole);
        }
    }
}

fn join(module: &str, name: &str) -> String {
    match module {
        "" => name.into(),
        _ => format!("{module}.{name}"),
    }
}
