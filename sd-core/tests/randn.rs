//! The random numbers are torch's.

use sd_core::{Noise, SeededNoise, TorchRng};
use sd_fixtures::Fixture;

#[test]
fn randn_equals_torch_for_every_size_and_seed() {
    let fixture = Fixture::open("randn");
    let mut compared = 0;
    for key in fixture.keys() {
        if let [seed, size] = key.split('.').collect::<Vec<_>>()[..]
            && let Ok(seed) = seed.parse()
        {
            let found = TorchRng::new(seed).randn(size.parse().unwrap());
            fixture.assert_close(&key, &found, 1e-6);
            compared += 1;
        }
    }
    assert_eq!(compared, 58);
}

#[test]
fn a_spare_normal_waits_for_the_next_small_draw() {
    let fixture = Fixture::open("randn");
    let mut rng = TorchRng::new(7);
    for key in fixture.keys().iter().filter(|k| k.starts_with("row.")) {
        let size = fixture.shape(key)[0];
        fixture.assert_close(key, &rng.randn(size), 1e-6);
    }
}

#[test]
fn an_image_gets_the_same_noise_alone_and_in_a_batch() {
    let shape = |n| [n, 4, 3, 5];
    let mut batch = SeededNoise::new(u64::MAX, 3);
    let first = batch
        .normal(shape(3))
        .unwrap()
        .try_into_vec::<f32>()
        .unwrap();
    let second = batch
        .normal(shape(3))
        .unwrap()
        .try_into_vec::<f32>()
        .unwrap();
    for k in 0..3 {
        let mut alone = SeededNoise::new(u64::MAX.wrapping_add(k as u64), 1);
        let range = k * 60..(k + 1) * 60;
        let draw = alone
            .normal(shape(1))
            .unwrap()
            .try_into_vec::<f32>()
            .unwrap();
        assert_eq!(draw, first[range.clone()]);
        let draw = alone
            .normal(shape(1))
            .unwrap()
            .try_into_vec::<f32>()
            .unwrap();
        assert_eq!(draw, second[range]);
    }
}
