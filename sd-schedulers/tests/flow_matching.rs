//! Flow matching: diffusers' trajectories, orders of convergence and distributions along a flow, and
//! refusals of the solvers that are not made for one.

mod support;

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use sd_core::{
    Error, Level, NetworkOutput, NoiseSchedule, Parameterization, Plan, Scheduler, SeededNoise,
    Stage, TorchRng,
};
use sd_fixtures::Fixture;
use sd_schedulers::*;
use serde_json::Value;
use support::{FormulaModel, compare, compare_those};

#[test]
fn euler() {
    assert_eq!(compare("flow_euler", 1e-5), 69);
}

#[test]
fn heun() {
    assert_eq!(compare("flow_heun", 1e-5), 20);
}

#[test]
fn dpm_multistep() {
    assert_eq!(compare("flow_dpm_multistep", 1e-5), 27);
}

/// Karras' σ of a table of β, which a flow has not, as if they were of a flow.
fn of_betas(case: &Value) -> bool {
    case["config"]["use_karras_sigmas"] == true
}

#[test]
fn unipc() {
    assert_eq!(
        compare_those("flow_unipc", 1e-5, |case| !of_betas(case)),
        22
    );
    let settings = Fixture::open("schedulers_flow_unipc").settings();
    for case in settings.as_array().unwrap().iter().filter(|c| of_betas(c)) {
        let config = SchedulerConfig::from_json_verbatim(&case["config"].to_string()).unwrap();
        let error = config.scheduler().unwrap_err().to_string();
        assert!(error.contains("use_flow_sigmas"), "{error}");
    }
}

/// Standard deviation of the data.
const C: f64 = 0.7;
const MEAN: f64 = 0.4;

fn variance(sigma: f64) -> f64 {
    ((1.0 - sigma) * C).powi(2) + sigma * sigma
}

/// A model that knows normally distributed data: the velocity `E[ε − x₀ | x]`.
fn normal_data(
    mean: f64,
    train: &NoiseSchedule,
) -> FormulaModel<impl FnMut(Tensor<4>, f64) -> NetworkOutput> {
    let timesteps = train.len() as f64;
    FormulaModel::new(Parameterization::Flow, move |x: Tensor<4>, t: f64| {
        let sigma = t / timesteps;
        let alpha = 1.0 - sigma;
        let gain = (sigma - alpha * C * C) / variance(sigma);
        NetworkOutput::unguided((x - alpha * mean) * gain - mean)
    })
}

/// Steps that are even in σ, without the ends, where a multistep solver's order is lower.
fn inner_plan(steps: usize) -> Plan {
    let level = |i: usize| {
        let sigma = 0.95 - 0.9 * i as f64 / steps as f64;
        Level::linear(1000.0 * sigma, sigma)
    };
    let stage = |i| Stage {
        from: level(i),
        to: level(i + 1),
    };
    Plan {
        schedule: Arc::new(NoiseSchedule::flow(1.0).unwrap()),
        init_noise_sigma: 1.0,
        stages: (0..steps).map(stage).collect(),
    }
}

/// The relative error at the end of a run, against `x(σ) ∝ √((1 − σ)²C² + σ²)`.
fn error(scheduler: &dyn Scheduler, plan: &Plan) -> f64 {
    let mut model = normal_data(0.0, &plan.schedule);
    let data = TensorData::new(vec![1.0], [1, 1, 1, 1]);
    let mut x = Tensor::from_data(data, (&Device::flex(), DType::F64));
    let mut noise = SeededNoise::new(0, 1);
    let mut sampler = scheduler.start(plan, 0).unwrap();
    loop {
        let step = sampler.step(x, &mut model, &mut noise).unwrap();
        x = step.x;
        if step.done {
            let begin = plan.stages[0].from.sigma;
            let exact = (variance(step.level.sigma) / variance(begin)).sqrt();
            return (x.try_into_vec_as::<f64>().unwrap()[0] / exact - 1.0).abs();
        }
    }
}

#[test]
fn solvers_have_their_order_along_a_flow() {
    let multistep = DpmSolverMultistep {
        lower_order_final: false,
        ..DpmSolverMultistep::default()
    };
    let unipc = UniPc {
        lower_order_final: false,
        ..UniPc::default()
    };
    let deis = Deis {
        lower_order_final: false,
        ..Deis::default()
    };
    let sa = SaSolver {
        tau: 0.0,
        lower_order_final: false,
        ..SaSolver::default()
    };
    let solvers: [(&dyn Scheduler, f64); 9] = [
        (&Euler::default(), 1.0),
        (&Heun::default(), 2.0),
        (&Kdpm2::default(), 2.0),
        (&Lms::default(), 2.0),
        (&Ipndm::default(), 2.0),
        (&multistep, 2.0),
        (&unipc, 3.0),
        (&deis, 2.0),
        (&sa, 2.0),
    ];
    for (solver, order) in solvers {
        let [coarse, fine] = [120, 240].map(|steps| error(solver, &inner_plan(steps)));
        let found = (coarse / fine).log2();
        println!("{found:.1} of {order}, error {fine:.0e}: {solver:?}");
        assert!(
            found > order - 0.25 && found < order + 2.0,
            "{found}: {solver:?}"
        );
    }
}

