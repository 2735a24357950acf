/// `(σ_down, σ_up)` of an ancestral step from `sigma` to `next` with the share `eta` of its noise.
pub(crate) fn ancestral(sigma: f64, next: f64, eta: f64) -> (f64, f64) {
    let (sigma2, next2) = (sigma * sigma, next * next);
    let up = (eta * (next2 * (sigma2 - next2) / sigma2).max(0.0).sqrt()).min(next);
    ((next2 - up * up).max(0.0).sqrt(), up)
}
