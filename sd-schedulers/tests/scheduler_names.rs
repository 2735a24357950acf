//! The names of all dialects, and the tables in the documentation.

use sd_schedulers::{SchedulerConfig, SchedulerName, names, names_markdown, variants};

fn canonical(name: &str) -> String {
    let parsed: SchedulerName = name.parse().unwrap_or_else(|e| panic!("{e}"));
    parsed.to_string()
}

#[test]
fn every_program_is_understood() {
    for (name, expected) in [
        ("DPM++ 2M Karras", "DPM++ 2M Karras"),
        ("dpmpp_2m karras", "DPM++ 2M Karras"),
        ("dpm++2m", "DPM++ 2M"),
        ("DPMSolverMultistepScheduler", "DPM++ 2M"),
        ("DPMSolverMultistep", "DPM++ 2M"),
        ("  euler_a ", "Euler a"),
        ("Euler A Karras", "Euler a Karras"),
        ("euler_ancestral sgm_uniform", "Euler a SGM Uniform"),
        ("DPM++ 2M SDE Exponential", "DPM++ 2M SDE Exponential"),
        ("DPM++ 2M SDE Heun Karras", "DPM++ 2M SDE Heun Karras"),
        ("DPM++ SDE Karras", "DPM++ SDE Karras"),
        ("heun", "Heun"),
        ("heunpp2", "Heun++ 2"),
        ("LMS Karras", "LMS Karras"),
        ("ddim", "DDIM"),
        ("ddim ddim_uniform", "DDIM"),
        ("DDIM Karras", "DDIM"),
        ("ddim_trailing", "DDIM Trailing"),
        ("UniPC", "UniPC"),
        ("uni_pc", "comfyui:uni_pc"),
        ("uni_pc_bh2 karras", "comfyui:uni_pc_bh2 karras"),
        ("DPM2", "DPM2"),
        ("dpm2 karras", "DPM2 Karras"),
        ("a1111:DPM2", "a1111:DPM2"),
        ("A1111:dpm2 A karras", "a1111:DPM2 a Karras"),
        ("comfy:dpm_2", "comfyui:dpm_2"),
        ("a1111:DPM++ 2M Automatic", "a1111:DPM++ 2M Karras"),
        ("webui:Euler automatic", "a1111:Euler Uniform"),
        ("a1111:DDIM Karras", "a1111:DDIM"),
        ("sdcpp:dpm++2m", "sd.cpp:dpm++2m"),
        ("ddpm", "DDPM"),
        ("lcm", "LCM"),
        ("res_2s bong_tangent", "RES 2S Bong Tangent"),
        ("dpm++2mv2 smoothstep", "DPM++ 2M v2 Smoothstep"),
        ("restart", "Restart"),
        ("euler_a_cfg_pp", "Euler a CFG++"),
        ("exp_heun_2_x0_sde", "Exp Heun 2 x0 SDE"),
        ("diffusers:KDPM2DiscreteScheduler", "DPM2"),
        ("sd.cpp:dpm++2s_a ays", "sd.cpp:dpm++2s_a ays"),
        ("dpm++2s_a ays", "DPM++ 2S a Align Your Steps"),
        ("Euler Align Your Steps XL", "Euler Align Your Steps XL"),
        ("euler trailing", "Euler Trailing"),
        ("PNDMScheduler", "PNDM"),
        ("plms", "PLMS"),
        ("er_sde beta", "ER-SDE Beta"),
        ("euler_cfg_pp", "Euler CFG++"),
    ] {
        assert_eq!(canonical(name), expected, "{name}");
    }
}

#[test]
fn printing_and_parsing_are_inverse() {
    for name in names() {
        assert_eq!(canonical(name), name);
        let parsed: SchedulerName = name.parse().unwrap();
        parsed.scheduler().unwrap_or_else(|e| panic!("{name}: {e}"));
        let spread = canonical(&format!("{name} KL Optimal"));
        assert_eq!(canonical(&spread), spread);
    }
}

