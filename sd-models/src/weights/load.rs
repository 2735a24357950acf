//! From the tensors of a file into the parameters of a module.

use std::collections::{BTreeMap, HashSet};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, FloatDType, Tensor, TensorData};
use sd_core::WeightBytes;

use super::Weights;
use crate::error::{Misshapen, TensorMismatch};
use crate::layers::{Pack, Unpacked, has_kernels, stored, stored_dtype};
use crate::{Error, LoadOptions, Result};

impl Weights {
    /// Puts every tensor into the parameter of its name, on the module's device, in precision
    /// `dtype`, one tensor at a time.
    ///
    /// Names are those of [`parameter_shapes`]. Parameters that hold no values yet never get any
    /// but these. Sides of 1 do not count: a 1×1 convolution's weight `[out, in, 1, 1]` fits a
    /// linear layer's `[out, in]` and the other way round, as trainers and converters save them.
    ///
    /// # Errors
    /// [`Error::Tensors`] unless the file has exactly the module's parameters, with their shapes;
    /// [`Error::Unsupported`] when one of them is not of f16, bf16, f32 or f64;
    /// [`Error::Io`] when the file cannot be read any more.
    pub fn load_into<M: Module>(&self, module: M, dtype: FloatDType) -> Result<M> {
        self.check(&module)?;
        Ok(self.fill(module, dtype, &HashSet::new())?.0)
    }

    /// As [`load_into`](Self::load_into), but where there are kernels for the layers, these get
    /// their weights packed: read a few rows at a time by all threads of the caller's pool, so that
    /// nothing is ever in memory twice.
    ///
    /// # Errors
    /// As [`load_into`](Self::load_into); [`Error::Packing`] when there is not memory enough.
    pub(crate) fn load_packed<M: Module + Pack>(
        &self,
        mut module: M,
        options: &LoadOptions,
    ) -> Result<(M, WeightBytes)> {
        self.check(&module)?;
        let (mut names, mut bytes) = (HashSet::new(), WeightBytes::default());
        if has_kernels(&options.device, options.dtype.into()) {
            let mut layers = Vec::new();
            module.layers("", &mut layers);
            // One after the other: each is already the work of all threads.
            for Unpacked { name, layer } in layers {
                let layer = layer.pack(&name, self, options.packing(&name))?;
                bytes.plain += layer.plain;
                bytes.packed += layer.packed;
                names.extend([format!("{name}.weight"), format!("{name}.bias")]);
            }
        }
        let (mut module, plain) = self.fill(module, options.dtype, &names)?;
        module.loaded();
        bytes.plain += plain;
        Ok((module, bytes))
    }

    /// The bytes that [`load_packed`](Self::load_packed) will say the weights take, without reading
    /// them but where int8 is asked for: whether it suits a layer is in its numbers.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when a tensor of the module is not there; those of reading.
    pub(crate) fn packed_bytes<M: Module + Pack>(
        &self,
        mut module: M,
        options: &LoadOptions,
    ) -> Result<WeightBytes> {
        let mut shapes = parameter_shapes(&module);
        let mut bytes = WeightBytes::default();
        if has_kernels(&options.device, options.dtype.into()) {
            let mut layers = Vec::new();
            module.layers("", &mut layers);
            for Unpacked { name, layer } in layers {
                let layer = layer.packed_bytes(&name, self, options.packing(&name))?;
                bytes.plain += layer.plain;
                bytes.packed += layer.packed;
                shapes.remove(&format!("{name}.weight"));
                shapes.remove(&format!("{name}.bias"));
            }
        }
        for shape in shapes.values() {
            let dtype = stored_dtype(shape.len(), &options.device, options.dtype.into());
            bytes.plain += (shape.iter().product::<usize>() * dtype.size()) as u64;
        }
        Ok(bytes)
    }

    /// A check that the file has exactly the module's parameters.
    ///
    /// # Errors
    /// [`Error::Tensors`] where it has not.
    pub(crate) fn check<M: Module>(&self, module: &M) -> Result<()> {
        self.check_shapes(&parameter_shapes(module))
    }

    /// A check that the file has exactly the tensors of these names and shapes.
    ///
    /// # Errors
    /// [`Error::Tensors`] where it has not.
    pub(crate) fn check_shapes(&self, shapes: &BTreeMap<String, Vec<usize>>) -> Result<()> {
        let mismatch = self.compare(shapes);
        if mismatch.is_empty() {
            for name in shapes.keys() {
                self.stored(name)?.check_floats()?;
            }
            return Ok(());
        }
        Err(Error::Tensors {
            path: self.path.clone(),
            mismatch: Box::new(mismatch),
        })
    }

