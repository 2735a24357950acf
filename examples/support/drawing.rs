//! A drawing by the arguments, from the models' folders to the pictures' files.

use std::error::Error;
use std::io::Write;
use std::time::{Duration, Instant};

use sd_pipeline::{
    DenoiserPair, OpenOptions, OutputFile, Picture, Pipeline, Preview, Record, Request, Resampling,
    Residency, Run, device, resize, write_latents, write_picture,
};

use super::{Arguments, Report, open_model, progress_bar, tell};

/// Models that were opened for one drawing.
pub(crate) struct Drawing<'a> {
    arguments: &'a Arguments,
    /// Of the picture that is drawn again.
    record: Option<Record>,
    pub(crate) pipeline: Pipeline,
    refiner: Option<Pipeline>,
    seed: u64,
    open: Duration,
}

impl<'a> Drawing<'a> {
    /// Opens what `arguments` name, as the picture of `record` was drawn where there is one.
    pub(crate) fn open(
        arguments: &'a Arguments,
        record: Option<Record>,
    ) -> Result<Self, Box<dyn Error>> {
        let recorded = record.as_ref();
        let seed = recorded.and_then(|record| record.seed);
        let seed = seed.unwrap_or(arguments.seed.value);
        if arguments.seed.random {
            tell(format_args!("seed {seed}"));
        }
        let clock = Instant::now();
        let device = device(&arguments.device)?;
        let options = OpenOptions {
            dtype: recorded
                .and_then(Record::dtype)
                .unwrap_or(arguments.dtype()),
            scheduler: match recorded {
                Some(record) => record.scheduler.clone(),
                None => arguments.scheduler.clone(),
            },
            variant: arguments.variant.clone(),
            unknown_settings: arguments.unknown_settings(),
            weight_storage: recorded
                .and_then(Record::weight_storage)
                .unwrap_or(arguments.memory()),
            int8: recorded.is_some_and(|record| record.int8) || arguments.compute.is_some(),
            // One run: nothing is needed again.
            residency: Residency::PerPhase,
            safety: arguments.safety(),
            memory_limit: arguments.memory_limit,
            ..OpenOptions::new(&device)
        };
        let own = OpenOptions {
            folders: arguments.folders(),
            prediction: arguments.prediction(),
            family: arguments.family.clone(),
            config: arguments.config.clone(),
            loras: match arguments.adapters.report_only || arguments.adapters.lora_at_run_time {
                true => Vec::new(),
                false => arguments.adapters.loras()?,
            },
            words: match arguments.adapters.report_only {
                true => Vec::new(),
                false => arguments.adapters.words()?,
            },
            ..options.clone()
        };
        let mut pipeline = match &arguments.model {
            Some(model) => open_model(model, arguments.offline, &own)?,
            None => sd_tiny::open(&own)?,
        };
        if !arguments.adapters.report_only {
            pipeline = (arguments.adapters).with_image_adapters(pipeline, &options)?;
        }
        let controls = arguments
            .controls
            .networks(&pipeline, arguments.model.as_deref(), &own)?;
        if !controls.is_empty() {
            pipeline = pipeline.with_controls(&controls)?;
        }
        if arguments.adapters.lora_at_run_time && !arguments.adapters.report_only {
            pipeline = pipeline.with_loras_at_run_time(&arguments.adapters.loras()?)?;
        }
        arguments.check_safety(&pipeline);
        if arguments.model.is_none() {
            pipeline.name = Some("sd-tiny".into());
        }
        if let Some(record) = recorded.filter(|record| record.model != pipeline.name) {
            let [drew, draws] = [&record.model, &pipeline.name].map(|name| name.as_deref());
            tell(format_args!(
                "warning: the picture was drawn by the model {:?}, and now by {:?}",
                drew.unwrap_or_default(),
                draws.unwrap_or_default(),
            ));
        }
        if let Some(record) = recorded.filter(|record| record.adapters != pipeline.adapters()) {
            let [drew, draws] =
                [record.adapters.as_slice(), pipeline.adapters()].map(|names| match names {
                    [] => String::from("none"),
                    names => names.join(", "),
                });
            let give =
                "give the same with --lora FILE:SCALE, --lora-at-run-time and --embedding FILE";
            return Err(
                format!("the picture was drawn with adapters {drew}, not {draws}: {give}").into(),
            );
        }
        if let Some(model) = arguments.second_model()? {
            let second = open_model(model, arguments.offline, &options)?;
            let pair = DenoiserPair::new(pipeline.denoiser.get()?, second.denoiser.get()?)?;
            pipeline.denoiser = pair.into();
        }
        let refiner = arguments.refiner.as_ref();
        let refiner = refiner.map(|model| open_model(model, arguments.offline, &options));
        Ok(Self {
            arguments,
            record,
            pipeline,
            refiner: refiner.transpose()?,
            seed,
            open: clock.elapsed(),
        })
    }

