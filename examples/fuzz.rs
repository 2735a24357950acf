//! Feeds damaged and forged files to everything that reads one. A reader may refuse a file; it may
//! not panic, end the process, take long, or take memory that the file does not have.
//!
//! `cargo run --release --example fuzz -- --cases 1000000 --seed 1`

#[path = "support/fuzz_adapters.rs"]
mod adapters;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Parser;
use cpu_time::ProcessTime;
use peak_alloc::PeakAlloc;
use safetensors::SafeTensors;
use sd_fixtures::mutate::{self, Random};
use sd_pipeline::core::{Conditioning, Denoiser, DenoiserSpec, Network, each_branch};
use sd_pipeline::models::{ClipTokenizer, Files, inspect, open_source};
use sd_pipeline::prompts::{a1111, comfyui, compel};
use sd_pipeline::schedulers::SchedulerConfig;
use sd_pipeline::{
    Components, OpenOptions, Picture, Pipeline, Record, Request, Residency, RgbImage, device,
    read_latents, write_latents,
};
use sd_tiny::micro::{Family, Layout, Micro};
use serde_json::Value;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Memory that reading a file may take beyond its size.
const MEMORY_LIMIT: usize = 64 << 20;
const TIME_LIMIT: Duration = Duration::from_secs(1);
/// Memory that may be left of the later half of so many cases or more: what patterns keep of odd texts.
const KEPT_LIMIT: usize = 256 << 10;
const KEPT_CASES: u64 = 1000;

/// Readers of whole networks, whose cases take milliseconds: of them it is one case in eight.
const SLOW: &[&str] = &[
    "lora",
    "word",
    "control-lora",
    "controlnet",
    "control-file",
    "union",
];

/// Panics seen, also those that the library makes errors of.
static PANICS: AtomicUsize = AtomicUsize::new(0);
static PANIC: Mutex<String> = Mutex::new(String::new());

