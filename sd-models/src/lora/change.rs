//! Changes of one tensor: what they make of rows of the original.

use std::ops::Range;

use super::grammar::Role;
use super::matrix::{Matrix, tucker};
use super::module::{Form, Module, is_of_inputs};
use super::rotation::{butterflies, neumann, rotations, side_of, turn_columns, turn_rows};
use crate::Result;
use crate::layers::Factors;
use crate::weights::{TensorSource, values};

/// Change of one tensor.
#[derive(Debug)]
pub(super) struct Change {
    kind: Kind,
    /// Factor of the change, alpha over the rank.
    factor: f32,
    magnitude: Option<Magnitude>,
}

#[derive(Debug)]
enum Kind {
    LowRank([Matrix; 2]),
    Hadamard([[Matrix; 2]; 2]),
    Kronecker {
        first: Matrix,
        second: Matrix,
        /// Inputs of the second factor.
        columns: usize,
    },
    Outputs {
        side: usize,
        /// Square blocks one after the other, of all stages.
        rotations: Vec<f32>,
        /// Stages of butterflies; 0 where the blocks are the whole.
        stages: usize,
        rescale: Option<Vec<f32>>,
    },
    Inputs {
        side: usize,
        rotations: Vec<f32>,
    },
    Full(Vec<f32>),
}

/// Length that each row or each input's column has after the change (Liu et al. 2024, DoRA,
/// arXiv:2402.09353).
#[derive(Debug)]
enum Magnitude {
    Outputs(Vec<f32>),
    Inputs(Vec<f32>),
}

/// A module's tensors, read as they are asked for.
struct Tensors<'a> {
    module: &'a Module,
    source: &'a dyn TensorSource,
    alpha: Option<f32>,
}

impl Tensors<'_> {
    fn has(&self, role: Role) -> bool {
        self.module.tensors.contains_key(&role)
    }

    fn shape(&self, role: Role) -> &[usize] {
        &self.source.tensors()[self.module.tensors[&role]].shape
    }

    fn values(&self, role: Role) -> Result<Vec<f32>> {
        values(self.source, self.module.tensors[&role])
    }

    fn matrix(&self, role: Role) -> Result<Matrix> {
        Ok(Matrix::new(self.shape(role)[0], self.values(role)?))
    }

    /// The two factors of a product, with the core `t` in the second where there is one.
    fn factors(&self, [a, b, t]: [Role; 3]) -> Result<[Matrix; 2]> {
        let [a, b] = [self.matrix(a)?, self.matrix(b)?];
        Ok(match self.has(t) {
            false => [a, b],
            true => [a.transposed(), tucker(&self.matrix(t)?, &b)],
        })
    }

    /// Factor of a change of rank `rank`.
    fn factor(&self, rank: usize) -> f32 {
        match (self.alpha, self.module.factor) {
            (Some(alpha), _) => alpha / rank as f32,
            (None, factor) => factor.unwrap_or(1.0),
        }
    }

    fn low_rank(&self) -> Result<(Kind, f32)> {
        let (up, mut down) = (self.matrix(Role::Up)?, self.matrix(Role::Down)?);
        let rank = down.rows;
        if self.has(Role::Mid) {
            down = tucker(&self.matrix(Role::Mid)?, &down);
        }
        Ok((Kind::LowRank([up, down]), self.factor(rank)))
    }

    fn hadamard(&self) -> Result<(Kind, f32)> {
        let first = self.factors([Role::HadaA1, Role::HadaB1, Role::HadaT1])?;
        let second = self.factors([Role::HadaA2, Role::HadaB2, Role::HadaT2])?;
        let rank = first[1].rows;
        Ok((Kind::Hadamard([first, second]), self.factor(rank)))
    }

    fn kronecker(&self, inputs: usize) -> Result<(Kind, f32)> {
        let mut rank = None;
        let first = match self.has(Role::Kron1) {
            true => self.matrix(Role::Kron1)?,
            false => {
                let b = self.matrix(Role::KronB1)?;
                rank = Some(b.rows);
                self.matrix(Role::KronA1)?.product(&b)
            }
        };
        let second = match self.has(Role::Kron2) {
            true => self.matrix(Role::Kron2)?,
            false => {
                let [a, b] = self.factors([Role::KronA2, Role::KronB2, Role::KronT2])?;
                rank = Some(b.rows);
                a.product(&b)
            }
        };
        // Where neither is factored LyCORIS saves the rank as alpha, and others 1: the change is
        // what the two say.
        let factor = rank.map_or(self.module.factor.unwrap_or(1.0), |rank| self.factor(rank));
        let columns = inputs / first.columns;
        let kind = Kind::Kronecker {
            first,
            second,
            columns,
        };
        Ok((kind, factor))
    }

    fn outputs(&self, outputs: usize) -> Result<(Kind, f32)> {
        let blocks = self.values(Role::Blocks)?;
        let shape = self.shape(Role::Blocks);
        let side = shape.last().copied().unwrap_or(1);
        let bound = self.alpha.filter(|alpha| *alpha > 0.0);
        let bound = bound.map(|alpha| f64::from(alpha) * outputs as f64);
        let rotations = rotations(side, &blocks, bound);
        let rotations =
            rotations.ok_or_else(|| self.module.error(self.source, "has no inverse"))?;
        let rescale = match self.has(Role::Rescale) {
            true => Some(self.values(Role::Rescale)?),
            false => None,
        };
        let stages = if shape.len() == 4 { shape[0] } else { 0 };
        let kind = Kind::Outputs {
            side,
            rotations,
            stages,
            rescale,
        };
        Ok((kind, 1.0))
    }

    fn inputs(&self) -> Result<(Kind, f32)> {
        let vectors = self.matrix(Role::Rotation)?;
        let side = side_of(vectors.columns).unwrap_or(1);
        let rotations = vectors.values.chunks_exact(vectors.columns.max(1));
        let rotations = rotations.flat_map(|free| neumann(side, free)).collect();
        Ok((Kind::Inputs { side, rotations }, 1.0))
    }

    fn magnitude(&self, inputs: usize) -> Result<Option<Magnitude>> {
        if self.has(Role::Magnitude) {
            return Ok(Some(Magnitude::Outputs(self.values(Role::Magnitude)?)));
        }
        if !self.has(Role::Scale) {
            return Ok(None);
        }
        let values = self.values(Role::Scale)?;
        Ok(Some(match is_of_inputs(self.shape(Role::Scale), inputs) {
            true => Magnitude::Inputs(values),
            false => Magnitude::Outputs(values),
        }))
    }
}