    /// Puts the tensors into their parameters but for those in `without`; also gives the bytes the
    /// parameters take.
    fn fill<M: Module>(
        &self,
        module: M,
        dtype: FloatDType,
        without: &HashSet<String>,
    ) -> Result<(M, u64)> {
        let mut loader = Loader {
            weights: self,
            dtype: dtype.into(),
            without,
            path: ModulePath::default(),
            bytes: 0,
            error: None,
        };
        let module = module.map(&mut loader);
        let bytes = loader.bytes;
        loader.error.map_or(Ok((module, bytes)), Err)
    }

    /// The tensor that belongs into `param`, in precision `dtype`.
    pub(crate) fn tensor<const D: usize>(
        &self,
        name: &str,
        param: &Param<Tensor<D>>,
        dtype: DType,
    ) -> Result<Tensor<D>> {
        let (bytes, _, stored) = self.stored(name)?.read()?.into_parts();
        let data = TensorData::from_bytes(bytes, param.lazy_shape(), stored);
        Ok(Tensor::from_data(data, (&param.lazy_device(), dtype)))
    }

    fn compare(&self, parameters: &BTreeMap<String, Vec<usize>>) -> TensorMismatch {
        let mut mismatch = TensorMismatch::default();
        for (name, expected) in parameters {
            match self.tensors.get(name) {
                None => mismatch.missing.push(name.clone()),
                Some(tensor) if fits(&tensor.shape, expected) => {}
                Some(tensor) => mismatch.misshapen.push(Misshapen {
                    name: name.clone(),
                    found: tensor.shape.clone(),
                    expected: expected.clone(),
                }),
            }
        }
        let unused = self.tensors.keys().filter(|&n| !parameters.contains_key(n));
        mismatch.unused = unused.cloned().collect();
        mismatch
    }
}

/// The shape of each parameter of `module`, by the name it has in a checkpoint: the path of field
/// names that leads to it (`encoder.layers.0.mlp.fc1.weight`), in which the variants of an enum do
/// not count. No values are made.
pub fn parameter_shapes<M: Module>(module: &M) -> BTreeMap<String, Vec<usize>> {
    let mut parameters = Parameters::default();
    module.visit(&mut parameters);
    parameters.shapes
}

/// Bytes of a tensor's values.
pub(crate) fn size<const D: usize>(tensor: &Tensor<D>) -> u64 {
    (tensor.shape().num_elements() * tensor.dtype().size()) as u64
}

/// Sides of 1 change nothing of the values' order.
fn fits(found: &[usize], expected: &[usize]) -> bool {
    let sides = |shape: &[usize]| shape.iter().copied().filter(|&side| side != 1).collect();
    let [found, expected]: [Vec<usize>; 2] = [sides(found), sides(expected)];
    found == expected
}

/// The place in a module where a traversal is.
#[derive(Default)]
struct ModulePath(Vec<String>);

impl ModulePath {
    fn enter(&mut self, name: &str, container: &str) {
        // The traversal enters a variant as if it were a field; checkpoints know nothing of it.
        if !container.starts_with("Enum:") {
            self.0.push(name.into());
        }
    }

    fn exit(&mut self, container: &str) {
        if !container.starts_with("Enum:") {
            self.0.pop();
        }
    }

    fn name(&self) -> String {
        self.0.join(".")
    }
}

/// Collects each parameter's name and shape without creating its values.
#[derive(Default)]
struct Parameters {
    path: ModulePath,
    shapes: BTreeMap<String, Vec<usize>>,
}

impl ModuleVisitor for Parameters {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let shape = param.lazy_shape();
        self.shapes.insert(self.path.name(), shape.to_vec());
    }
}

struct Loader<'a> {
    weights: &'a Weights,
    dtype: DType,
    without: &'a HashSet<String>,
    path: ModulePath,
    bytes: u64,
    error: Option<Error>,
}

impl Loader<'_> {
    fn read<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) -> Result<Tensor<D>> {
        let dtype = stored_dtype(D, &param.lazy_device(), self.dtype);
        let tensor = self.weights.tensor(name, param, dtype)?;
        self.bytes += size(&tensor);
        Ok(stored(tensor))
    }
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        // A mapper cannot stop the traversal; behind the first error it only passes through.
        let name = self.path.name();
        if self.error.is_some() || self.without.contains(&name) {
            return param;
        }
        match self.read(&name, &param) {
            Ok(tensor) => {
                let id = param.id;
                param.transform_for_load(tensor, id)
            }
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}
