//! Nothing of one generation reaches another, and a run can be watched, stopped and dropped.

use std::sync::Arc;
use std::thread;

use burn::tensor::Tensor;
use sd_pipeline::core::{Result, exactly};
use sd_pipeline::schedulers::names;
use sd_pipeline::{
    At, BranchEvaluation, Guidance, Guide, NetworkOutput, Pipeline, Request, Run, SavedState,
    Start, Text, device,
};

fn request(seed: u64) -> Request {
    Request {
        steps: 4,
        guidance_scale: 3.0,
        seed,
        ..Request::new("a green cube above a white ring")
    }
}

fn tiny() -> Pipeline {
    sd_tiny::pipeline(&device("flex").unwrap()).unwrap()
}

/// The final latents' bits.
fn bits(pipeline: &Pipeline, request: &Request) -> Vec<u32> {
    let mut run = pipeline.start(request).unwrap();
    run.by_ref().for_each(|step| {
        step.unwrap();
    });
    values(&run).into_iter().map(f32::to_bits).collect()
}

fn values(run: &Run) -> Vec<f32> {
    run.latents().try_to_vec_as::<f32>().unwrap()
}

/// Classifier-free guidance with momentum: each evaluation also goes on in the last one's direction.
#[derive(Debug)]
struct Momentum;

#[derive(Debug, Default)]
struct MomentumGuide(Option<Tensor<4>>);

impl Guidance for Momentum {
    fn texts(&self) -> Vec<Text> {
        vec![Text::Empty, Text::Prompt]
    }

    fn start(&self) -> Box<dyn Guide> {
        Box::new(MomentumGuide::default())
    }
}

impl Guide for MomentumGuide {
    fn wanted(&self, at: &At<'_>) -> Vec<usize> {
        if at.step == 1 { vec![1] } else { vec![0, 1] }
    }

    fn combine(&mut self, at: &At<'_>, outputs: Vec<Tensor<4>>) -> Result<NetworkOutput> {
        if at.step == 1 {
            let [cond] = exactly(outputs)?;
            return Ok(NetworkOutput::unguided(cond));
        }
        let [uncond, cond] = exactly(outputs)?;
        let mut direction = cond.clone() - uncond.clone();
        if let Some(before) = &self.0 {
            direction = direction + before.clone() * 0.5;
        }
        self.0 = Some(direction.clone());
        Ok(NetworkOutput {
            guided: cond + direction,
            uncond: Some(uncond),
        })
    }

    fn save(&self) -> SavedState {
        let saved = SavedState::default();
        match &self.0 {
            Some(direction) => saved.with_tensor("direction", direction.clone()),
            None => saved,
        }
    }

    fn restore(&mut self, state: &SavedState) -> Result<()> {
        self.0 = state.tensor("direction");
        Ok(())
    }
}

fn with_momentum(seed: u64) -> Request {
    Request {
        guidance: Some(Arc::new(Momentum)),
        ..request(seed)
    }
}

#[test]
fn a_guidance_that_remembers_keeps_to_its_run() {
    let pipeline = Arc::new(tiny());
    let first = bits(&pipeline, &with_momentum(1));
    assert_ne!(first, bits(&pipeline, &request(1)));
    let other = bits(&pipeline, &with_momentum(2));
    assert_eq!(first, bits(&pipeline, &with_momentum(1)), "A, B, A");
    // One guidance for all runs, as a program would have it.
    let shared = with_momentum(1);
    let threads = [1, 2].map(|seed| {
        let (pipeline, request) = (
            pipeline.clone(),
            Request {
                seed,
                ..shared.clone()
            },
        );
        thread::spawn(move || bits(&pipeline, &request))
    });
    assert_eq!(threads.map(|t| t.join().unwrap()), [first.clone(), other]);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.safetensors");
    let mut run = pipeline.start(&shared).unwrap();
    for step in run.by_ref().take(2) {
        step.unwrap();
    }
    run.save(&file).unwrap();
    let mut resumed = pipeline.resume(&shared, &file).unwrap();
    resumed.by_ref().for_each(|step| {
        step.unwrap();
    });
    let resumed: Vec<u32> = values(&resumed).into_iter().map(f32::to_bits).collect();
    assert_eq!(resumed, first, "its memory is saved with the run");
}

#[test]
fn branches_in_turn_are_branches_together() {
    let pipeline = tiny();
    let run = |evaluation| {
        let request = Request {
            evaluation,
            ..request(4)
        };
        let mut run = pipeline.start(&request).unwrap();
        run.by_ref().for_each(|step| {
            step.unwrap();
        });
        values(&run)
    };
    let together = run(BranchEvaluation::Together);
    let in_turn = run(BranchEvaluation::InTurn);
    let pairs = together.iter().zip(&in_turn);
    let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-4, "{worst}");
}

