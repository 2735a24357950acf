//! From the tensors of a file into the parameters of a module.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, FloatDType, Tensor, TensorData};

use super::Weights;
use crate::error::{Misshapen, TensorMismatch};
use crate::{Error, Result};

impl Weights {
    /// Puts every tensor into the parameter of its name, on the module's device, in precision
    /// `dtype`, one tensor at a time.
    ///
    /// A parameter's name is the path of field names that leads to it
    /// (`encoder.layers.0.mlp.fc1.weight`); the variants of an enum do not count. Parameters that
    /// hold no values yet never get any but these. A 1×1 convolution's weight `[out, in, 1, 1]`
    /// fits a linear layer's `[out, in]`: older VAEs are saved so.
    ///
    /// # Errors
    /// [`Error::Tensors`] unless the file has exactly the module's parameters, with their shapes;
    /// [`Error::Io`] when the file cannot be read any more.
    pub fn load_into<M: Module>(&self, module: M, dtype: FloatDType) -> Result<M> {
        let mut parameters = Parameters::default();
        module.visit(&mut parameters);
        let mismatch = self.compare(&parameters.shapes);
        if !mismatch.is_empty() {
            return Err(Error::Tensors {
                path: self.path.clone(),
                mismatch: Box::new(mismatch),
            });
        }
        let mut loader = Loader {
            weights: self,
            dtype: dtype.into(),
            path: ModulePath::default(),
            error: None,
        };
        let module = module.map(&mut loader);
        loader.error.map_or(Ok(module), Err)
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

fn fits(found: &[usize], expected: &[usize]) -> bool {
    let is_pointwise = expected.len() == 2 && found.len() == 4 && found[2..] == [1, 1];
    found == expected || (is_pointwise && found[..2] == *expected)
}

/// Where in a module a traversal is.
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
    path: ModulePath,
    error: Option<Error>,
}

impl Loader<'_> {
    fn read<const D: usize>(&self, param: &Param<Tensor<D>>) -> Result<Tensor<D>> {
        let name = self.path.name();
        let tensor = self.weights.tensors.get(&name).ok_or_else(|| {
            Error::safetensors(&self.weights.path, format!("tensor {name} is gone"))
        })?;
        let (bytes, _, dtype) = tensor.read()?.into_parts();
        let data = TensorData::from_bytes(bytes, param.lazy_shape(), dtype);
        Ok(Tensor::from_data(data, (&param.lazy_device(), self.dtype)))
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
        if self.error.is_some() {
            return param;
        }
        match self.read(&param) {
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
