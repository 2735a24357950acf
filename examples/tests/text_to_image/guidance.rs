//! Prompts, guidance and what changes the U-Net.

use super::*;

#[test]
fn guiders_freeu_and_caches_draw_as_their_references() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = sd_fixtures::Fixture::open("guiders");
    let cases: [(&str, &[&str]); 8] = [
        ("rescale", &["--guidance-rescale", "0.7"]),
        ("interval", &["--guidance-interval", "0.2,0.7"]),
        (
            "apg_momentum",
            &["--guider", "apg:eta=0.3,momentum=-0.75,rescale=4"],
        ),
        ("pag_adaptive", &["--guider", "pag:scale=3,adaptive=0.008"]),
        (
            "pag_layers",
            &[
                "--guider",
                "pag:scale=1.5,layers=mid_block+up_blocks.1",
                "--guidance-rescale",
                "0.5",
            ],
        ),
        (
            "scale_cosine",
            &["--guider", "schedule:from=1.5,to=6,shape=cosine"],
        ),
        ("freeu", &["--freeu", "1.3,1.4,0.9,0.2"]),
        ("deep_3_1", &["--cache", "deep:interval=3,depth=1"]),
    ];
    for (name, arguments) in cases {
        let request = "--negative|a small yellow ring|--guidance|4|--steps|6|--seed|3|--width|136|--height|104";
        let request: Vec<&str> = request
            .split('|')
            .chain(arguments.iter().copied())
            .collect();
        let found = numbers(&latents(folder.path(), &request));
        fixture.assert_close(&format!("{name}.latents"), &found, 1e-3);
    }
}

#[test]
fn what_is_no_guider_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, words) in [
        (&["--guider", "magic"][..], "no guider is called 'magic'"),
        (
            &["--guider", "apg:eta=1,speed=2"],
            "'apg' has no key 'speed'",
        ),
        (&["--guider", "apg:eta=NaN"], "eta is 'NaN'"),
        (&["--guider", "apg:eta=1,eta=0"], "'eta' is there twice"),
        (&["--guider", "apg:"], "no key=value"),
        (&["--guider", "apg:eta"], "no key=value"),
        (&["--guider", "apg:formula=mine"], "diffusers or paper"),
        (
            &["--guider", "apg", "--guider", "cfg-zero"],
            "one alone can guide",
        ),
        (&["--guider", "apg", "--guidance", "1"], "nothing is guided"),
        (
            &["--guider", "pag:layers=mid_block.attentions.7"],
            "'mid_block.attentions.7'",
        ),
        (&["--guider", "pag:scale=inf"], "scale is 'inf'"),
        (&["--guider", "seg:sigma=-1"], "sigma is -1"),
        (&["--guidance-rescale", "1.5"], "from 0 to 1"),
        (&["--guidance-rescale", "NaN"], "finite"),
        (&["--guidance-interval", "0.5,0.2"], "B not less than A"),
        (&["--guidance-interval", "0.5"], "two fractions"),
        (&["--guidance-interval", "NaN,1"], "finite"),
        (&["--freeu", "1,2,3"], "four numbers"),
        (&["--freeu", "1,2,3,NaN"], "finite"),
        (&["--freeu", "1,2,3,-1"], "FreeU's s is -1"),
        (&["--cache", "shallow"], "no cache is called 'shallow'"),
        (&["--cache", "deep:interval=0"], "interval is 0"),
        (&["--cache", "deep:interval=1.5"], "a whole number"),
        (&["--cache", "deep:depth=99"], "expected less than 6"),
        (
            &["--guider", "pag", "--redraw", "out.png"],
            "cannot be used with",
        ),
    ] {
        let message = refused(folder.path(), arguments);
        assert!(message.contains(words), "{arguments:?}: {message}");
    }
}

#[test]
fn prompts_are_read_in_their_syntax() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let own = |arguments: &[&str]| {
        let size = ["--width", "64", "--height", "64", "--steps", "3"];
        latents(folder, &[&size[..], arguments].concat())
    };
    let syntax = |syntax, prompt| own(&["--prompt-syntax", syntax, prompt]);
    let plain = own(&["a red cube"]);
    // Prompts are encoded in other company, which shows in last bits.
    let same = |a: &[u8], b: &[u8]| difference(a, b) < 1e-3;
    for name in ["a1111", "comfyui", "compel"] {
        assert!(same(&syntax(name, "a red cube"), &plain), "{name}");
    }
    let weighted = "a (red:1.5) cube";
    let [a1111, comfyui] = ["a1111", "comfyui"].map(|name| syntax(name, weighted));
    let others = [
        syntax("compel", "a (red)0.5 cube"),
        syntax("a1111:no norm", weighted),
        // Three steps: the second text comes with the third.
        syntax("a1111", "a [red:blue:1] cube"),
        syntax("a1111", "a red cube AND blue"),
        own(&["--clip-skip", "1", "a red cube"]),
        own(&["a blue cube"]),
    ];
    let all: Vec<&Vec<u8>> = [&plain, &a1111, &comfyui]
        .into_iter()
        .chain(&others)
        .collect();
    for (k, one) in all.iter().enumerate() {
        for other in &all[..k] {
            assert!(!same(one, other), "{k}");
        }
    }
    assert!(same(&syntax("compel", "a (red)1.5 cube"), &comfyui));
    assert!(same(&syntax("a1111:ignore", weighted), &plain));
    assert!(same(&syntax("a1111", "a [red:blue:2] cube"), &plain));

    let message = refused(folder, &["--prompt-syntax", "a1111", "a (b:1.1.1)"]);
    assert!(
        message.contains("at character 5 of the prompt"),
        "{message}"
    );
    let message = refused(folder, &["--prompt-syntax", "webui", "a"]);
    assert!(
        message.contains("expected one of plain, a1111"),
        "{message}"
    );
    assert!(refused(folder, &["--clip-skip", "9", "a"]).contains("clip_skip is 9"));
}

#[test]
fn a_negative_prompt_without_guidance_is_drawn_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let negative = ["--negative", "a blue ring"];
    for scale in ["1", "0", "-3"] {
        let said = drawn(
            folder.path(),
            &[&["--guidance", scale], &negative[..]].concat(),
        );
        assert!(said.contains("negative prompt has no effect"), "{said}");
    }
    let said = drawn(
        folder.path(),
        &[&["--guidance", "1.1"], &negative[..]].concat(),
    );
    assert_eq!(said, "");
    assert_eq!(drawn(folder.path(), &["--guidance", "1"]), "");
}
