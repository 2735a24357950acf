//! Changes of one tensor: their form in a file, and what they make of rows of the original.

use std::collections::BTreeMap;
use std::ops::Range;

use super::grammar::{Role, Target};
use super::matrix::{Matrix, tucker};
use super::rotation::{butterflies, neumann, rotations, side_of, turn_columns, turn_rows};
use crate::weights::{TensorInfo, TensorSource, values};
use crate::{Error, Result};

/// Tensors of one module of an adapter, by the part they play.
#[derive(Debug, Clone)]
pub(super) struct Module {
    pub(super) network: Target,
    /// The module's name as the file has it, for messages.
    pub(super) name: String,
    pub(super) spelling: String,
    pub(super) tensors: BTreeMap<Role, usize>,
    /// Factor of its change where the file says it beside the tensors (peft's settings).
    pub(super) factor: Option<f32>,
}

/// Forms of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Low rank (Hu et al. 2021, arXiv:2106.09685), with LyCORIS' middle factor or without.
    LowRank,
    /// Hadamard product of two of low rank (Hyeon-Woo et al. 2021, arXiv:2108.06098).
    Hadamard,
    /// Kronecker product (Yeh et al. 2023, arXiv:2309.14859).
    Kronecker,
    /// Orthogonal over the outputs (Qiu et al. 2023, arXiv:2306.07280), or butterflies of it (Liu
    /// et al. 2023, arXiv:2311.06243).
    Outputs,
    /// Orthogonal over the inputs (Qiu et al. 2025, arXiv:2506.19847).
    Inputs,
    /// The difference itself.
    Full,
}

const FORMS: &[(&[Role], Form)] = &[
    (&[Role::Down, Role::Up], Form::LowRank),
    (
        &[Role::HadaA1, Role::HadaB1, Role::HadaA2, Role::HadaB2],
        Form::Hadamard,
    ),
    (&[Role::Kron1, Role::Kron2], Form::Kronecker),
    (&[Role::KronA1, Role::KronB1, Role::Kron2], Form::Kronecker),
    (&[Role::Kron1, Role::KronA2, Role::KronB2], Form::Kronecker),
    (
        &[Role::KronA1, Role::KronB1, Role::KronA2, Role::KronB2],
        Form::Kronecker,
    ),
    (&[Role::Blocks], Form::Outputs),
    (&[Role::Rotation], Form::Inputs),
    (&[Role::Diff], Form::Full),
];

/// Roles that belong to no form but may be there.
const BESIDE: &[Role] = &[
    Role::Alpha,
    Role::Mid,
    Role::Scale,
    Role::Magnitude,
    Role::HadaT1,
    Role::HadaT2,
    Role::KronT2,
    Role::Rescale,
    Role::DiffBias,
];

/// A module's tensors with those of the file around them, of which nothing is read but shapes.
struct Shapes<'a>(&'a Module, &'a [TensorInfo]);

impl Shapes<'_> {
    fn of(&self, role: Role) -> Option<&[usize]> {
        let index = self.0.tensors.get(&role)?;
        Some(&self.1[*index].shape)
    }

    fn has(&self, role: Role) -> bool {
        self.0.tensors.contains_key(&role)
    }

    /// The sides, at least two of them: units behind the last.
    fn sides(&self, role: Role) -> Result<[usize; 2], String> {
        let shape = self.of(role).unwrap_or_default();
        match *shape {
            [] => Err(format!("{role:?} is a single number")),
            [rows, ref rest @ ..] if rows > 0 => Ok([rows, rest.iter().product()]),
            _ => Err(format!("{role:?} is {shape:?}, of rank 0")),
        }
    }
}

impl Module {
    /// The form of the weight's change; `None` where there is none of the weight, only of the bias.
    fn form(&self) -> Result<Option<Form>, String> {
        let has = |role: &Role| self.tensors.contains_key(role);
        let found = FORMS.iter().find(|(roles, _)| roles.iter().all(has));
        let Some((roles, form)) = found else {
            return match self.tensors.keys().all(|role| *role == Role::DiffBias) {
                true => Ok(None),
                false => Err("a part of the change is missing".into()),
            };
        };
        let stray = |role: &&Role| !roles.contains(role) && !BESIDE.contains(role);
        match self.tensors.keys().find(stray) {
            Some(role) => Err(format!("{role:?} beside a change of another form")),
            None => Ok(Some(*form)),
        }
    }

