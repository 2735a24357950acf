//! Schedules that are a table or a formula of their own, not a curve between two σ.

use crate::levels::{SigmaTable, linspace};

/// Model that a table of `align_your_steps` was optimised for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlignedModel {
    /// Stable Diffusion 1.5.
    #[default]
    Sd1,
    /// Stable Diffusion XL.
    Sdxl,
}

/// Sabour et al. 2024 (arXiv:2404.14507): σ optimised for ten steps, eleven of them, and for other
/// counts interpolated in ln σ.
pub(super) fn align_your_steps(model: AlignedModel, count: usize) -> Vec<f64> {
    let table: [f64; 11] = match model {
        AlignedModel::Sd1 => [
            14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029,
        ],
        AlignedModel::Sdxl => [
            14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029,
        ],
    };
    let sigma = |point: &f64| {
        let low = (*point as usize).min(9);
        let share = point - low as f64;
        (table[low].ln() * (1.0 - share) + table[low + 1].ln() * share).exp()
    };
    linspace(0.0, 10.0, count).iter().map(sigma).collect()
}

/// Equal steps in the timestep with a point more than there are steps, ln α interpolated: the
/// discrete-time schedule of Lu et al. 2022 (arXiv:2206.00927, appendix D.4).
pub(super) fn time_uniform(table: &SigmaTable, steps: usize) -> Vec<f64> {
    let points = linspace((table.len() - 1) as f64, 0.0, steps + 1);
    let sigmas = points[..steps].iter().map(|&t| table.log_alpha_sigma(t));
    sigmas.collect()
}

/// Every `50 / steps`-th of the 50 timesteps of a latent consistency model's distillation, from the
/// last.
pub(super) fn lcm_timesteps(table: &SigmaTable, steps: usize) -> Vec<f64> {
    const ORIGINAL: usize = 50;
    let ratio = (table.len() / ORIGINAL).max(1);
    let timestep = |i: usize| (ORIGINAL - i * ORIGINAL / steps) * ratio - 1;
    (0..steps)
        .map(|i| table.sigmas()[timestep(i).min(table.len() - 1)])
        .collect()
}

/// RES4LYF's "bong tangent": σ on an arctangent from the largest to the middle, and on another from
/// there to the smallest, both around 0.6 of the steps.
pub(super) fn bong_tangent(max: f64, min: f64, steps: usize) -> Vec<f64> {
    let points = steps + 2;
    let slope = 0.2 / (points as f64 / 40.0);
    let pivot = points * 3 / 5;
    let middle = f64::midpoint(min, max);
    let arc = |count: usize, pivot: f64, start: f64, end: f64| -> Vec<f64> {
        let height = |i: usize| (-slope * (i as f64 - pivot)).atan();
        let (top, bottom) = (height(0), height(count.saturating_sub(1)));
        let share = |i: usize| match top - bottom {
            span if span > 1e-12 => (height(i) - bottom) / span,
            _ => 1.0,
        };
        (0..count).map(|i| end + share(i) * (start - end)).collect()
    };
    let mut sigmas = arc(pivot, pivot as f64, max, middle);
    sigmas.pop();
    sigmas.extend(arc(points - pivot, 0.0, middle, min));
    sigmas.truncate(steps);
    sigmas
}

/// ComfyUI's linear-quadratic schedule (from Genmo's Mochi): the first half of the steps together
/// takes away 2.5 % of σ, in equal parts, and the second half the rest, on a parabola.
pub(super) fn linear_quadratic(max: f64, steps: usize) -> Vec<f64> {
    const THRESHOLD: f64 = 0.025;
    let linear = steps / 2;
    if linear == 0 {
        return vec![max];
    }
    let (n, l) = (steps as f64, linear as f64);
    let quadratic = n - l;
    let rest = l - THRESHOLD * n;
    let square = rest / (l * quadratic * quadratic);
    let slope = THRESHOLD / l - 2.0 * rest / (quadratic * quadratic);
    let taken = |i: usize| {
        let x = i as f64;
        if i < linear {
            x * THRESHOLD / l
        } else {
            square * x * x + slope * x + square * l * l
        }
    };
    (0..steps).map(|i| max * (1.0 - taken(i))).collect()
}

/// ComfyUI's "simple": every `N / steps`-th training σ from the last.
pub(super) fn simple(table: &SigmaTable, steps: usize) -> Vec<f64> {
    let distance = table.len() as f64 / steps as f64;
    let index = |i: usize| table.len() - 1 - (i as f64 * distance) as usize;
    (0..steps).map(|i| table.sigmas()[index(i)]).collect()
}

/// ComfyUI's "ddim_uniform": every `N / steps`-th training σ from the second; some step counts
/// give a level more.
pub(super) fn ddim_uniform(table: &SigmaTable, steps: usize) -> Vec<f64> {
    let distance = (table.len() / steps).max(1);
    let rising = table.sigmas().iter().skip(1).step_by(distance);
    let mut sigmas: Vec<f64> = rising.copied().collect();
    sigmas.reverse();
    if sigmas.is_empty() {
        vec![table.max()]
    } else {
        sigmas
    }
}