/// Feeds damaged and forged files to everything that reads one.
#[derive(Parser)]
struct Arguments {
    /// Cases for each reader
    #[arg(long, default_value_t = 2000)]
    cases: u64,
    /// The first case, to repeat one
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Seed of all of them
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One reader alone
    #[arg(long, value_name = "NAME")]
    reader: Option<String>,
    /// A folder for the files that show a fault
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

type Outcome = Result<(), Box<dyn Error>>;
type Mutate = fn(&[u8], &mut Random) -> Vec<u8>;
type Read = Box<dyn Fn(Vec<u8>) -> Outcome>;

/// Something that reads files, with a file that is right.
struct Reader {
    name: &'static str,
    file: Vec<u8>,
    mutate: Mutate,
    read: Read,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    std::panic::set_hook(Box::new(|panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        if let Ok(mut last) = PANIC.lock() {
            *last = panic.to_string();
        }
    }));
    match fuzz(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Says whether no reader has a fault.
fn fuzz(arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let mut readers = readers(folder.path())?;
    if let Some(name) = &arguments.reader {
        let names: Vec<_> = readers.iter().map(|reader| reader.name).collect();
        readers.retain(|reader| reader.name == name);
        if readers.is_empty() {
            return Err(format!("no reader '{name}', there are {}", names.join(", ")).into());
        }
    }
    let mut sound = true;
    for reader in readers {
        // What is right must be read, or the faults found would be none of the reader's.
        (reader.read)(reader.file.clone()).map_err(|e| format!("{}: {e}", reader.name))?;
        let (mut read, mut faults) = (0, 0);
        let (mut longest, mut most) = (Duration::ZERO, 0);
        let clock = Instant::now();
        let cases = match SLOW.contains(&reader.name) {
            true => arguments.cases.div_ceil(8),
            false => arguments.cases,
        };
        // Once all that is made once is there, nothing may be left of a case.
        let (mut kept, half) = (0, arguments.first + cases / 2);
        for case in arguments.first..arguments.first + cases {
            if case == half {
                kept = MEMORY.current_usage();
            }
            let file = (reader.mutate)(&reader.file, &mut Random::new(arguments.seed, case));
            let found = watched(&reader, &file);
            longest = longest.max(found.time);
            most = most.max(found.memory);
            read += u64::from(found.read);
            if let Some(fault) = found.fault(file.len()) {
                faults += 1;
                println!("{} case {case}: {fault}", reader.name);
                if let Some(folder) = &arguments.keep {
                    std::fs::write(folder.join(format!("{}-{case}", reader.name)), &file)?;
                }
            }
        }
        let kept = MEMORY.current_usage().saturating_sub(kept);
        if cases >= KEPT_CASES && kept > KEPT_LIMIT {
            faults += 1;
            println!("{} keeps {kept} bytes of the later half", reader.name);
        }
        sound &= faults == 0;
        println!(
            "{:13} {cases} cases, {read} read, {faults} faults, {:.1} s, longest {:.3} s, most {} KiB",
            reader.name,
            clock.elapsed().as_secs_f64(),
            longest.as_secs_f64(),
            most / 1024,
        );
    }
    Ok(sound)
}

/// Reading of one file.
struct Found {
    read: bool,
    panic: Option<String>,
    time: Duration,
    memory: usize,
}

impl Found {
    fn fault(&self, file: usize) -> Option<String> {
        if let Some(panic) = &self.panic {
            return Some(panic.clone());
        }
        if self.memory > file + MEMORY_LIMIT {
            return Some(format!("{} bytes of memory for {file}", self.memory));
        }
        (self.time > TIME_LIMIT).then(|| format!("{:.1} s", self.time.as_secs_f64()))
    }
}

fn watched(reader: &Reader, file: &[u8]) -> Found {
    let bytes = file.to_vec();
    let (before, panics) = (MEMORY.current_usage(), PANICS.load(Ordering::Relaxed));
    MEMORY.reset_peak_usage();
    // The processor's time, of all threads: a busy machine is no fault of the reader's.
    let clock = ProcessTime::now();
    let read = || (reader.read)(bytes).is_ok();
    let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
    let panicked = PANICS.load(Ordering::Relaxed) > panics;
    Found {
        read: read.unwrap_or(false),
        panic: panicked.then(|| PANIC.lock().map(|panic| panic.clone()).unwrap_or_default()),
        time: clock.elapsed(),
        memory: MEMORY.peak_usage().saturating_sub(before),
    }
}

/// Writes a file anew: to write over it would wait for the disk in each case (ext4's rule against
/// lost files), and take most of the time.
fn anew(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => std::fs::write(path, bytes),
    }
}

/// A micro model's file as one of a folder that is opened. Components that the file says nothing of
/// are `given`; where the autoencoder is not, it is loaded.
fn in_folder(
    files: &BTreeMap<String, Vec<u8>>,
    name: &'static str,
    short: &'static str,
    given: Components,
) -> Result<Reader, Box<dyn Error>> {
    let mut files = files.clone();
    let file = files.remove(name).ok_or("the micro model has it")?;
    let loads = name.starts_with("vae");
    let options = OpenOptions {
        residency: Residency::OnDemand,
        components: given,
        ..OpenOptions::new(&device("flex")?)
    };
    Ok(Reader {
        name: short,
        file,
        mutate: match name.ends_with(".json") {
            true => mutate::json,
            false => mutate::safetensors,
        },
        read: Box::new(move |file| {
            let mut files = files.clone();
            files.insert(name.into(), file);
            let pipeline = Pipeline::from_files(&Files::memory(files), &options)?;
            if loads {
                pipeline.autoencoder.get()?;
            }
            Ok(())
        }),
    })
}

/// A tokenizer's file among others.
fn tokenizer(
    files: BTreeMap<&'static str, Vec<u8>>,
    name: &'static str,
    short: &'static str,
    mutate: Mutate,
) -> Reader {
    Reader {
        name: short,
        file: files[name].clone(),
        mutate,
        read: Box::new(move |file| {
            let mut files = files.clone();
            files.insert(name, file);
            let tokenizer = ClipTokenizer::open(&Files::memory(files))?;
            tokenizer.encode("a red cube, é <|endoftext|> on <top> \u{1F600}")?;
            Ok(())
        }),
    }
}

/// A network that makes no work: what is read is the run and not the model.
struct Quiet(DenoiserSpec);

impl Denoiser for Quiet {
    fn spec(&self) -> &DenoiserSpec {
        &self.0
    }