impl Change {
    /// Reads the change of a weight of the shape `weight`, which `module` [fits](Module::fits).
    pub(super) fn read(
        module: &Module,
        source: &dyn TensorSource,
        weight: &[usize],
    ) -> Result<Self> {
        let has_alpha = module.tensors.contains_key(&Role::Alpha);
        let tensors = Tensors {
            module,
            source,
            alpha: has_alpha.then(|| module.alpha(source)).transpose()?,
        };
        let inputs = weight.get(1).copied().unwrap_or(1);
        let form = module
            .form()
            .map_err(|reason| module.error(source, reason))?;
        let (kind, factor) = match form.unwrap_or(Form::Full) {
            Form::LowRank => tensors.low_rank()?,
            Form::Hadamard => tensors.hadamard()?,
            Form::Kronecker => tensors.kronecker(inputs)?,
            Form::Outputs => tensors.outputs(weight[0])?,
            Form::Inputs => tensors.inputs()?,
            Form::Full => (Kind::Full(tensors.values(Role::Diff)?), 1.0),
        };
        Ok(Self {
            kind,
            factor,
            magnitude: tensors.magnitude(inputs)?,
        })
    }

    /// Reads the change of a bias.
    pub(super) fn read_bias(module: &Module, source: &dyn TensorSource) -> Result<Self> {
        Ok(Self {
            kind: Kind::Full(values(source, module.tensors[&Role::DiffBias])?),
            factor: 1.0,
            magnitude: None,
        })
    }

    /// `true` where a row's change depends on no other row.
    pub(super) fn by_rows(&self) -> bool {
        !matches!(self.kind, Kind::Outputs { .. })
            && !matches!(self.magnitude, Some(Magnitude::Inputs(_)))
    }

    /// What is added to the weight, as layers beside it have it: a change of low rank as its two
    /// factors, another one whole. `None` of a change that turns or scales the weight, and is no sum.
    pub(super) fn factors(&self, shape: &[usize]) -> Option<Factors> {
        let turns = matches!(self.kind, Kind::Outputs { .. } | Kind::Inputs { .. });
        if turns || self.magnitude.is_some() {
            return None;
        }
        let outputs = shape.first().copied().unwrap_or(1);
        let width = shape.iter().skip(1).product::<usize>().max(1);
        let inputs = shape.get(1).copied().unwrap_or(1);
        let (rank, low, mut high) = match &self.kind {
            Kind::LowRank([up, down]) => (down.rows, Some(down.values.clone()), up.values.clone()),
            _ => (outputs, None, self.difference(0..outputs, inputs, width)),
        };
        high.iter_mut().for_each(|x| *x *= self.factor);
        Some(Factors { rank, low, high })
    }