    /// The request that the arguments say.
    ///
    /// # Errors
    /// Those that the model does not take.
    pub(crate) fn request(&self) -> Result<Request, Box<dyn Error>> {
        Ok(Request {
            seed: self.seed,
            watermark: self.arguments.watermark.clone().map(Into::into),
            controls: self.arguments.controls.pictures()?,
            guess_mode: self.arguments.controls.guess_mode,
            ..self.arguments.request(&self.pipeline)?
        })
    }

    /// Draws `request` and writes its pictures, and whatever else the arguments want to have.
    pub(crate) fn draw(self, request: &Request) -> Result<(), Box<dyn Error>> {
        let (arguments, pipeline) = (self.arguments, &self.pipeline);
        if arguments.estimate {
            let estimate = pipeline.estimate(request)?;
            match arguments.json {
                true => writeln!(std::io::stdout(), "{}", serde_json::to_string(&estimate)?)?,
                false => writeln!(std::io::stdout(), "{estimate}")?,
            }
            return Ok(());
        }
        let mut report = Report {
            seed: self.seed,
            ..Report::default()
        };
        let mut run = started(pipeline, request, &mut report)?;
        self.take_steps(&mut run, &mut report)?;
        let mut loaded = pipeline.load_time();
        if let Some(refiner) = &self.refiner {
            let request = request.refining(run.hand_over()?);
            report.watch(run.memory_peaks());
            run = started(refiner, &request, &mut report)?;
            self.take_steps(&mut run, &mut report)?;
            loaded += refiner.load_time();
        }

        let clock = Instant::now();
        let images = run.images()?;
        let all = self.refiner.iter().chain([pipeline]);
        let all: Duration = all.map(Pipeline::load_time).sum();
        report.load = self.open + all;
        report.decode = clock.elapsed().saturating_sub(all - loaded);
        report.watch(run.memory_peaks());
        let is_flagged = |image: &Picture| image.verdict.as_ref().is_some_and(|v| v.flagged);
        report.flagged = images.iter().map(is_flagged).collect();

        if let Some(file) = &arguments.latents_out {
            write_latents(run.latents(), file)?;
        }
        // Of those that were drawn with it, the one that is drawn again.
        let one = self
            .record
            .as_ref()
            .and_then(|record| images.get(record.index));
        let images = one.map_or(&*images, std::slice::from_ref);
        for (image, file) in images.iter().zip(arguments.output_files()) {
            match arguments.no_record {
                true => write_picture(image, file)?,
                false => image.write(file)?,
            }
        }
        if arguments.json {
            writeln!(std::io::stdout(), "{}", report.json())?;
        }
        Ok(())
    }

    /// All steps of `run`, with previews on the way.
    fn take_steps(&self, run: &mut Run, report: &mut Report) -> Result<(), Box<dyn Error>> {
        let bar = progress_bar(run.steps());
        let mut clock = Instant::now();
        while let Some(step) = run.next() {
            let step = step?;
            bar.set_position(step.done as u64);
            report.steps.push(clock.elapsed());
            let every = self.arguments.preview_every;
            if every.is_some_and(|every| (step.done as u64).is_multiple_of(every))
                && !run.is_finished()
            {
                self.write_previews(run, step.done)?;
            }
            clock = Instant::now();
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Previews behind step number `step`, as large as the pictures.
    fn write_previews(&self, run: &Run, step: usize) -> Result<(), Box<dyn Error>> {
        let factor = self.pipeline.autoencoder.spec().factor as u32;
        let previews = run.preview(&Preview::Colours)?;
        for (preview, file) in previews.iter().zip(self.arguments.preview_files(step)) {
            let place = OutputFile::new(&file)?;
            if let Some(latents) = &self.arguments.latents_out
                && OutputFile::new(latents)?.same_as(&place)
            {
                let file = file.display();
                return Err(format!("a preview and --latents-out are both {file}").into());
            }
            let [width, height] = [preview.width(), preview.height()].map(|side| side * factor);
            let image = resize(&preview.image, width, height, Resampling::Bilinear)?;
            write_picture(&image, file)?;
        }
        Ok(())
    }
}

/// A run of `request`, its text encoded.
fn started(
    pipeline: &Pipeline,
    request: &Request,
    report: &mut Report,
) -> Result<Run, Box<dyn Error>> {
    let (clock, before) = (Instant::now(), pipeline.load_time());
    let run = pipeline.start(request)?;
    let loaded = pipeline.load_time() - before;
    report.encode += clock.elapsed().saturating_sub(loaded);
    report.weights = pipeline.memory();
    Ok(run)
}