    fn prepare(
        self: Arc<Self>,
        branches: Vec<Conditioning>,
    ) -> sd_pipeline::core::Result<Box<dyn Network>> {
        each_branch("the quiet network", branches, |x, _, _| Ok(x.clone() * 0.5))
    }
}

/// A file of tensors, some values of each of which are read.
fn checkpoint(name: &'static str, file: &[u8], path: PathBuf) -> Reader {
    Reader {
        name,
        file: file.to_vec(),
        mutate: mutate::binary,
        read: Box::new(move |file| {
            anew(&path, file)?;
            let source = open_source(&path)?;
            for (number, tensor) in source.tensors().iter().enumerate() {
                if let Some(dtype) = tensor.dtype {
                    let values = tensor.elements().min(10_000) as usize;
                    source.read(number, 0, &mut vec![0; values * dtype.size()])?;
                }
            }
            Ok(())
        }),
    }
}

/// A run saved in its middle. Read, it goes on for a step.
fn saved(
    pipeline: Pipeline,
    scheduler: &str,
    name: &'static str,
    path: PathBuf,
) -> Result<Reader, Box<dyn Error>> {
    let mut pipeline = pipeline;
    let spec = pipeline.denoiser.spec().clone();
    pipeline.denoiser = Quiet(spec).into();
    pipeline.set_scheduler(scheduler)?;
    let request = Request {
        steps: 4,
        guidance_scale: 1.0,
        width: Some(64),
        height: Some(64),
        count: 2,
        ..Request::new("a red cube")
    };
    let mut run = pipeline.start(&request)?;
    for step in run.by_ref().take(2) {
        step?;
    }
    run.save(&path)?;
    Ok(Reader {
        name,
        file: std::fs::read(&path)?,
        mutate: mutate::safetensors,
        read: Box::new(move |file| {
            anew(&path, file)?;
            let mut run = pipeline.resume(&request, &path)?;
            run.next().transpose()?;
            Ok(())
        }),
    })
}

/// A hub's listing of a repository, whose files are to stay in their folder.
#[cfg(feature = "hub-http")]
fn listing(folder: &Path) -> Result<Reader, Box<dyn Error>> {
    use std::path::Component;

    use sd_pipeline::hub::{
        Body, Hub, HubClient, HubError, Listing, Metadata, ModelId, Result, Settings,
    };

    /// A client with one answer.
    #[derive(Debug)]
    struct Forger(Vec<u8>);

    impl HubClient for Forger {
        fn listing(&self, url: &str, _: &str) -> Result<Listing> {
            let url = url.into();
            Listing::from_json(&self.0).map_err(|reason| HubError::Reply { url, reason })
        }

        fn metadata(&self, _: &str, _: &str, _: &str) -> Result<Metadata> {
            Ok(Metadata::default())
        }

        fn read(&self, url: &str, _: &str, _: &str, _: u64) -> Result<Body> {
            let (url, message) = (url.into(), String::new());
            Err(HubError::NotFound { url, message })
        }
    }

    let id: ModelId = "owner/model".parse()?;
    let mut settings = Settings::from_variables(|_| None, Some(folder.into()))?;
    settings.attempts = 1;
    let json = r#"{"id": "owner/model", "sha": "0123456789abcdef0123456789abcdef01234567",
        "siblings": [{"rfilename": "a.json"}, {"rfilename": "unet/config.json", "size": 3}]}"#;
    Ok(Reader {
        name: "hub",
        file: json.into(),
        mutate: mutate::json,
        read: Box::new(move |file| {
            let hub = Hub::with_client(Arc::new(Forger(file)), settings.clone());
            let repository = hub.repository(&id)?;
            for file in repository.files() {
                let mut parts = Path::new(file).components();
                let inside = parts.all(|part| matches!(part, Component::Normal(_)));
                assert!(inside && !file.is_empty(), "{file:?} leads out");
            }
            Ok(())
        }),
    })
}

/// Records in files of each format, and those of other programs.
fn records(folder: &Path) -> Result<Vec<Reader>, Box<dyn Error>> {
    let text = "a red cube\nNegative prompt: grey\nSteps: 4, Sampler: \"Euler, a\", CFG scale: 7.5, \
                Seed: 3, Size: 64x64, Model: tiny, Version: v1";
    let mut picture = Picture::new(RgbImage::new(9, 7), 3);
    picture.record = Record::from_parameters(text)?;
    let formats: [(_, _, Mutate); 3] = [
        ("record-png", "a.png", mutate::png),
        ("record-jpeg", "a.jpg", mutate::blocks),
        ("record-webp", "a.webp", mutate::blocks),
    ];
    let mut readers = Vec::new();
    for (name, path, mutate) in formats {
        let path = folder.join(path);
        picture.write(&path)?;
        readers.push(Reader {
            name,
            file: std::fs::read(&path)?,
            mutate,
            read: Box::new(move |file| {
                anew(&path, file)?;
                Record::read(&path)?.request()?;
                Ok(())
            }),
        });
    }
    let texts: [(_, _, &[u8], &str, Mutate); 3] = [
        ("record-a1111", "parameters", &[], text, mutate::lines),
        ("record-comfy", "prompt", &[], GRAPH, mutate::json),
        (
            "record-invoke",
            "invokeai_metadata",
            &[0; 4],
            INVOKE,
            mutate::json,
        ),
    ];
    for (name, keyword, flags, text, mutate) in texts {
        readers.push(Reader {
            name,
            file: text.into(),
            mutate,
            read: Box::new(move |text| {
                let kind = if flags.is_empty() { b"tEXt" } else { b"iTXt" };
                let data = [keyword.as_bytes(), &[0], flags, &text].concat();
                let chunk = mutate::png_chunk(kind, &data);
                Record::from_bytes(&[b"\x89PNG\r\n\x1A\n", &*chunk].concat())?.request()?;
                Ok(())
            }),
        });
    }
    Ok(readers)
}