/// A pipeline with each scheduler that a model of Stable Diffusion can use.
fn schedulers() -> impl Iterator<Item = (&'static str, Pipeline)> {
    let usable = names().into_iter().filter(|name| *name != "IPNDM Cosine");
    usable.map(|name| {
        let mut pipeline = tiny();
        pipeline.set_scheduler(name).unwrap();
        (name, pipeline)
    })
}

#[test]
fn a_scheduler_of_another_kind_of_model_is_an_error() {
    let mut pipeline = tiny();
    pipeline.set_scheduler("IPNDM Cosine").unwrap();
    // Its levels include pure noise, which means nothing to a model that predicts the noise.
    let error = pipeline.generate(&request(1)).unwrap_err();
    let expected = "a latent of pure noise says nothing";
    assert!(error.to_string().starts_with(expected), "{error}");
}

#[test]
fn a_b_a_is_bit_equal_for_every_scheduler() {
    for (name, pipeline) in schedulers() {
        let first = bits(&pipeline, &request(1));
        let other = bits(&pipeline, &request(2));
        assert_ne!(first, other, "{name}: the seed has no effect");
        assert_eq!(first, bits(&pipeline, &request(1)), "{name}");
    }
}

#[test]
fn two_threads_on_one_pipeline_equal_serial() {
    for scheduler in ["Euler a", "DPM++ 2M"] {
        let mut pipeline = tiny();
        pipeline.set_scheduler(scheduler).unwrap();
        let pipeline = Arc::new(pipeline);
        let serial = [1, 2].map(|seed| bits(&pipeline, &request(seed)));
        let threads = [1, 2].map(|seed| {
            let pipeline = pipeline.clone();
            thread::spawn(move || bits(&pipeline, &request(seed)))
        });
        assert_eq!(threads.map(|t| t.join().unwrap()), serial, "{scheduler}");
    }
}

#[test]
fn an_image_is_the_same_alone_and_in_a_batch() {
    let mut pipeline = tiny();
    pipeline.set_scheduler("Euler a").unwrap();
    let batch = Request {
        count: 3,
        ..request(5)
    };
    let together = pipeline.generate(&batch).unwrap();
    let run = pipeline.start(&batch).unwrap();
    for (k, image) in together.iter().enumerate() {
        let alone = request(5 + k as u64);
        let initial = pipeline.start(&alone).unwrap();
        let size = 4 * 16 * 16;
        assert_eq!(
            values(&initial),
            values(&run)[k * size..(k + 1) * size],
            "noise of {k}"
        );
        let alone = &pipeline.generate(&alone).unwrap()[0];
        let pairs = alone.as_raw().iter().zip(image.as_raw());
        let worst = pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(worst <= 1, "image {k} differs by {worst}");
    }
}

#[test]
fn a_run_can_be_watched_stopped_and_kept() {
    let pipeline = tiny();
    let mut run = pipeline.start(&request(3)).unwrap();
    assert!(run.denoised().is_none());
    let before = values(&run);
    let step = run.next().unwrap().unwrap();
    assert_eq!((step.done, step.total), (1, 4));
    assert_eq!(step.fraction, 0.25);
    assert_ne!(values(&run), before);
    assert_eq!(run.denoised().unwrap().dims(), [1, 4, 16, 16]);
    assert!(!run.is_finished());
    // The picture of a stopped run is what the model predicts, not the noise it still has.
    let stopped = run.images().unwrap();
    assert_eq!(stopped[0].dimensions(), (128, 128));
    let rest = run
        .by_ref()
        .map(|step| step.unwrap().done)
        .collect::<Vec<_>>();
    assert_eq!(rest, [2, 3, 4]);
    assert!(run.is_finished() && run.next().is_none());
    assert_ne!(run.images().unwrap()[0], stopped[0]);
}

#[test]
fn a_run_owns_its_parts_and_frees_them() {
    let pipeline = tiny();
    let (denoiser, autoencoder) = (pipeline.denoiser.get(), pipeline.autoencoder.get());
    let (denoiser, autoencoder) = (denoiser.unwrap(), autoencoder.unwrap());
    let before = [
        Arc::strong_count(&denoiser),
        Arc::strong_count(&autoencoder),
    ];
    let run = pipeline.start(&request(1)).unwrap();
    assert_eq!(Arc::strong_count(&denoiser), before[0] + 1);
    let run = thread::spawn(move || run).join().unwrap();
    drop(run);
    let after = [
        Arc::strong_count(&denoiser),
        Arc::strong_count(&autoencoder),
    ];
    assert_eq!(after, before);
}

