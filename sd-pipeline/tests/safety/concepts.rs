//! The concept checker judges as diffusers' `StableDiffusionSafetyChecker` does.

use sd_fixtures::Fixture;
use sd_pipeline::models::{Files, LoadOptions};
use sd_pipeline::{ConceptChecker, SafetyChecker, device};

#[test]
fn flags_and_scores_equal_diffusers() {
    let fixture = Fixture::open("safety_checker");
    let files = Files::directory(sd_fixtures::path("safety_checker"));
    let options = LoadOptions::new(&device("flex").unwrap());
    let checker = ConceptChecker::open(&files, "safety_checker", "feature_extractor", &options);
    let checker = checker.unwrap();
    let seeds = fixture.values("seeds");
    let flags = fixture.values("flagged");
    assert_eq!(fixture.shape("scores"), [240, 20]);
    let expected = fixture.f32("scores");
    for ((seed, flag), expected) in seeds.iter().zip(flags).zip(expected.chunks(20)) {
        let seed = *seed as usize;
        let [width, height] = match seed % 4 {
            0 => [24, 24],
            _ => [17 + seed * 7 % 50, 19 + seed * 11 % 41],
        };
        let picture = crate::picture(seed as u64, width, height);
        let scores = checker.scores(&picture).unwrap();
        let found = [&scores.special[..], &scores.concepts].concat();
        assert_eq!(found, expected, "{seed}");
        assert_eq!(scores.is_flagged(), flag == 1.0, "{seed}");

        let verdict = checker.check(&picture).unwrap();
        assert_eq!((verdict.flagged, verdict.concepts.len()), (flag == 1.0, 20));
        let names = verdict
            .found()
            .filter(|found| !found.name.starts_with("special"));
        assert_eq!(names.count() > 0, verdict.flagged);
    }
}