/// Prompts in the grammars of the programs that people know them from.
fn prompts() -> Vec<Reader> {
    let reader = |name, text: &str, read: fn(&str) -> Outcome| Reader {
        name,
        file: text.into(),
        mutate: mutate::prompt,
        read: Box::new(move |text| read(&String::from_utf8_lossy(&text))),
    };
    let a1111 = "a [(red:1.2)|blue] cube AND [a:b:0.5] (((c)):1.1) BREAK \\(d\\):0.7 # e";
    let compel = "(\"a (red cube)1.2 b-\", \"c+ d\").blend(0.7, 0.3)";
    vec![
        reader("a1111", a1111, |text| {
            let text = a1111::without_comments(text)?;
            for part in a1111::parts(&text)? {
                for timed in a1111::schedule(&part.text, 7, 0)? {
                    a1111::weights(&timed.text)?;
                }
            }
            Ok(())
        }),
        reader("comfyui", "a ((red:1.2) cube) \\(b\\)", |text| {
            comfyui::weights(text)?;
            Ok(())
        }),
        reader("compel", compel, |text| {
            compel::parts(text)?;
            Ok(())
        }),
    ]
}

/// A graph of ComfyUI.
const GRAPH: &str = r#"{"3": {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 4, "cfg": 6.5,
    "sampler_name": "euler", "scheduler": "normal", "denoise": 1, "model": ["4", 0],
    "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}},
    "4": {"inputs": {"ckpt_name": "a"}}, "5": {"inputs": {"width": 64, "height": 64}},
    "6": {"inputs": {"text": "a \"red\" cube"}}, "7": {"inputs": {"conditioning": ["8", 0]}},
    "8": {"inputs": {"text": "grey"}}}"#;

/// InvokeAI's metadata.
const INVOKE: &str = r#"{"positive_prompt": "a red cube", "negative_prompt": "grey", "seed": 1,
    "steps": 4, "scheduler": "euler", "cfg_scale": 7.5, "width": 64, "height": 64,
    "model": {"name": "a", "hash": "b"}, "app_version": "5"}"#;