#[test]
fn given_latents_take_the_place_of_the_seeds_noise() {
    let pipeline = tiny();
    let seeded = request(6);
    let noise = pipeline.start(&seeded).unwrap().latents().clone();
    let given = Request {
        start: Start::Initial(noise),
        ..request(99)
    };
    assert_eq!(bits(&pipeline, &given), bits(&pipeline, &seeded));
}

#[test]
fn a_run_saved_to_disk_goes_on_as_if_nothing_had_happened() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.safetensors");
    for (name, pipeline) in schedulers() {
        let request = request(8);
        let whole = bits(&pipeline, &request);
        let mut run = pipeline.start(&request).unwrap();
        for step in run.by_ref().take(2) {
            step.unwrap();
        }
        run.save(&file).unwrap();
        drop(run);
        let mut resumed = pipeline.resume(&request, &file).unwrap();
        assert_eq!(resumed.next().unwrap().unwrap().done, 3, "{name}");
        resumed.by_ref().for_each(|step| {
            step.unwrap();
        });
        let resumed: Vec<u32> = values(&resumed).into_iter().map(f32::to_bits).collect();
        assert_eq!(resumed, whole, "{name}");
    }
}

#[test]
fn a_saved_run_of_another_request_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.safetensors");
    let pipeline = tiny();
    let mut run = pipeline.start(&request(8)).unwrap();
    run.next().unwrap().unwrap();
    run.save(&file).unwrap();
    let refused = |request| pipeline.resume(&request, &file).unwrap_err().to_string();
    let wide = Request {
        width: Some(64),
        ..request(8)
    };
    assert!(refused(wide).contains("its latents are [1, 4, 16, 16]"));
    let short = Request {
        steps: 1,
        ..request(8)
    };
    assert!(refused(short).contains("1 steps are done"));
    let bytes = std::fs::read(&file).unwrap();
    for damaged in [&bytes[..bytes.len() / 2], b"", b"no such file at all"] {
        std::fs::write(&file, damaged).unwrap();
        assert!(refused(request(8)).contains("run.safetensors"));
    }
}

/// DPM adaptive's steps follow from the picture: those of one must not follow from another.
#[test]
fn an_adaptive_solver_draws_of_each_seed_what_it_draws_alone() {
    let mut pipeline = tiny();
    pipeline.set_scheduler("DPM adaptive").unwrap();
    let mut steps = Vec::new();
    let alone = (0..4).map(|k| {
        let mut run = pipeline.start(&request(5 + k)).unwrap();
        steps.push(
            run.by_ref()
                .map(|step| step.unwrap().evaluations)
                .sum::<usize>(),
        );
        (values(&run), run.images().unwrap().remove(0))
    });
    let (latents, pictures): (Vec<_>, Vec<_>) = alone.unzip();
    assert!(
        steps.iter().any(|n| *n != steps[0]),
        "{steps:?} are no test"
    );

    let all = Request {
        count: 4,
        ..request(5)
    };
    let mut run = pipeline.start(&all).unwrap();
    assert_eq!(run.latents().dims()[0], 4);
    let (mut before, mut evaluations) = (0.0, 0);
    let folder = tempfile::tempdir().unwrap();
    let (mut k, mut saved) = (0, Vec::new());
    while let Some(step) = run.next() {
        let step = step.unwrap();
        assert!(before <= step.fraction && step.fraction <= 1.0, "{step:?}");
        assert_eq!(run.denoised().unwrap().dims()[0], 4);
        (before, evaluations) = (step.fraction, evaluations + step.evaluations);
        saved.push(folder.path().join(format!("{k}")));
        run.save(&saved[k]).unwrap();
        k += 1;
    }
    assert!(run.is_finished() && before == 1.0);
    assert_eq!(evaluations, steps.iter().sum::<usize>());
    assert_eq!(values(&run), latents.concat());
    assert_eq!(run.images().unwrap(), pictures);

    // Some images are finished in the last of these, others not.
    for saved in [&saved[1], &saved[k - 2]] {
        let mut again = pipeline.resume(&all, saved).unwrap();
        again.by_ref().for_each(|step| {
            step.unwrap();
        });
        assert_eq!(values(&again), latents.concat());
    }
    let error = pipeline.resume(&request(5), &saved[1]).unwrap_err();
    assert!(error.to_string().contains("4 images"), "{error}");

    // The latents to begin with are each image's own, too.
    let noise = pipeline.start(&all).unwrap();
    let sigma = f64::from(values(&noise).iter().fold(0f32, |a, b| a.max(b.abs())));
    let start = noise.latents().clone() / sigma;
    let alone = Request {
        start: Start::Initial(start.clone().narrow(0, 2, 1)),
        ..request(1)
    };
    let all = Request {
        start: Start::Initial(start),
        ..all
    };
    let all = pipeline.generate(&all).unwrap();
    assert_eq!(*all[2], *pipeline.generate(&alone).unwrap()[0]);
}