#[test]
fn a_variant_prints_and_parses_and_ignores_the_models_file() {
    let file = r#"{"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3,
        "use_karras_sigmas": true, "timestep_spacing": "leading", "steps_offset": 1,
        "final_sigmas_type": "sigma_min", "prediction_type": "v_prediction"}"#;
    let config = SchedulerConfig::from_json(file).unwrap();
    assert!(variants().len() > 70);
    for name in variants() {
        assert_eq!(canonical(&name), name);
        let parsed: SchedulerName = name.parse().unwrap();
        let with_file = format!("{:?}", config.named(&parsed).unwrap());
        assert_eq!(with_file, format!("{:?}", parsed.scheduler().unwrap()));
        let spread = canonical(&format!("{name} karras"));
        assert_eq!(canonical(&spread), spread);
    }
}

/// One name drew as many pictures as there were files; now it says what it says.
#[test]
fn a_users_name_says_the_algorithm_and_leaves_the_rest_to_the_file() {
    let file = |own: &str| {
        let file = format!(
            r#"{{"_class_name": "DPMSolverMultistepScheduler", "timestep_spacing": "leading",
                "final_sigmas_type": "sigma_min", "thresholding": true{own}}}"#
        );
        SchedulerConfig::from_json(&file).unwrap()
    };
    let plain = file("");
    let own = file(
        r#", "algorithm_type": "sde-dpmsolver++", "solver_order": 3, "solver_type": "heun",
           "use_karras_sigmas": true"#,
    );
    let of = |config: &SchedulerConfig, name: &str| {
        let name: SchedulerName = name.parse().unwrap();
        format!("{:?}", config.named(&name).unwrap())
    };
    for name in [
        "DPM++ 2M",
        "dpmpp_2m karras",
        "DPM++ 2M SDE",
        "UniPC",
        "DPM++ 2S",
        "DEIS",
    ] {
        assert_eq!(of(&own, name), of(&plain, name), "{name}");
        // What the file says of the levels stays, where the class knows it.
        let spaced = of(&plain, name).contains("spacing: Leading");
        assert_eq!(spaced, name != "DPM++ 2S", "{name}");
    }
    assert!(of(&plain, "DPM++ 2M").contains("final_sigma: SigmaMin"));
    assert!(of(&plain, "DPM++ 2M").contains("thresholding: Dynamic"));
    for name in [
        "DPMSolverMultistepScheduler",
        "diffusers:DPMSolverMultistep",
    ] {
        let class = of(&own, name);
        let expected = [
            "SdePlusPlus",
            "order: 3",
            "solver_type: Heun",
            "sigmas: Karras",
        ];
        assert!(expected.iter().all(|part| class.contains(part)), "{class}");
    }
}

#[test]
fn an_unknown_name_suggests_the_nearest() {
    let unknown = |name: &str| name.parse::<SchedulerName>().unwrap_err();
    assert_eq!(unknown("Eulr").nearest[0], "Euler");
    assert_eq!(unknown("dpmpp_2n").nearest[0], "dpmpp_2m");
    let message = unknown("magic").to_string();
    assert!(
        message.contains("'magic'") && message.contains("DPM++ 2M"),
        "{message}"
    );
    for name in [
        "",
        " ",
        ":",
        "a1111:",
        "a1111:dpmpp_2m",
        "nobody:Euler",
        "Karras",
    ] {
        name.parse::<SchedulerName>().unwrap_err();
    }
    let long = unknown(&"é".repeat(1_000_000));
    assert!(long.to_string().len() < 3000);
}

#[test]
fn the_documentations_tables_are_the_codes() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/NAMES.md");
    let expected = names_markdown();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap();
    assert!(
        found == expected,
        "{path} is out of date: run this test with UPDATE_DOCS=1"
    );
}
