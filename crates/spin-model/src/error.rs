//! What can go wrong, in words that name the file and the remedy.

use std::path::PathBuf;

/// The result of this crate's fallible functions.
pub type Result<T> = std::result::Result<T, Error>;

/// What somebody needs to know whose directory is another one.
const LAYOUT: &str = "; a model directory holds config.json and model.safetensors, or shards listed in \
    model.safetensors.index.json; an adapter's adapter_config.json and adapter_model.safetensors";

/// Whether a file could not be read because it is not there, is none, may not be read or holds no
/// text, rather than because of the machine.
fn is_of_the_file(source: &std::io::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, IsADirectory, NotADirectory, NotFound, PermissionDenied};
    matches!(source.kind(), NotFound | NotADirectory | IsADirectory | PermissionDenied | InvalidData)
        // A ring of links; its kind has no stable name.
        || source.to_string().contains("symbolic links")
}

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("cannot read {path}{}", if is_of_the_file(.source) { LAYOUT } else { "" })]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A configuration is malformed or asks for what is not implemented.
    #[error("{origin}: {message}")]
    Config {
        /// The file, or where else the configuration came from.
        origin: String,
        /// What is wrong and what would be right.
        message: String,
    },
    /// A file of weights is malformed.
    #[error("{path}: {message}")]
    WeightsFile {
        /// The file.
        path: PathBuf,
        /// What is wrong and what would be right.
        message: String,
    },
    /// A tensor is missing, unexpected or of the wrong shape or type.
    #[error("{path}: tensor `{tensor}`: {message}")]
    Tensor {
        /// The file, or where else the tensors came from.
        path: String,
        /// The tensor's Hugging Face name.
        tensor: String,
        /// What is wrong and what would be right.
        message: String,
    },
    /// There is not enough memory.
    #[error("no memory for another {bytes} bytes")]
    Memory {
        /// How many were asked for.
        bytes: usize,
    },
    /// A GPU refused.
    #[error("{message}")]
    Device {
        /// What it said, and what helps.
        message: String,
    },
    /// A GPU has no memory.
    #[error("{message}; fewer tokens at a time take less")]
    DeviceMemory {
        /// What it said.
        message: String,
    },
    /// A batch breaks a rule.
    #[error("sequence {sequence} of the batch: {message}")]
    Batch {
        /// Position of the sequence in the batch.
        sequence: usize,
        /// Which rule.
        message: String,
    },
    /// A gradient is missing or does not belong to the model.
    #[error("gradient of `{tensor}`: {message}")]
    Gradient {
        /// The tensor's name.
        tensor: String,
        /// What is wrong.
        message: String,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    /// Whether memory does not suffice, here or on a GPU.
    pub fn is_memory(&self) -> bool {
        matches!(self, Self::Memory { .. } | Self::DeviceMemory { .. })
    }

    /// Whether what was given is to blame, rather than the machine.
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Read { source, .. } => is_of_the_file(source),
            Self::Config { .. } | Self::WeightsFile { .. } => true,
            Self::Tensor { .. } | Self::Batch { .. } => true,
            Self::Write { .. } | Self::Gradient { .. } | Self::Memory { .. } => false,
            Self::Device { .. } | Self::DeviceMemory { .. } | Self::Candle(_) => false,
        }
    }
}

#[cfg(any(test, feature = "cuda-kernels"))]
impl From<spin_cuda::Error> for Error {
    fn from(error: spin_cuda::Error) -> Self {
        use spin_cuda::Error::{Device, Length, Memory, Shape};
        let message = error.to_string();
        match error {
            Memory { .. } => Self::DeviceMemory { message },
            Shape { .. } => {
                Self::Device { message: format!("{message}; candle's kernels (`Kernels::Composed`) compute any shape") }
            }
            Length { .. } | Device { .. } => Self::Device { message },
        }
    }
}