fn readers(folder: &Path) -> Result<Vec<Reader>, Box<dyn Error>> {
    let micro = Micro::new(Family::Sd1, Layout::Diffusers, 0)?;
    let files = micro
        .iter()
        .map(|(name, file)| (name.into(), file.to_vec()));
    let mut files: BTreeMap<String, Vec<u8>> = files.collect();
    let flex = device("flex")?;
    let micro_files = micro.files();
    let pipeline = Pipeline::from_files(&micro_files, &OpenOptions::new(&flex))?;

    let given = |text: bool, unet: bool, vae: bool| {
        let mut components = Components::default();
        components.text_encoder = text.then(|| pipeline.text_encoder.clone());
        components.denoiser = unet.then(|| pipeline.denoiser.clone());
        components.autoencoder = vae.then(|| pipeline.autoencoder.clone());
        components
    };
    let no_text = given(false, true, true);
    let no_unet = given(true, false, true);
    let no_vae = given(true, true, false);
    let weights = "vae/diffusion_pytorch_model.safetensors";
    let mut readers = vec![
        in_folder(&files, "model_index.json", "index", no_vae.clone())?,
        in_folder(&files, "text_encoder/config.json", "text", no_text)?,
        in_folder(&files, "unet/config.json", "unet", no_unet)?,
        in_folder(&files, "vae/config.json", "vae", no_vae.clone())?,
        in_folder(&files, weights, "weights", no_vae.clone())?,
        saved(pipeline.clone(), "PNDM", "run", folder.join("run"))?,
        saved(
            pipeline.clone(),
            "DPM adaptive",
            "images",
            folder.join("images"),
        )?,
    ];
    readers.push(Reader {
        name: "scheduler",
        file: files["scheduler/scheduler_config.json"].clone(),
        mutate: mutate::json,
        read: Box::new(|file| {
            let config = SchedulerConfig::from_json(&String::from_utf8_lossy(&file))?;
            let (schedule, scheduler) = (config.noise_schedule()?, config.scheduler()?);
            config.parameterization()?;
            let plan = scheduler.plan(&schedule, 20)?;
            scheduler.start(&plan, 0)?;
            Ok(())
        }),
    });

    // The tiny model's tokenizer has merges; in the older layout they are a file of their own.
    let tiny =
        |name| Ok::<_, Box<dyn Error>>(sd_tiny::files().folder("tokenizer").read(name)?.to_vec());
    let (whole, config) = (tiny("tokenizer.json")?, tiny("tokenizer_config.json")?);
    let model = &serde_json::from_slice::<Value>(&whole)?["model"];
    let merges = model["merges"].as_array().into_iter().flatten();
    let merges = merges.map(|merge| match merge {
        Value::Array(pair) => pair
            .iter()
            .flat_map(Value::as_str)
            .collect::<Vec<_>>()
            .join(" "),
        merge => merge.as_str().unwrap_or_default().into(),
    });
    let merges: Vec<String> = std::iter::once("#version: 0.2".into())
        .chain(merges)
        .collect();
    let new = BTreeMap::from([
        ("tokenizer.json", whole),
        ("tokenizer_config.json", config.clone()),
    ]);
    let old = BTreeMap::from([
        ("vocab.json", model["vocab"].to_string().into_bytes()),
        ("merges.txt", merges.join("\n").into_bytes()),
        ("tokenizer_config.json", config),
    ]);
    readers.push(tokenizer(
        new.clone(),
        "tokenizer.json",
        "tokenizer",
        mutate::json,
    ));
    readers.push(tokenizer(
        new,
        "tokenizer_config.json",
        "special",
        mutate::json,
    ));
    readers.push(tokenizer(
        old.clone(),
        "vocab.json",
        "vocabulary",
        mutate::json,
    ));
    readers.push(tokenizer(old, "merges.txt", "merges", mutate::lines));

    let vae = files.remove(weights);
    let vae = vae.ok_or("the micro model has a VAE")?;
    let tensors = SafeTensors::deserialize(&vae)?;
    let mut map = serde_json::Map::new();
    for part in 0..2 {
        let shard = format!("part-{part}.safetensors");
        let some = tensors.iter().enumerate().filter(|(k, _)| k % 2 == part);
        let some: Vec<_> = some.map(|(_, tensor)| tensor).collect();
        map.extend(
            some.iter()
                .map(|(name, _)| (name.to_string(), shard.clone().into())),
        );
        files.insert(format!("vae/{shard}"), safetensors::serialize(some, None)?);
    }
    let index = "vae/diffusion_pytorch_model.safetensors.index.json";
    let map = serde_json::json!({ "metadata": { "total_size": vae.len() }, "weight_map": map });
    files.insert(index.into(), map.to_string().into_bytes());
    readers.push(in_folder(&files, index, "shards", no_vae)?);

    let pickle = &include_bytes!("../fixtures/data/checkpoints/legacy.ckpt")[..];
    readers.push(checkpoint("pickle", pickle, folder.join("model.ckpt")));
    let archive = &include_bytes!("../fixtures/data/checkpoints/zip.ckpt")[..];
    readers.push(checkpoint("zip", archive, folder.join("model.bin")));
    let gguf = &include_bytes!("../fixtures/data/gguf/notes.gguf")[..];
    readers.push(checkpoint("gguf", gguf, folder.join("model.gguf")));
    let path = folder.join("model.safetensors");
    let micro = Micro::new(Family::Sd1, Layout::Ldm, 0)?;
    let single = micro
        .iter()
        .find(|(name, _)| name.ends_with(".safetensors"));
    let (_, single) = single.ok_or("the micro model is one file")?;
    readers.push(Reader {
        name: "inspect",
        file: single.to_vec(),
        mutate: mutate::safetensors,
        read: Box::new(move |file| {
            anew(&path, file)?;
            inspect(&path)?;
            Ok(())
        }),
    });

    readers.extend(adapters::readers(folder, &micro_files, &flex)?);

    let path = folder.join("latents");
    let latents = sd_pipeline::burn::tensor::Tensor::<4>::zeros([2, 4, 8, 8], &flex);
    write_latents(&latents, &path)?;
    readers.push(Reader {
        name: "latents",
        file: std::fs::read(&path)?,
        mutate: mutate::safetensors,
        read: Box::new(move |file| {
            anew(&path, file)?;
            read_latents(&path, &flex)?;
            Ok(())
        }),
    });
    readers.extend(records(folder)?);
    readers.extend(prompts());
    #[cfg(feature = "hub-http")]
    readers.push(listing(folder)?);
    Ok(readers)
}