    /// The values of a bias' change.
    pub(super) fn into_bias(self) -> Vec<f32> {
        match self.kind {
            Kind::Full(values) => values,
            _ => Vec::new(),
        }
    }

    /// Rows of the weight with this change, `strength` of it: all of them, where they depend on each
    /// other. `old` are the original's.
    ///
    /// A change of low rank is added so many times; one that turns or scales the weight goes so far
    /// of the way, as in ComfyUI: at 0 the weight is the original's, whatever the change.
    pub(super) fn changed(
        &self,
        shape: &[usize],
        rows: Range<usize>,
        strength: f32,
        old: Vec<f32>,
    ) -> Vec<f32> {
        let width = shape.iter().skip(1).product::<usize>().max(1);
        let inputs = shape.get(1).copied().unwrap_or(1);
        let turns = matches!(self.kind, Kind::Outputs { .. } | Kind::Inputs { .. });
        if !turns && self.magnitude.is_none() {
            let change = self.difference(rows, inputs, width);
            let factor = strength * self.factor;
            let mut new = old;
            for (new, change) in new.iter_mut().zip(change) {
                *new += factor * change;
            }
            return new;
        }
        let mut new = match &self.kind {
            Kind::Outputs {
                side,
                rotations,
                stages,
                rescale,
            } => {
                let mut new = match stages {
                    0 => turn_rows(*side, rotations, &old, width),
                    stages => butterflies(*side, rotations, *stages, &old, width),
                };
                for (row, scale) in new.chunks_exact_mut(width).zip(rescale.iter().flatten()) {
                    row.iter_mut().for_each(|x| *x *= scale);
                }
                new
            }
            Kind::Inputs { side, rotations } => turn_columns(*side, rotations, &old, width),
            _ => {
                let change = self.difference(rows.clone(), inputs, width);
                let sum = old.iter().zip(change);
                sum.map(|(old, change)| old + self.factor * change)
                    .collect()
            }
        };
        match &self.magnitude {
            None => {}
            Some(Magnitude::Outputs(lengths)) => {
                for (row, length) in new.chunks_exact_mut(width).zip(&lengths[rows]) {
                    let norm = row
                        .iter()
                        .map(|x| f64::from(*x).powi(2))
                        .sum::<f64>()
                        .sqrt();
                    let scale = (f64::from(*length) / (norm + f64::from(f32::EPSILON))) as f32;
                    row.iter_mut().for_each(|x| *x *= scale);
                }
            }
            Some(Magnitude::Inputs(lengths)) => {
                let kernel = width / inputs.max(1);
                for (input, length) in lengths.iter().enumerate() {
                    let mut sum = 0.0;
                    for row in new.chunks_exact(width) {
                        let column = &row[input * kernel..][..kernel];
                        sum += column.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
                    }
                    let norm = sum.sqrt() + f64::from(f32::EPSILON);
                    let scale = (f64::from(*length) / norm) as f32;
                    for row in new.chunks_exact_mut(width) {
                        let column = &mut row[input * kernel..][..kernel];
                        column.iter_mut().for_each(|x| *x *= scale);
                    }
                }
            }
        }
        if strength != 1.0 {
            for (new, old) in new.iter_mut().zip(old) {
                *new = old + strength * (*new - old);
            }
        }
        new
    }

    /// Rows of what is added, before its factor.
    fn difference(&self, rows: Range<usize>, inputs: usize, width: usize) -> Vec<f32> {
        match &self.kind {
            Kind::LowRank([up, down]) => up.times(rows, down),
            Kind::Hadamard([[a, b], [c, d]]) => {
                let mut product = a.times(rows.clone(), b);
                let other = c.times(rows, d);
                product.iter_mut().zip(other).for_each(|(x, y)| *x *= y);
                product
            }
            Kind::Kronecker {
                first,
                second,
                columns,
            } => {
                let kernel = width / inputs.max(1);
                let block = (columns * kernel).max(1);
                let mut product = vec![0.0; rows.len() * width];
                for (to, row) in product.chunks_exact_mut(width).zip(rows) {
                    let left = first.row(row / second.rows);
                    let right = second.row(row % second.rows);
                    for (to, factor) in to.chunks_exact_mut(block).zip(left) {
                        for (to, value) in to.iter_mut().zip(right) {
                            *to = factor * value;
                        }
                    }
                }
                product
            }
            Kind::Full(values) => values[rows.start * width..rows.end * width].to_vec(),
            Kind::Outputs { .. } | Kind::Inputs { .. } => vec![0.0; rows.len() * width],
        }
    }
}
