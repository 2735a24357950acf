//! The timestep's sines and cosines against diffusers' `get_timestep_embedding`.

use sd_fixtures::Fixture;
use sd_models::unet::timestep_embedding;

/// Frequencies are rounded correctly here; torch's `exp` rounds one in a hundred the other way,
/// which ones depends on the mathematics library it was built with. At t = 999 that is
/// 999 · 2⁻²⁴ in the angle.
const ONE_FREQUENCY_ROUNDED_OTHERWISE: f64 = 6e-5;

#[test]
fn sinusoids_are_torchs() {
    let fixture = Fixture::open("unet_timestep");
    let timesteps = fixture.values("timesteps");
    for case in fixture.settings().as_array().expect("cases") {
        let name = case["name"].as_str().expect("a name");
        let channels = case["channels"].as_u64().expect("channels") as usize;
        let flip = case["flip_sin_to_cos"].as_bool().expect("flip");
        let shift = case["freq_shift"].as_f64().expect("shift");
        let embed = |t: &f64| timestep_embedding(*t, channels, flip, shift);
        let found: Vec<f32> = timesteps.iter().flat_map(embed).collect();
        fixture.assert_close(name, &found, ONE_FREQUENCY_ROUNDED_OTHERWISE);
        let expected = fixture.values(name);
        let pairs = found.iter().zip(&expected);
        let off = pairs.filter(|(f, e)| (f64::from(**f) - **e).abs() > 1e-7);
        let off = off.count();
        assert!(
            off * 100 <= 3 * found.len(),
            "{name}: {off} of {} are off by more than 1e-7",
            found.len()
        );
    }
}

#[test]
fn an_odd_width_ends_with_a_zero() {
    assert_eq!(timestep_embedding(5.0, 7, true, 0.0)[6], 0.0);
}
