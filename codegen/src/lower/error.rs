//! Why a model or schedule cannot be lowered.

use ir::tensor::DType;
use std::fmt;

/// A model or schedule that the kernels cannot serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The file lacks a tensor.
    Missing {
        /// Name of the tensor.
        tensor: String,
    },
    /// A tensor has another shape than the model's numbers say.
    Shape {
        /// Name of the tensor.
        tensor: String,
        /// Shape by the model's numbers, input features first.
        expected: Vec<u64>,
        /// Shape in the file.
        found: Vec<u64>,
    },
    /// A tensor has a type that its role does not allow.
    Type {
        /// Name of the tensor.
        tensor: String,
        /// Its type.
        dtype: DType,
        /// Why not.
        reason: &'static str,
    },
    /// A tensor that changes the model's meaning in a way these kernels do not compute.
    Unsupported {
        /// Name of the tensor.
        tensor: String,
        /// What it would need.
        reason: &'static str,
    },
    /// A number of the model is outside what the kernels serve.
    Model {
        /// Field of the model.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What is asked of it.
        reason: &'static str,
    },
    /// A number of the schedule is outside what the kernels serve.
    Schedule {
        /// Field of the schedule.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What is asked of it.
        reason: &'static str,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { tensor } => write!(f, "tensor `{tensor}` is missing from the model file"),
            Self::Shape { tensor, expected, found } => {
                write!(f, "tensor `{tensor}` has shape {found:?}, the model's metadata calls for {expected:?}")
            }
            Self::Type { tensor, dtype, reason } => {
                write!(f, "tensor `{tensor}` has type {}: {reason}", dtype.name())
            }
            Self::Unsupported { tensor, reason } => write!(f, "tensor `{tensor}` is not supported: {reason}"),
            Self::Model { field, value, reason } => write!(f, "the model's {field} is {value}: {reason}"),
            Self::Schedule { field, value, reason } => write!(f, "the schedule's {field} is {value}: {reason}"),
        }
    }
}

impl std::error::Error for Error {}
