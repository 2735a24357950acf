//! Whole runs equal diffusers' with recorded noise: plans, timesteps and latents.

mod support;

use std::sync::Arc;

use sd_core::{NoiseSchedule, Parameterization, Scheduler};
use sd_schedulers::{Ddim, Ddpm, Pndm, Variance};
use support::{Shared, compare, run};

#[test]
fn ddim() {
    assert_eq!(compare("ddim", 1e-5), 56);
}

#[test]
fn pndm() {
    assert_eq!(compare("pndm", 1e-5), 58);
}

#[test]
fn euler() {
    assert_eq!(compare("euler", 1e-5), 74);
}

#[test]
fn euler_ancestral() {
    assert_eq!(compare("euler_ancestral", 1e-5), 33);
}

#[test]
fn dpm_multistep() {
    assert_eq!(compare("dpm_multistep", 1e-5), 146);
}

#[test]
fn heun() {
    assert_eq!(compare("heun", 1e-5), 58);
}

#[test]
fn kdpm2() {
    // diffusers takes the ancestral σ from a difference of squares in f32, which in two steps over
    // the whole range leaves three digits.
    assert_eq!(compare("kdpm2", 1e-4), 64);
}

#[test]
fn lms() {
    assert_eq!(compare("lms", 1e-5), 57);
}

#[test]
fn deis() {
    assert_eq!(compare("deis", 3e-5), 69);
}

#[test]
fn unipc() {
    assert_eq!(compare("unipc", 1e-5), 93);
}

#[test]
fn ddpm() {
    assert_eq!(compare("ddpm", 1e-5), 59);
}

#[test]
fn lcm() {
    assert_eq!(compare("lcm", 1e-5), 23);
}

#[test]
fn tcd() {
    assert_eq!(compare("tcd", 1e-5), 24);
}

#[test]
fn dpm_singlestep() {
    assert_eq!(compare("dpm_singlestep", 2e-5), 134);
}

#[test]
fn sa_solver() {
    assert_eq!(compare("sa_solver", 2e-5), 81);
}

#[test]
fn dpm_sde() {
    assert_eq!(compare("dpm_sde", 1e-5), 39);
}

#[test]
fn edm() {
    assert_eq!(compare("edm", 1e-5), 52);
}

#[test]
fn image_to_image() {
    assert_eq!(compare("midway", 1e-4), 306);
}

#[test]
fn own_lists_and_learned_variances() {
    assert_eq!(compare("lists", 1e-5), 81);
}

#[test]
fn ipndm() {
    assert_eq!(compare("ipndm", 1e-5), 5);
}

#[test]
fn a_strength_that_leaves_no_step_is_an_error() {
    let train = Arc::new(NoiseSchedule::stable_diffusion());
    let plms = Pndm {
        skip_prk_steps: true,
        ..Pndm::default()
    };
    let plan = plms.plan(&train, 5).unwrap();
    // A step is done twice, and not counted twice.
    assert_eq!(plan.stages.len(), 6);
    assert_eq!(plan.first_stage(5, 1.0).unwrap(), 0);
    assert_eq!(plan.first_stage(5, 0.5).unwrap(), 3);
    // But as diffusers begins at the stage that strength counts to, the last one is always left.
    assert_eq!(plan.first_stage(5, 0.19).unwrap(), 5);
    assert_eq!(plan.first_stage(5, 0.0).unwrap(), 5);
    let ddim = Ddim::default().plan(&train, 5).unwrap();
    for strength in [0.0, 0.19, -0.1, 1.01, f64::NAN] {
        let error = ddim.first_stage(5, strength).unwrap_err().to_string();
        assert!(error.starts_with("strength is"), "{error}");
    }
    for strength in [-0.1, 1.01, f64::NAN] {
        assert!(plan.first_stage(5, strength).is_err());
    }
}

#[test]
fn a_learned_variance_needs_a_network_that_has_one() {
    let ddpm = Ddpm {
        variance: Variance::LearnedRange,
        ..Ddpm::default()
    };
    let train = Arc::new(NoiseSchedule::stable_diffusion());
    let plan = ddpm.plan(&train, 3).unwrap();
    let error = run(&Shared::open(), &ddpm, &plan, 0, Parameterization::Epsilon);
    let error = error.err().unwrap().to_string();
    assert!(error.contains("twice the latent's channels"), "{error}");
}