    /// `true` where it changes the module's weight.
    pub(super) fn changes_weight(&self) -> bool {
        self.tensors.keys().any(|role| *role != Role::DiffBias)
    }

    /// `true` where it changes the module's bias.
    pub(super) fn changes_bias(&self) -> bool {
        self.tensors.contains_key(&Role::DiffBias)
    }

    /// Checks from shapes alone that the change is one of a weight of the shape `weight` and a bias
    /// of the shape `bias`. The error is the reason in words.
    pub(super) fn fits(
        &self,
        tensors: &[TensorInfo],
        weight: Option<&[usize]>,
        bias: Option<&[usize]>,
    ) -> Result<(), String> {
        let shapes = Shapes(self, tensors);
        for &index in self.tensors.values() {
            let TensorInfo {
                name,
                dtype,
                stored,
                ..
            } = &tensors[index];
            if dtype.is_none() && !name.ends_with(".alpha") {
                return Err(format!(
                    "{name} is of {stored}, expected numbers of a network"
                ));
            }
        }
        if let Some(found) = shapes.of(Role::DiffBias) {
            same(found, bias.ok_or("there is no bias to change")?)?;
        }
        let Some(form) = self.form()? else {
            return Ok(());
        };
        let weight = weight.ok_or("there is no weight to change")?;
        let [outputs, columns] = match *weight {
            [outputs, ref rest @ ..] => [outputs, rest.iter().product()],
            [] => return Err("the weight is a single number".into()),
        };
        let inputs = weight.get(1).copied().unwrap_or(1);
        let kernel = columns / inputs.max(1);
        let wrong = |what: &str, found: &[usize]| {
            Err(format!("{what} is {found:?}, the weight {weight:?}"))
        };
        match form {
            Form::LowRank => {
                let [[rank, wide], [high, up]] =
                    [shapes.sides(Role::Down)?, shapes.sides(Role::Up)?];
                let down = match shapes.of(Role::Mid) {
                    None => columns,
                    Some(&[a, b, ref k @ ..])
                        if a == rank && b == rank && k.iter().product::<usize>() == kernel =>
                    {
                        inputs
                    }
                    Some(mid) => return wrong("lora_mid", mid),
                };
                if up != rank || high != outputs {
                    return wrong("lora_up", shapes.of(Role::Up).unwrap_or_default());
                }
                let found = shapes.of(Role::Down).unwrap_or_default();
                if wide != down || found.get(1) != Some(&inputs) && found.len() != 1 {
                    return wrong("lora_down", found);
                }
            }
            Form::Hadamard => {
                for [a, b, t] in [
                    [Role::HadaA1, Role::HadaB1, Role::HadaT1],
                    [Role::HadaA2, Role::HadaB2, Role::HadaT2],
                ] {
                    let [[ah, aw], [bh, bw]] = [shapes.sides(a)?, shapes.sides(b)?];
                    let fits = match shapes.of(t) {
                        None => ah == outputs && aw == bh && bw == columns,
                        Some(&[i, j, ref k @ ..]) => {
                            [ah, aw] == [i, outputs]
                                && [bh, bw] == [j, inputs]
                                && k.iter().product::<usize>() == kernel
                        }
                        Some(_) => false,
                    };
                    if !fits {
                        return wrong(&format!("{a:?}"), shapes.of(a).unwrap_or_default());
                    }
                }
            }
            Form::Kronecker => {
                let first = match shapes.has(Role::Kron1) {
                    true => shapes.sides(Role::Kron1)?,
                    false => {
                        let [[h, r], [s, w]] =
                            [shapes.sides(Role::KronA1)?, shapes.sides(Role::KronB1)?];
                        if r != s {
                            return wrong("lokr_w1_b", shapes.of(Role::KronB1).unwrap_or_default());
                        }
                        [h, w]
                    }
                };
                let second = match (shapes.has(Role::Kron2), shapes.of(Role::KronT2)) {
                    (true, _) => shapes.sides(Role::Kron2)?,
                    (false, None) => {
                        let [[h, r], [s, w]] =
                            [shapes.sides(Role::KronA2)?, shapes.sides(Role::KronB2)?];
                        if r != s {
                            return wrong("lokr_w2_b", shapes.of(Role::KronB2).unwrap_or_default());
                        }
                        [h, w]
                    }
                    (false, Some(core)) => {
                        let [[i, h], [j, w]] =
                            [shapes.sides(Role::KronA2)?, shapes.sides(Role::KronB2)?];
                        match *core {
                            [a, b, ref k @ ..] if [a, b] == [i, j] => {
                                [h, w * k.iter().product::<usize>()]
                            }
                            _ => return wrong("lokr_t2", core),
                        }
                    }
                };
                let product = [0, 1].map(|side| first[side].checked_mul(second[side]));
                if product != [Some(outputs), Some(columns)]
                    || first[1] == 0
                    || !inputs.is_multiple_of(first[1])
                {
                    return wrong(
                        "the product of lokr_w1 and lokr_w2",
                        &[first, second].concat(),
                    );
                }
            }
            Form::Outputs => {
                let found = shapes.of(Role::Blocks).unwrap_or_default();
                let fits = match *found {
                    [n, b, c] => b == c && n.checked_mul(b) == Some(outputs),
                    [m, n, b, c] => {
                        b == c
                            && b > 0
                            && b.is_multiple_of(2)
                            && n.checked_mul(b) == Some(outputs)
                            && (m == 0 || m < 32 && outputs.is_multiple_of(b << (m - 1)))
                    }
                    _ => false,
                };
                if !fits {
                    return wrong("oft_blocks", found);
                }
                if let Some(rescale) = shapes.of(Role::Rescale)
                    && rescale.iter().product::<usize>() != outputs
                {
                    return wrong("rescale", rescale);
                }
            }
            Form::Inputs => {
                let [blocks, free] = shapes.sides(Role::Rotation)?;
                let fits = side_of(free).is_some_and(|side| {
                    columns.is_multiple_of(side) && (blocks == 1 || blocks * side == columns)
                });
                if !fits {
                    return wrong("oft_R", shapes.of(Role::Rotation).unwrap_or_default());
                }
            }
            Form::Full => same(shapes.of(Role::Diff).unwrap_or_default(), weight)?,
        }
        if let Some(found) = shapes.of(Role::Scale).or(shapes.of(Role::Magnitude)) {
            let elements: usize = found.iter().product();
            if elements != outputs && elements != inputs {
                return wrong("the magnitude", found);
            }
        }
        Ok(())
    }

