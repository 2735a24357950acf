//! The order with which each deterministic solver converges, measured on a problem whose solution
//! is known: normally distributed data, for which `x(σ) = x(σ₀) √((c² + σ²)/(c² + σ₀²))`.

mod support;

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use sd_core::{
    BetaSchedule, Level, Model, NetworkOutput, NoiseSchedule, Parameterization, Plan, Scheduler,
    SeededNoise, Stage,
};
use sd_schedulers::*;
use support::FormulaModel;

/// Standard deviation of the data.
const C: f64 = 0.7;
/// The σ of the run's ends: within the model's, and not 0, where every solver is of first order.
const ENDS: (f64, f64) = (8.0, 0.08);

/// The training schedule's logarithms, by which solvers find the timestep of a σ.
struct Table(Vec<f64>);

impl Table {
    fn new(train: &NoiseSchedule) -> Self {
        let log = |s: &f64| f64::from(f64::from(*s as f32).ln() as f32);
        Self(train.sigmas().iter().map(log).collect())
    }

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
    let table = Table::new(&train);
    (train, table)
}

/// Stable Diffusion's schedule in ten times as many timesteps, for solvers that know only whole
/// ones.
fn fine_train() -> Arc<NoiseSchedule> {
    let betas = BetaSchedule::ScaledLinear {
        start: 0.000_085,
        end: 0.0012,
    };
    Arc::new(NoiseSchedule::betas(&betas, 10_000).unwrap())
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
    error_of(scheduler, plan, Kind::Sample).0
}

/// The network's input besides the latent, and its output.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// A timestep; x₀.
    Sample,
    /// A timestep; ε.
    Epsilon,
    /// `¼ ln σ`; the output of a model with Karras et al.'s preconditioning and σ_data = 1.
    Edm,
    /// The angle of σ and α in quarter turns; v.
    Cosine,
}

/// The relative error and the number of model calls.
fn error_of(scheduler: &dyn Scheduler, plan: &Plan, kind: Kind) -> (f64, usize) {
    let table = Table::new(&plan.schedule);
    let variance = |sigma: f64| C * C + sigma * sigma;
    let network = |x: Tensor<4>, t: f64| {
        let sigma = match kind {
            Kind::Sample | Kind::Epsilon => table.sigma(t),
            Kind::Edm => (4.0 * t).exp(),
            Kind::Cosine => (t * std::f64::consts::FRAC_PI_2).tan(),
        };
        let scale = sigma.hypot(1.0);
        let gain = C * C / variance(sigma);
        let guided = match kind {
            Kind::Sample => x * (scale * gain),
            Kind::Epsilon => x * (scale * (1.0 - gain) / sigma),
            // v = α̂ε − σ̂x₀.
            Kind::Edm | Kind::Cosine => x * ((1.0 - gain) / sigma - sigma * gain),
        };
        NetworkOutput::unguided(guided)
    };
    let parameterization = match kind {
        Kind::Sample => Parameterization::Sample,
        Kind::Epsilon => Parameterization::Epsilon,
        Kind::Edm => Parameterization::Edm {
            sigma_data: 1.0,
            v_prediction: true,
        },
        Kind::Cosine => Parameterization::VPrediction,
    };
    let mut model = FormulaModel::new(parameterization, network);
    // PNDM's and TCD's last levels are those of timesteps near 0, where σ is as the root of t.
    let count = match kind {
        Kind::Epsilon => plan.stages.len() * 3 / 4,
        _ => plan.stages.len(),
    };
    let (begin, end) = (plan.stages[0].from, plan.stages[count - 1].to);
    let data = TensorData::new(vec![begin.alpha], [1, 1, 1, 1]);
    let mut x = Tensor::from_data(data, (&Device::flex(), DType::F64));
    let mut sampler = scheduler.start(plan, 0).unwrap();
    // SA-Solver draws even where τ is 0.
    let mut noise = SeededNoise::new(0, 1);
    let mut steps = 0;
    loop {
        let step = sampler.step(x, &mut model, &mut noise).unwrap();
        x = step.x;
        steps += 1;
        if step.done || kind == Kind::Epsilon && steps == count {
            break;
        }
    }
    let found = x.try_into_vec_as::<f64>().unwrap()[0] / end.alpha;
    let ratio = |level: Level| level.sigma / level.alpha;
    let exact = (variance(ratio(end)) / variance(ratio(begin))).sqrt();
    ((found / exact - 1.0).abs(), model.evaluations())
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
            thresholding: Thresholding::Off,
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
    add("DPM-Solver 3M", true, 2.0, Box::new(off(3, Ode, Midpoint)));
    add(
        "DPM-Solver singlestep, order 3",
        true,
        3.0,
        Box::new(DpmSolverSinglestep {
            algorithm: Ode,
            ..single(3, Midpoint)
        }),
    );
    add(
        "IPNDM v",
        false,
        2.0,
        Box::new(Ipndm {
            weights: IpndmWeights::Uneven,
            ..Ipndm::default()
        }),
    );
    add("DPM++ 2M v2", false, 2.0, Box::new(Dpmpp2mV2::default()));
    add("DEIS tab", false, 2.0, Box::new(DeisTab::default()));
    let seeds = |stages, ratio, exact| Seeds {
        stages,
        ratio,
        exact,
        eta: 0.0,
        ..Seeds::default()
    };
    add("SEEDS 2, η = 0", false, 2.0, Box::new(seeds(2, 0.5, false)));
    add("RES 2S", false, 2.0, Box::new(seeds(2, 0.5, true)));
    add("Exp Heun 2 x0", false, 2.0, Box::new(seeds(2, 1.0, true)));
    add("SEEDS 3, η = 0", false, 3.0, Box::new(seeds(3, 0.5, true)));
    let er_sde = |order| ErSde {
        order,
        noise_scale: NoiseScale::Ode,
        ..ErSde::default()
    };
    add("ER-SDE 1, φ = σ", false, 1.0, Box::new(er_sde(1)));
    add("ER-SDE 2, φ = σ", false, 2.0, Box::new(er_sde(2)));
    add("ER-SDE 3, φ = σ", false, 2.0, Box::new(er_sde(3)));
    add(
        "DPM fast, which ends with orders 2 and 1",
        false,
        2.0,
        Box::new(DpmFast::default()),
    );
    rows
}