#[test]
fn whole_runs_from_pure_noise_converge_on_the_data() {
    let train = Arc::new(NoiseSchedule::flow(3.0).unwrap());
    for scheduler in [
        &Euler::default() as &dyn Scheduler,
        &Heun::default(),
        &DpmSolverMultistep::default(),
        &UniPc::default(),
    ] {
        let [coarse, fine] = [25, 200].map(|steps| {
            let plan = scheduler.plan(&train, steps).unwrap();
            assert_eq!(plan.init_noise_sigma, 1.0);
            error(scheduler, &plan)
        });
        assert!(
            fine < 0.02 && fine < coarse / 3.0,
            "{coarse} {fine}: {scheduler:?}"
        );
    }
}

/// Names of solvers that have no business with a model of the probability flow: they jump to x₀.
fn is_consistency(name: &str) -> bool {
    name.to_lowercase().contains("lcm")
}

#[test]
fn every_name_draws_the_datas_distribution_or_refuses() {
    const SIDE: usize = 100;
    let train = Arc::new(NoiseSchedule::flow(3.0).unwrap());
    let all = names().into_iter().map(String::from).chain(variants());
    let (mut drawn, mut refused) = (0, Vec::new());
    for name in all.filter(|name| !is_consistency(name)) {
        // Its weights suppose steps of about equal length in ln σ.
        let name = match name.to_lowercase().replace(' ', "").ends_with("2mv2") {
            true => format!("{name} Karras"),
            false => name,
        };
        let scheduler = name.parse::<SchedulerName>().unwrap().scheduler().unwrap();
        let plan = match scheduler.plan(&train, 150) {
            Ok(plan) => plan,
            Err(error) => {
                let told = matches!(&error, Error::Unsupported(text) if text.contains("use "));
                assert!(told, "{name}: {error}");
                refused.push(name);
                continue;
            }
        };
        for Stage { from, to } in &plan.stages {
            for level in [from, to] {
                assert!(
                    (level.alpha + level.sigma - 1.0).abs() < 1e-12,
                    "{name}: {level:?}"
                );
            }
        }
        let mut model = normal_data(MEAN, &train);
        let mut noise = SeededNoise::new(7, 1);
        let data = TensorData::new(TorchRng::new(3).randn(SIDE * SIDE), [1, 1, SIDE, SIDE]);
        let mut x = Tensor::from_data(data, &Device::flex()) * plan.init_noise_sigma;
        let mut sampler = scheduler.start(&plan, 0).unwrap();
        loop {
            let step = sampler.step(x, &mut model, &mut noise).unwrap();
            x = step.x;
            if step.done {
                break;
            }
        }
        let values = x.try_into_vec_as::<f32>().unwrap();
        let n = values.len() as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let spread = values.iter().map(|v| (f64::from(*v) - mean).powi(2));
        let ratio = spread.sum::<f64>() / n / (C * C);
        println!("{name}: mean {mean:.4}, variance {ratio:.4} of the data's");
        assert!((mean - MEAN).abs() < 0.03, "{name}: mean {mean}");
        assert!((ratio - 1.0).abs() < 0.06, "{name}: variance {ratio}");
        drawn += 1;
    }
    println!("{drawn} drew, refused: {refused:?}");
    for name in [
        "Euler",
        "Heun",
        "DPM2",
        "DPM++ 2M",
        "DPM++ 2M SDE",
        "UniPC",
        "LMS",
        "RES 2S",
    ] {
        assert!(!refused.iter().any(|refused| refused == name), "{name}");
    }
}

fn refusal(scheduler: &dyn Scheduler, train: &Arc<NoiseSchedule>) -> String {
    match scheduler.plan(train, 25) {
        Err(Error::Unsupported(text)) => text,
        other => panic!("{scheduler:?}: {other:?}"),
    }
}

