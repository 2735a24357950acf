use super::Storage;

/// Table of one component's tensors: diffusers' names and the single file's.
#[derive(Debug, Clone)]
pub struct Layout {
    prefix: String,
    rows: Vec<Row>,
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
        self.rows.iter().find_map(|row| {
            let inner = inside(&row.diffusers, name)?;
            Some(Place {
                name: format!("{}{}{inner}", self.prefix, row.file),
                storage: row.storage,
            })
        })
    }

    /// Diffusers' names of the tensors that the file's tensor `name` holds, each with the form in
    /// which it does: one as a rule, three for OpenCLIP's queries, keys and values, and none where
    /// the component does not use it.
    pub fn in_diffusers(&self, name: &str) -> Vec<(String, Storage)> {
        let Some(name) = name.strip_prefix(&self.prefix) else {
            return Vec::new();
        };
        let tensors = self.rows.iter().filter_map(|row| {
            let inner = inside(&row.file, name)?;
            Some((format!("{}{inner}", row.diffusers), row.storage))
        });
        tensors.collect()
    }

    pub(super) fn row(
        &mut self,
        diffusers: impl Into<String>,
        file: impl Into<String>,
        storage: Storage,
    ) {
        self.rows.push(Row {
            diffusers: diffusers.into(),
            file: file.into(),
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

/// The rest of `name`, which begins with a dot or is empty, behind the module or tensor `outer`.
fn inside<'a>(outer: &str, name: &'a str) -> Option<&'a str> {
    let rest = name.strip_prefix(outer)?;
    (rest.is_empty() || rest.starts_with('.')).then_some(rest)
}