    /// Reads the change of a weight of the shape `weight`, which it [fits](Self::fits).
    pub(super) fn read(&self, source: &dyn TensorSource, weight: &[usize]) -> Result<Change> {
        let values_of = |role: Role| values(source, self.tensors[&role]);
        let matrix = |role: Role| -> Result<Matrix> {
            let rows = source.tensors()[self.tensors[&role]].shape[0];
            Ok(Matrix::new(rows, values_of(role)?))
        };
        let has = |role: Role| self.tensors.contains_key(&role);
        let alpha = match has(Role::Alpha) {
            true => Some(self.alpha(source)?),
            false => None,
        };
        let factor = |rank: usize| match (alpha, self.factor) {
            (Some(alpha), _) => alpha / rank as f32,
            (None, factor) => factor.unwrap_or(1.0),
        };
        let inputs = weight.get(1).copied().unwrap_or(1);
        let low_rank = |[a, b, t]: [Role; 3]| -> Result<[Matrix; 2]> {
            Ok(match has(t) {
                false => [matrix(a)?, matrix(b)?],
                true => [matrix(a)?.transposed(), tucker(&matrix(t)?, &matrix(b)?)],
            })
        };
        let form = self.form().map_err(|reason| self.error(source, reason))?;
        let (kind, factor) = match form.unwrap_or(Form::Full) {
            Form::LowRank => {
                let (up, mut down) = (matrix(Role::Up)?, matrix(Role::Down)?);
                let rank = down.rows;
                if has(Role::Mid) {
                    down = tucker(&matrix(Role::Mid)?, &down);
                }
                (Kind::LowRank([up, down]), factor(rank))
            }
            Form::Hadamard => {
                let first = low_rank([Role::HadaA1, Role::HadaB1, Role::HadaT1])?;
                let second = low_rank([Role::HadaA2, Role::HadaB2, Role::HadaT2])?;
                let rank = first[1].rows;
                (Kind::Hadamard([first, second]), factor(rank))
            }
            Form::Kronecker => {
                let mut rank = None;
                let first = match has(Role::Kron1) {
                    true => matrix(Role::Kron1)?,
                    false => {
                        let b = matrix(Role::KronB1)?;
                        rank = Some(b.rows);
                        matrix(Role::KronA1)?.product(&b)
                    }
                };
                let second = match has(Role::Kron2) {
                    true => matrix(Role::Kron2)?,
                    false => {
                        let [a, b] = low_rank([Role::KronA2, Role::KronB2, Role::KronT2])?;
                        rank = Some(b.rows);
                        a.product(&b)
                    }
                };
                // Where neither is factored LyCORIS saves the rank as alpha, and others 1: the
                // change is what the two say.
                let factor = rank.map_or(self.factor.unwrap_or(1.0), factor);
                let columns = inputs / first.columns;
                (
                    Kind::Kronecker {
                        first,
                        second,
                        columns,
                    },
                    factor,
                )
            }
            Form::Outputs => {
                let blocks = values_of(Role::Blocks)?;
                let shape = &source.tensors()[self.tensors[&Role::Blocks]].shape;
                let side = shape.last().copied().unwrap_or(1);
                let bound = alpha.filter(|alpha| *alpha > 0.0);
                let bound = bound.map(|alpha| f64::from(alpha) * weight[0] as f64);
                let rotations = rotations(side, &blocks, bound);
                let rotations = rotations.ok_or_else(|| self.error(source, "has no inverse"))?;
                let rescale = match has(Role::Rescale) {
                    true => Some(values_of(Role::Rescale)?),
                    false => None,
                };
                let stages = if shape.len() == 4 { shape[0] } else { 0 };
                (
                    Kind::Outputs {
                        side,
                        rotations,
                        stages,
                        rescale,
                    },
                    1.0,
                )
            }
            Form::Inputs => {
                let vectors = matrix(Role::Rotation)?;
                let side = side_of(vectors.columns).unwrap_or(1);
                let rotations = vectors.values.chunks_exact(vectors.columns.max(1));
                let rotations = rotations.flat_map(|free| neumann(side, free)).collect();
                (Kind::Inputs { side, rotations }, 1.0)
            }
            Form::Full => (Kind::Full(values_of(Role::Diff)?), 1.0),
        };
        let magnitude = match (has(Role::Magnitude), has(Role::Scale)) {
            (true, _) => Some(Magnitude::Outputs(values_of(Role::Magnitude)?)),
            (false, true) => {
                let shape = &source.tensors()[self.tensors[&Role::Scale]].shape;
                let values = values_of(Role::Scale)?;
                // `[1, in, …]` in LyCORIS' first version, `[out, 1, …]` today.
                Some(match shape[0] == 1 && values.len() == inputs {
                    true => Magnitude::Inputs(values),
                    false => Magnitude::Outputs(values),
                })
            }
            (false, false) => None,
        };
        Ok(Change {
            kind,
            factor,
            magnitude,
        })
    }