#[test]
fn solvers_of_another_scale_refuse_a_flow_and_say_what_would_be_right() {
    let train = Arc::new(NoiseSchedule::flow(3.0).unwrap());
    let churning = Euler {
        s_churn: 1.0,
        ..Euler::default()
    };
    let guided = ResMultistep {
        cfg_pp: true,
        ..ResMultistep::default()
    };
    let refused: [(&dyn Scheduler, &str); 9] = [
        (&churning, "s_churn 0"),
        (&EulerAncestral::default(), "eta 0"),
        (&DpmSolverSde::default(), "eta 0"),
        (&Dpmpp3mSde::default(), "eta 0"),
        (&Seeds::default(), "eta 0"),
        (&ErSde::default(), "noise scale ode"),
        (&Restart::default(), "use Heun"),
        (&EulerCfgPp::default(), "use Euler"),
        (&guided, "cfg_pp false"),
    ];
    for (scheduler, instead) in refused {
        let text = refusal(scheduler, &train);
        assert!(
            text.contains("a flow's") && text.contains(instead),
            "{text}"
        );
    }
    let tables: [&dyn Scheduler; 5] = [
        &Ddim::default(),
        &Ddpm::default(),
        &Pndm::default(),
        &Lcm::default(),
        &Tcd::default(),
    ];
    for scheduler in tables {
        let text = refusal(scheduler, &train);
        assert!(
            text.contains("a table of β") && text.contains("UniPC"),
            "{text}"
        );
    }
    // Without noise they are solvers of the ODE, which is a flow's too.
    let quiet = EulerAncestral {
        eta: 0.0,
        ..EulerAncestral::default()
    };
    let plans = [quiet.plan(&train, 9), Euler::default().plan(&train, 9)];
    let [quiet, euler] = plans.map(|plan| plan.unwrap().stages);
    assert_eq!(quiet, euler);
}

#[test]
fn sigmas_that_a_flow_has_not_are_refused() {
    let train = Arc::new(NoiseSchedule::flow(1.0).unwrap());
    let plan = |levels| {
        let euler = Euler {
            levels,
            ..Euler::default()
        };
        euler.plan(&train, 10).map(|plan| plan.stages)
    };
    let levels = |sigmas| Levels {
        sigmas,
        ..Levels::default()
    };
    let error = plan(levels(SigmaSchedule::AlignYourSteps(AlignedModel::Sd1))).unwrap_err();
    assert!(error.to_string().contains("at most 1"), "{error}");
    for terminal in [0.0, 1.0, f64::NAN] {
        let error = plan(Levels {
            shift_terminal: Some(terminal),
            ..Levels::default()
        });
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("shift_terminal is"), "{error}");
    }
    // A single step from pure noise cannot be stretched.
    let one = Euler {
        levels: Levels {
            shift_terminal: Some(0.1),
            ..Levels::default()
        },
        ..Euler::default()
    };
    assert_eq!(one.plan(&train, 1).unwrap().stages[0].from.sigma, 1.0);
}

#[test]
fn files_of_a_flow_are_read_and_bad_ones_refused() {
    let read = |json: &str| SchedulerConfig::from_json(json).unwrap();
    let sd3 = read(r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}"#);
    let train = sd3.noise_schedule().unwrap();
    assert_eq!(train.shift(), Some(3.0));
    assert_eq!(sd3.parameterization().unwrap(), Parameterization::Flow);
    // Other solvers by name run on the same schedule, in its levels.
    for name in ["DPM++ 2M Karras", "UniPC", "Heun", "Euler Simple"] {
        let scheduler = sd3.named(&name.parse().unwrap()).unwrap();
        let plan = scheduler.plan(&train, 8).unwrap();
        let begin = plan.stages[0].from;
        assert!(
            begin.sigma > 0.999 - 1e-3 && begin.alpha < 2e-3,
            "{name}: {begin:?}"
        );
    }
    let message = |json: &str| {
        let config = read(json);
        let all = config.scheduler().map(|_| ()).and_then(|()| {
            config.parameterization()?;
            config.noise_schedule().map(|_| ())
        });
        all.unwrap_err().to_string()
    };
    let class = r#""_class_name": "FlowMatchEulerDiscreteScheduler""#;
    for (entry, key) in [
        (r#""shift": 0"#, "shift is 0"),
        (r#""shift": NaN"#, "'shift'"),
        (r#""num_train_timesteps": 0"#, "num_train_timesteps"),
        (r#""use_dynamic_shifting": 1"#, "'use_dynamic_shifting'"),
        (r#""shift_terminal": "low""#, "'shift_terminal'"),
        (r#""invert_sigmas": true"#, "'invert_sigmas'"),
        (r#""stochastic_sampling": 3"#, "'stochastic_sampling'"),
    ] {
        let found = message(&format!("{{{class}, {entry}}}"));
        assert!(found.contains(key), "{entry}: {found}");
    }
}
