//! How many kernels one evaluation of a network launches on a GPU's backend: a ceiling, counted on
//! Mesa's software Vulkan, because a launch costs a GPU microseconds whatever it computes.

use std::process::Command;
use std::sync::Arc;

use sd_gpu::Launches;
use sd_pipeline::burn::tensor::{DType, Distribution, Tensor};
use sd_pipeline::core::Cancel;
use sd_pipeline::models::unet::{UNet, UNetEmbeddings, timestep_embedding};
use sd_pipeline::{Device, FloatDType, NoiseSchedule, Parameterization, device};
use sd_tiny::micro::{Family, Layout, Micro};

/// The software adapter, where there is one.
fn software() -> Option<Device> {
    let found = device("vulkan:cpu").or_else(|_| device("wgpu:cpu"));
    if let Err(error) = &found {
        println!("SKIPPED: {error}");
        assert!(
            std::env::var_os("CI").is_none(),
            "continuous integration has a software adapter"
        );
    }
    found.ok()
}

/// Launches of one evaluation of Stable Diffusion 1.5's U-Net for two samples, narrow but with as
/// many layers, when all that is made once has been made.
fn evaluation(device: &Device, dtype: FloatDType) -> usize {
    let micro = Micro::new(Family::Sd1, Layout::Diffusers, 0).expect("a model");
    let schedule = Arc::new(NoiseSchedule::stable_diffusion());
    let kind = Parameterization::Epsilon;
    let unet = UNet::open(&micro.files(), "unet", schedule, kind, device, dtype);
    let unet = unet.expect("the model opens");
    let (config, model) = (unet.config(), unet.model());
    let random = |shape| Tensor::<4>::random(shape, Distribution::Default, device).cast(dtype);
    let text: Tensor<3> = random([1, 2, 77, config.cross_attention_dim]).squeeze_dim(0);
    let embeddings = UNetEmbeddings {
        added: None,
        guidance: None,
        class_labels: None,
    };
    let context = model.prepare(&text, embeddings);
    let time = config.time;
    let sines = timestep_embedding(500.0, time.channels, time.flip_sin_to_cos, time.freq_shift);
    let sines = Tensor::<1>::from_data(&sines[..], (device, DType::from(dtype)));
    let x = random([2, 4, 16, 16]);
    let evaluate = || {
        let time = model.embed_time(sines.clone().unsqueeze(), &context);
        let y = model.forward(x.clone(), &time, &context, None, &Cancel::new());
        y.expect("it predicts")
    };
    evaluate();
    let launches = Launches::new();
    evaluate();
    let (all, kernels) = (launches.all(), launches.by_kernel());
    println!("{dtype:?}: {all} launches");
    for (kernel, count) in kernels {
        println!("{count:5} {kernel}");
    }
    all
}

/// How attention is computed: `flash` for one kernel, and else three that store the scores.
const WAY: &str = "SD_KERNELS_GPU";

#[test]
fn an_evaluation_launches_no_more_kernels_than_it_did() {
    let Some(device) = software() else { return };
    let flash = std::env::var(WAY).is_ok_and(|way| way == "flash");
    let most = match flash {
        // Burn's operations, of which it puts some together, not always the same: fewer than by
        // themselves.
        _ if cfg!(feature = "fusion") => [2797, 3719],
        true => [505, 597],
        false => [601, 693],
    };
    for (dtype, most) in [FloatDType::F32, FloatDType::F16].into_iter().zip(most) {
        let launches = evaluation(&device, dtype);
        assert!(launches <= most, "{launches} launches in {dtype:?}");
    }
}

/// Launches are counted in a process, so this is another.
#[test]
fn attention_in_one_kernel_launches_fewer() {
    let test = "an_evaluation_launches_no_more_kernels_than_it_did";
    let mut program = Command::new(std::env::current_exe().expect("this program"));
    let output = program.args(["--exact", test]).env(WAY, "flash").output();
    let output = output.expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}
