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
fn sizes_are_not_rounded_before_their_sines() {
    let fixture = Fixture::open("unet_timestep");
    let sizes = fixture.values("sizes");
    let embed = |size: &f64| timestep_embedding(*size, 256, true, 0.0);
    let found: Vec<f32> = sizes.iter().flat_map(embed).collect();
    // As above, at a frequency of about 1 and an angle of 4104.
    fixture.assert_close(
        "sizes.256",
        &found,
        4104.0 / 999.0 * ONE_FREQUENCY_ROUNDED_OTHERWISE,
    );
    let slope = -(10_000f64.ln()) / 128.0;
    let angles = |size: &f64| {
        let size = *size;
        let angles = (0..128).map(move |i| size * (slope * f64::from(i)).exp());
        let cosines = angles.clone().map(f64::cos);
        cosines.chain(angles.map(f64::sin)).collect::<Vec<_>>()
    };
    for (found, exact) in found.iter().zip(sizes.iter().flat_map(angles)) {
        assert!((f64::from(*found) - exact).abs() < 5e-4);
    }
}

#[test]
fn an_odd_width_ends_with_a_zero() {
    assert_eq!(timestep_embedding(5.0, 7, true, 0.0)[6], 0.0);
}
