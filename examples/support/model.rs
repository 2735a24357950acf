//! A model of the command line: a folder, or a hub's.

use std::error::Error;
use std::path::Path;

use sd_pipeline::{OpenOptions, Pipeline};

/// Opens `model`: a path, or a hub's model where it begins with `hf:`.
pub(crate) fn open_model(
    model: &Path,
    offline: bool,
    options: &OpenOptions,
) -> Result<Pipeline, Box<dyn Error>> {
    match model.to_str().and_then(|name| name.strip_prefix("hf:")) {
        Some(name) => from_hub(name, offline, options),
        None => Ok(Pipeline::open(model, options)?),
    }
}

#[cfg(not(feature = "hub-http"))]
fn from_hub(_: &str, _: bool, _: &OpenOptions) -> Result<Pipeline, Box<dyn Error>> {
    Err(
        "models of a hub need the feature hub: cargo run --release --features hub --example …"
            .into(),
    )
}

#[cfg(feature = "hub-http")]
fn from_hub(name: &str, offline: bool, options: &OpenOptions) -> Result<Pipeline, Box<dyn Error>> {
    use std::ops::ControlFlow;
    use std::sync::Mutex;

    use indicatif::{ProgressBar, ProgressStyle};
    use sd_pipeline::hub::{Hub, Settings};

    let mut settings = Settings::from_env()?;
    settings.offline |= offline;
    if settings.endpoint.starts_with("https:") && !settings.offline && cfg!(not(feature = "hub")) {
        let needed = "cargo run --release --features hub --example …";
        let endpoint = settings.endpoint;
        return Err(format!("{endpoint} needs the feature hub: {needed}").into());
    }
    let template = "{msg} {bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar());
    let bar = ProgressBar::no_length().with_style(style);
    let (told, file) = (bar.clone(), Mutex::new(String::new()));
    let hub = Hub::new(settings)?.with_progress(move |progress| {
        if let Ok(mut file) = file.lock()
            && *file != progress.file
        {
            progress.file.clone_into(&mut file);
            told.reset();
            told.set_message(file.clone());
            // What an earlier run fetched says nothing of the speed.
            told.set_position(progress.done);
            told.reset_eta();
        }
        told.set_length(progress.total.unwrap_or(progress.done));
        told.set_position(progress.done);
        ControlFlow::Continue(())
    });
    let pipeline = Pipeline::from_hub_with(&hub, name, options);
    bar.finish_and_clear();
    Ok(pipeline?)
}
