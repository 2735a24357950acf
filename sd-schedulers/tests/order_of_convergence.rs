//! The order with which each deterministic solver converges, measured on a problem whose solution
//! is known: normally distributed data, for which `x(σ) = x(σ₀) √((c² + σ²)/(c² + σ₀²))`.

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use sd_core::{
    Level, Model, NetworkOutput, NoiseSchedule, Plan, PredictionType, Scheduler, SeededNoise, Stage,
};
use sd_schedulers::*;

/// Standard deviation of the data.
const C: f64 = 0.7;
/// The σ of the run's ends: within the model's, and not 0, where every solver is of first order.
const ENDS: (f64, f64) = (8.0, 0.08);

/// The training schedule's logarithms, by which solvers find the timestep of a σ.
struct Table(Vec<f64>);

impl Table {
    fn timestep(&self, sigma: f64) -> f64 {
        let log = sigma.ln();
        let low = self
            .0
            .partition_point(|l| *l <= log)
            .clamp(1, self.0.len() - 1)
            - 1;
        low as f64 + (log - self.0[low]) / (self.0[low + 1] - self.0[low])
    }

    fn sigma(&self, t: f64) -> f64 {
        let low = (t as usize).min(self.0.len() - 2);
        (self.0[low] + (t - low as f64) * (self.0[low + 1] - self.0[low])).exp()
    }
}

fn train() -> (Arc<NoiseSchedule>, Table) {
    let train = Arc::new(NoiseSchedule::stable_diffusion());
    let log = |s: &f64| f64::from(f64::from(*s as f32).ln() as f32);
    let table = Table(train.sigmas().iter().map(log).collect());
    (train, table)
}

/// Equal steps in ln σ, in the solver's own scale.
fn plan(preserving: bool, steps: usize) -> Plan {
    let (schedule, table) = train();
    let level = |i: usize| {
        let share = i as f64 / steps as f64;
        let sigma = (ENDS.0.ln() * (1.0 - share) + ENDS.1.ln() * share).exp();
        let scale = if preserving { sigma.hypot(1.0) } else { 1.0 };
        Level {
            t: table.timestep(sigma),
            alpha: 1.0 / scale,
            sigma: sigma / scale,
        }
    };
    let stage = |i| Stage {
        from: level(i),
        to: level(i + 1),
    };
    Plan {
        schedule,
        init_noise_sigma: 1.0,
        stages: (0..steps).map(stage).collect(),
    }
}

/// The relative error at the end of a run along `plan`.
fn error(scheduler: &dyn Scheduler, plan: &Plan) -> f64 {
    let (_, table) = train();
    let variance = |sigma: f64| C * C + sigma * sigma;
    let mut network = |x: Tensor<4>, t: f64| {
        let sigma = table.sigma(t);
        let guided = x * (sigma.hypot(1.0) * C * C / variance(sigma));
        Ok(NetworkOutput {
            guided,
            uncond: None,
        })
    };
    let mut model = Model::new(PredictionType::Sample, &mut network);
    let (begin, end) = (plan.stages[0].from, plan.stages[plan.stages.len() - 1].to);
    let data = TensorData::new(vec![begin.alpha], [1, 1, 1, 1]);
    let mut x = Tensor::from_data(data, (&Device::flex(), DType::F64));
    let mut sampler = scheduler.start(plan, 0).unwrap();
    // SA-Solver draws even where τ is 0.
    let mut noise = SeededNoise::new(0, 1);
    loop {
        let step = sampler.step(x, &mut model, &mut noise).unwrap();
        x = step.x;
        if step.done {
            break;
        }
    }
    let found = x.try_into_vec_as::<f64>().unwrap()[0] / end.alpha;
    let ratio = |level: Level| level.sigma / level.alpha;
    let exact = (variance(ratio(end)) / variance(ratio(begin))).sqrt();
    (found / exact - 1.0).abs()
}