    /// Reads the change of a bias.
    pub(super) fn read_bias(&self, source: &dyn TensorSource) -> Result<Change> {
        Ok(Change {
            kind: Kind::Full(values(source, self.tensors[&Role::DiffBias])?),
            factor: 1.0,
            magnitude: None,
        })
    }

    /// The module's alpha.
    ///
    /// # Errors
    /// When it is not one finite number.
    pub(super) fn alpha(&self, source: &dyn TensorSource) -> Result<f32> {
        let Some(&index) = self.tensors.get(&Role::Alpha) else {
            return Ok(1.0);
        };
        let info = &source.tensors()[index];
        let alpha = match (info.elements(), info.dtype) {
            (1, Some(_)) => values(source, index)?[0],
            (1, None) if info.stored == "I64" => {
                let mut bytes = [0; 8];
                source.read(index, 0, &mut bytes)?;
                i64::from_le_bytes(bytes) as f32
            }
            _ => f32::NAN,
        };
        match alpha.is_finite() {
            true => Ok(alpha),
            false => Err(self.error(source, "has an alpha that is not one finite number")),
        }
    }

    pub(super) fn error(&self, source: &dyn TensorSource, reason: impl std::fmt::Display) -> Error {
        Error::Adapter {
            path: source.path().into(),
            reason: format!("module {}: {reason}", self.name),
        }
    }
}

fn same(found: &[usize], expected: &[usize]) -> Result<(), String> {
    let sides = |shape: &[usize]| -> Vec<usize> {
        shape.iter().copied().filter(|&side| side != 1).collect()
    };
    match sides(found) == sides(expected) {
        true => Ok(()),
        false => Err(format!(
            "the difference is {found:?}, the tensor {expected:?}"
        )),
    }
}

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

impl Change {
    /// `true` where a row's change depends on no other row.
    pub(super) fn by_rows(&self) -> bool {
        !matches!(self.kind, Kind::Outputs { .. })
            && !matches!(self.magnitude, Some(Magnitude::Inputs(_)))
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
