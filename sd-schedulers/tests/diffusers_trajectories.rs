//! Whole runs equal diffusers' with recorded noise: plans, timesteps and latents.

mod support;

use support::compare;

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
