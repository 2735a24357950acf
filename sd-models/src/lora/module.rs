//! Modules of an adapter: the tensors of each, the form of change they are, and whether that fits.

use std::collections::BTreeMap;

use super::grammar::{Role, Target};
use super::rotation::side_of;
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
pub(super) enum Form {
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

impl Module {
    /// The form of the weight's change; `None` where there is none of the weight, only of the bias.
    pub(super) fn form(&self) -> Result<Option<Form>, String> {
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
        let weight = Sides::new(weight.ok_or("there is no weight to change")?)?;
        match form {
            Form::LowRank => shapes.fits_low_rank(weight),
            Form::Hadamard => shapes.fits_hadamard(weight),
            Form::Kronecker => shapes.fits_kronecker(weight),
            Form::Outputs => shapes.fits_outputs(weight),
            Form::Inputs => shapes.fits_inputs(weight),
            Form::Full => same(shapes.expected(Role::Diff), weight.shape),
        }?;
        shapes.fits_magnitude(weight)
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

/// A weight's shape.
#[derive(Debug, Clone, Copy)]
struct Sides<'a> {
    shape: &'a [usize],
    outputs: usize,
    inputs: usize,
    /// Positions of the kernel: 1 of a linear layer.
    kernel: usize,
}

impl<'a> Sides<'a> {
    fn new(shape: &'a [usize]) -> Result<Self, String> {
        match *shape {
            [] => Err("the weight is a single number".into()),
            [outputs, ref rest @ ..] => Ok(Self {
                shape,
                outputs,
                inputs: rest.first().copied().unwrap_or(1),
                kernel: product(rest.get(1..).unwrap_or_default()),
            }),
        }
    }

    fn columns(self) -> usize {
        self.inputs * self.kernel
    }

    /// Checks the rank of a core between two factors. What is made of the core and a factor has so
    /// many rows, however few numbers the file has.
    fn check_rank(self, rank: usize) -> Result<(), String> {
        let most = self.outputs.max(self.columns());
        match rank <= most {
            true => Ok(()),
            false => Err(format!(
                "the rank is {rank}, expected at most {most}, the longer side of the weight {:?}",
                self.shape
            )),
        }
    }

    fn wrong(self, what: &str, found: &[usize]) -> Result<(), String> {
        Err(format!("{what} is {found:?}, the weight {:?}", self.shape))
    }
}

/// Number of elements; of a shape that no memory holds the largest number there is.
fn product(shape: &[usize]) -> usize {
    let sides = shape.iter();
    sides.fold(1, |all: usize, side| all.saturating_mul(*side))
}

/// A module's tensors with those of the file around them, of which nothing is read but shapes.
struct Shapes<'a>(&'a Module, &'a [TensorInfo]);

impl Shapes<'_> {
    fn of(&self, role: Role) -> Option<&[usize]> {
        let index = self.0.tensors.get(&role)?;
        Some(&self.1[*index].shape)
    }

    /// The shape of a tensor that the form has.
    fn expected(&self, role: Role) -> &[usize] {
        self.of(role).unwrap_or_default()
    }

    fn has(&self, role: Role) -> bool {
        self.0.tensors.contains_key(&role)
    }

    /// The sides of a matrix, the last of them the product of all behind the first.
    fn sides(&self, role: Role) -> Result<[usize; 2], String> {
        let shape = self.expected(role);
        match *shape {
            [] => Err(format!("{role:?} is a single number")),
            [rows, ref rest @ ..] if rows > 0 => Ok([rows, product(rest)]),
            _ => Err(format!("{role:?} is {shape:?}, of rank 0")),
        }
    }

    fn fits_low_rank(&self, weight: Sides<'_>) -> Result<(), String> {
        let [[rank, wide], [high, up]] = [self.sides(Role::Down)?, self.sides(Role::Up)?];
        let down = match self.of(Role::Mid) {
            None => {
                // Of no use beyond the longer side, which some trainers' exceed in small layers.
                let most = weight.outputs.max(weight.columns()).max(1024);
                if rank > most {
                    return Err(format!("the rank is {rank}, expected at most {most}"));
                }
                weight.columns()
            }
            Some(&[a, b, ref k @ ..]) if a == rank && b == rank && product(k) == weight.kernel => {
                weight.check_rank(rank)?;
                weight.inputs
            }
            Some(mid) => return weight.wrong("lora_mid", mid),
        };
        if up != rank || high != weight.outputs {
            return weight.wrong("lora_up", self.expected(Role::Up));
        }
        let found = self.expected(Role::Down);
        if wide != down || found.get(1) != Some(&weight.inputs) && found.len() != 1 {
            return weight.wrong("lora_down", found);
        }
        Ok(())
    }