struct Row {
    name: &'static str,
    scheduler: Box<dyn Scheduler>,
    preserving: bool,
    /// The order that theory gives, with the first steps of lower order counted.
    order: f64,
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |name, preserving, order, scheduler: Box<dyn Scheduler>| {
        rows.push(Row {
            name,
            scheduler,
            preserving,
            order,
        });
    };
    let off = |order, algorithm, solver_type| DpmSolverMultistep {
        order,
        algorithm,
        solver_type,
        lower_order_final: false,
        ..DpmSolverMultistep::default()
    };
    let ends = Levels {
        final_sigma: FinalSigma::SigmaMin,
        ..Levels::default()
    };
    let single = |order, solver_type| DpmSolverSinglestep {
        order,
        solver_type,
        levels: ends.clone(),
        ..DpmSolverSinglestep::default()
    };
    let unipc = |order, variant| UniPc {
        order,
        variant,
        lower_order_final: false,
        ..UniPc::default()
    };
    let deis = |order| Deis {
        order,
        lower_order_final: false,
        ..Deis::default()
    };
    let sa = |p, c| SaSolver {
        predictor_order: p,
        corrector_order: c,
        tau: 0.0,
        lower_order_final: false,
        ..SaSolver::default()
    };
    use Algorithm::{Ode, OdePlusPlus};
    use SolverType::{Heun as ByHeun, Midpoint};
    add(
        "DDIM",
        true,
        1.0,
        Box::new(Ddim {
            clip: Clip::Off,
            ..Ddim::default()
        }),
    );
    add("Euler", false, 1.0, Box::new(Euler::default()));
    add(
        "Euler CFG++, no guidance",
        false,
        1.0,
        Box::new(EulerCfgPp::default()),
    );
    add("Heun++ 2", false, 1.0, Box::new(HeunPp2::default()));
    add(
        "Gradient estimation",
        false,
        1.0,
        Box::new(GradientEstimation::default()),
    );
    add("IPNDM", false, 2.0, Box::new(Ipndm::default()));
    add("Heun", false, 2.0, Box::new(Heun::default()));
    add(
        "LMS, order 2",
        false,
        2.0,
        Box::new(Lms {
            order: 2,
            ..Lms::default()
        }),
    );
    add("LMS, order 4", false, 2.0, Box::new(Lms::default()));
    add("DPM2", false, 2.0, Box::new(Kdpm2::default()));
    add(
        "DPM++ 2S",
        false,
        2.0,
        Box::new(Dpmpp2sAncestral {
            eta: 0.0,
            ..Default::default()
        }),
    );
    add(
        "DPM++ 2M, midpoint",
        true,
        2.0,
        Box::new(off(2, OdePlusPlus, Midpoint)),
    );
    add(
        "DPM++ 2M, heun",
        true,
        2.0,
        Box::new(off(2, OdePlusPlus, ByHeun)),
    );
    add(
        "DPM++ 2M CFG++, no guidance",
        false,
        2.0,
        Box::new(Dpmpp2mCfgPp::default()),
    );
    add("DPM-Solver 2M", true, 2.0, Box::new(off(2, Ode, Midpoint)));
    add(
        "DPM++ 3M",
        true,
        2.0,
        Box::new(off(3, OdePlusPlus, Midpoint)),
    );
    add(
        "DPM++ 3M SDE, η = 0",
        false,
        2.0,
        Box::new(Dpmpp3mSde {
            eta: 0.0,
            ..Default::default()
        }),
    );
    add(
        "DPM++ singlestep, order 2",
        true,
        2.0,
        Box::new(single(2, Midpoint)),
    );
    add(
        "DPM++ singlestep, order 3",
        true,
        3.0,
        Box::new(single(3, Midpoint)),
    );
    add("DEIS, order 2", true, 2.0, Box::new(deis(2)));
    add("DEIS, order 3", true, 2.0, Box::new(deis(3)));
    add(
        "UniPC, order 1",
        true,
        2.0,
        Box::new(unipc(1, UniPcVariant::Bh2)),
    );
    add(
        "UniPC, order 2, bh1",
        true,
        3.0,
        Box::new(unipc(2, UniPcVariant::Bh1)),
    );
    add(
        "UniPC, order 2, bh2",
        true,
        3.0,
        Box::new(unipc(2, UniPcVariant::Bh2)),
    );
    add(
        "UniPC, order 3",
        true,
        3.0,
        Box::new(unipc(3, UniPcVariant::Bh2)),
    );
    add("SA-Solver 1/1, τ = 0", true, 1.0, Box::new(sa(1, 1)));
    add("SA-Solver 2/2, τ = 0", true, 2.0, Box::new(sa(2, 2)));
    add("SA-Solver 3/3, τ = 0", true, 3.0, Box::new(sa(3, 3)));
    add(
        "Res multistep",
        false,
        2.0,
        Box::new(ResMultistep::default()),
    );
    add(
        "DPM fast, which ends with orders 2 and 1",
        false,
        2.0,
        Box::new(DpmFast {}),
    );
    rows
}

#[test]
fn solvers_converge_with_the_order_that_theory_gives() {
    let mut table = String::from(
        "| solver | order in theory | measured | error at 120 steps |\n|---|---|---|---|\n",
    );
    let mut wrong = Vec::new();
    for row in rows() {
        let plan = |steps: usize| match row.name {
            // Its levels are its own.
            name if name.starts_with("DPM fast") => {
                row.scheduler.plan(&train().0, 3 * steps).unwrap()
            }
            _ => plan(row.preserving, steps),
        };
        let errors = [120, 240].map(|steps| error(&*row.scheduler, &plan(steps)));
        let found = (errors[0] / errors[1]).log2();
        let line = format!(
            "| {} | {} | {found:.1} | {:.0e} |\n",
            row.name, row.order, errors[0]
        );
        print!("{line}");
        table += &line;
        // More is no mistake where the error that decides is small.
        if found < row.order - 0.2 || found > row.order + 2.0 {
            wrong.push(line);
        }
    }
    assert!(wrong.is_empty(), "not of their order:\n{}", wrong.concat());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/ORDERS.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &table).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap();
    assert!(
        found == table,
        "{path} is out of date: run this test with UPDATE_DOCS=1"
    );
}