#[test]
fn solvers_converge_with_the_order_that_theory_gives() {
    let mut table = String::from(
        "| solver | order in theory | measured | steps | error |\n|---|---|---|---|---|\n",
    );
    let mut wrong = Vec::new();
    let mut add = |name: &str, order: f64, steps: usize, errors: [f64; 2]| {
        let found = (errors[0] / errors[1]).log2();
        let error = errors[1];
        let line = format!(
            "| {name} | {order} | {found:.1} | {} | {error:.0e} |\n",
            2 * steps
        );
        print!("{line}");
        table += &line;
        // More is no mistake where the error that decides is small.
        if found < order - 0.2 || found > order + 2.0 {
            wrong.push(line);
        }
    };
    for row in rows() {
        let fast = row.name.starts_with("DPM fast");
        let steps = if row.name.starts_with("ER-SDE") {
            12
        } else {
            120
        };
        let errors = [steps, 2 * steps].map(|steps| match fast {
            // Its levels are its own.
            true => error(
                &*row.scheduler,
                &row.scheduler.plan(&train().0, 3 * steps).unwrap(),
            ),
            false => error(&*row.scheduler, &plan(row.preserving, steps)),
        });
        add(row.name, row.order, steps, errors);
    }
    for row in own_plans() {
        let errors = [50, 100].map(|steps| {
            let plan = (row.plan)(&*row.scheduler, steps);
            error_of(&*row.scheduler, &plan, row.kind).0
        });
        add(row.name, row.order, 50, errors);
    }
    assert!(wrong.is_empty(), "not of their order:\n{}", wrong.concat());
    table += ADAPTIVE;
    let mut before = f64::INFINITY;
    for tolerance in [1e-2, 1e-3, 1e-4, 1e-5] {
        let adaptive = DpmAdaptive {
            rtol: tolerance,
            atol: tolerance,
            ..DpmAdaptive::default()
        };
        let (error, calls) = error_of(&adaptive, &plan(false, 10), Kind::Sample);
        let line = format!("| {tolerance:.0e} | {error:.0e} | {calls} |\n");
        print!("{line}");
        table += &line;
        assert!(error < 10.0 * tolerance && error < before, "{line}");
        before = error;
    }
    table += LCM;
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

const ADAPTIVE: &str = "
DPM adaptive chooses its steps by a tolerance, relative and absolute:

| tolerance | error | model calls |
|---|---|---|
";

const LCM: &str = "
LCM solves no ODE: its model leads to x₀ in one step. What is tested instead: with a model that is \
exactly consistent one step gives the ODE's solution, and any number of steps the data's variance \
(`tests/stochastic_solvers.rs`). ER-SDE solves the ODE when its noise scale is σ; its second order \
ends where the authors' sum of 200 points in place of an integral does, at errors of about 1e-4. The solvers of SDEs are \
tested by mean and variance there, too.
";

/// A solver whose levels are its own.
struct Own {
    name: &'static str,
    scheduler: Box<dyn Scheduler>,
    kind: Kind,
    order: f64,
    plan: fn(&dyn Scheduler, usize) -> Plan,
}

fn own_plans() -> Vec<Own> {
    let fine = |scheduler: &dyn Scheduler, steps| scheduler.plan(&fine_train(), steps).unwrap();
    // Without the ends, where the network is told of pure noise and of none.
    let inner = |scheduler: &dyn Scheduler, steps: usize| {
        let mut plan = scheduler.plan(&train().0, steps).unwrap();
        plan.stages = plan.stages[steps / 10..steps - steps / 10].to_vec();
        plan
    };
    let edm = |_: &dyn Scheduler, steps| {
        let mut plan = plan(false, steps);
        plan.schedule = Arc::new(NoiseSchedule::edm(0.002, 80.0).unwrap());
        for Stage { from, to } in &mut plan.stages {
            from.t = from.sigma.ln() / 4.0;
            to.t = to.sigma.ln() / 4.0;
        }
        plan
    };
    let pndm = |skip_prk_steps| Pndm {
        skip_prk_steps,
        ..Pndm::default()
    };
    let own = |name, order, kind, plan, scheduler| Own {
        name,
        scheduler,
        kind,
        order,
        plan,
    };
    vec![
        own(
            "PNDM, Runge–Kutta steps first",
            2.0,
            Kind::Epsilon,
            fine,
            Box::new(pndm(false)),
        ),
        own("PNDM, PLMS", 2.0, Kind::Epsilon, fine, Box::new(pndm(true))),
        own(
            "TCD, η = 0",
            1.0,
            Kind::Epsilon,
            fine,
            Box::new(Tcd {
                original_steps: 1000,
                eta: 0.0,
                ..Tcd::default()
            }),
        ),
        own("EDM Euler", 1.0, Kind::Edm, edm, Box::new(Euler::default())),
        own(
            "EDM DPM++ 2M",
            2.0,
            Kind::Edm,
            edm,
            Box::new(DpmSolverMultistep {
                lower_order_final: false,
                ..DpmSolverMultistep::default()
            }),
        ),
        own(
            "IPNDM Cosine",
            2.0,
            Kind::Cosine,
            inner,
            Box::new(IpndmCosine {}),
        ),
    ]
}