    fn fits_hadamard(&self, weight: Sides<'_>) -> Result<(), String> {
        for [a, b, t] in [
            [Role::HadaA1, Role::HadaB1, Role::HadaT1],
            [Role::HadaA2, Role::HadaB2, Role::HadaT2],
        ] {
            let [[ah, aw], [bh, bw]] = [self.sides(a)?, self.sides(b)?];
            let fits = match self.of(t) {
                None => ah == weight.outputs && aw == bh && bw == weight.columns(),
                Some(&[i, j, ref k @ ..]) => {
                    [ah, aw] == [i, weight.outputs]
                        && [bh, bw] == [j, weight.inputs]
                        && product(k) == weight.kernel
                }
                Some(_) => false,
            };
            if !fits {
                return weight.wrong(&format!("{a:?}"), self.expected(a));
            }
            if self.has(t) {
                weight.check_rank(ah.max(bh))?;
            }
        }
        Ok(())
    }

    fn fits_kronecker(&self, weight: Sides<'_>) -> Result<(), String> {
        let factored = |[a, b]: [Role; 2], name: &str| {
            let [[h, r], [s, w]] = [self.sides(a)?, self.sides(b)?];
            if r != s {
                weight.wrong(name, self.expected(b))?;
            }
            Ok::<_, String>([h, w])
        };
        let first = match self.has(Role::Kron1) {
            true => self.sides(Role::Kron1)?,
            false => factored([Role::KronA1, Role::KronB1], "lokr_w1_b")?,
        };
        let second = match (self.has(Role::Kron2), self.of(Role::KronT2)) {
            (true, _) => self.sides(Role::Kron2)?,
            (false, None) => factored([Role::KronA2, Role::KronB2], "lokr_w2_b")?,
            (false, Some(core)) => {
                let [[i, h], [j, w]] = [self.sides(Role::KronA2)?, self.sides(Role::KronB2)?];
                weight.check_rank(i.max(j))?;
                match *core {
                    [a, b, ref k @ ..] if [a, b] == [i, j] => [h, w.saturating_mul(product(k))],
                    _ => {
                        weight.wrong("lokr_t2", core)?;
                        [h, w]
                    }
                }
            }
        };
        let made = [0, 1].map(|side| first[side].checked_mul(second[side]));
        if made != [Some(weight.outputs), Some(weight.columns())]
            || first[1] == 0
            || !weight.inputs.is_multiple_of(first[1])
        {
            let found = [first, second].concat();
            return weight.wrong("the product of lokr_w1 and lokr_w2", &found);
        }
        Ok(())
    }

    fn fits_outputs(&self, weight: Sides<'_>) -> Result<(), String> {
        let found = self.expected(Role::Blocks);
        let outputs = weight.outputs;
        let fits = match *found {
            [n, b, c] => b == c && n.checked_mul(b) == Some(outputs),
            [m, n, b, c] => {
                b == c
                    && b > 0
                    && b.is_multiple_of(2)
                    && n.checked_mul(b) == Some(outputs)
                    && (1..32).contains(&m)
                    && (b.checked_mul(1 << (m - 1))).is_some_and(|far| outputs.is_multiple_of(far))
            }
            _ => false,
        };
        if !fits {
            return weight.wrong("oft_blocks", found);
        }
        match self.of(Role::Rescale) {
            Some(rescale) if product(rescale) != outputs => weight.wrong("rescale", rescale),
            _ => Ok(()),
        }
    }

    fn fits_inputs(&self, weight: Sides<'_>) -> Result<(), String> {
        let [blocks, free] = self.sides(Role::Rotation)?;
        let columns = weight.columns();
        let fits = side_of(free).is_some_and(|side| {
            columns.is_multiple_of(side)
                && (blocks == 1 || blocks.checked_mul(side) == Some(columns))
        });
        match fits {
            true => Ok(()),
            false => weight.wrong("oft_R", self.expected(Role::Rotation)),
        }
    }

    fn fits_magnitude(&self, weight: Sides<'_>) -> Result<(), String> {
        match (self.of(Role::Magnitude), self.of(Role::Scale)) {
            (Some(_), Some(_)) => Err("it has two magnitudes".into()),
            (Some(found), None) if product(found) != weight.outputs => {
                weight.wrong("the magnitude", found)
            }
            (None, Some(found))
                if product(found) != weight.outputs && !is_of_inputs(found, weight.inputs) =>
            {
                weight.wrong("dora_scale", found)
            }
            _ => Ok(()),
        }
    }
}

/// `true` of a magnitude of each input, `[1, in, …]`, as LyCORIS' first version has it; of each
/// output it is `[out, 1, …]`.
pub(super) fn is_of_inputs(shape: &[usize], inputs: usize) -> bool {
    shape.first() == Some(&1) && product(shape) == inputs
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
