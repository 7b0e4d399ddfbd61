//! What can go wrong in a launch.

/// Why a kernel did not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Memory of another size than the shapes say.
    #[error("{kernel}: {what} has {found} numbers where {wanted} belong")]
    Length {
        /// The kernel.
        kernel: &'static str,
        /// Which of its arguments.
        what: &'static str,
        /// Numbers that it has.
        found: usize,
        /// Numbers that it has to have, at least.
        wanted: usize,
    },
    /// Shapes that the kernel does not compute.
    #[error("{kernel}: {message}")]
    Shape {
        /// The kernel.
        kernel: &'static str,
        /// What is wrong.
        message: String,
    },
    /// There is no memory.
    #[error("the GPU has no memory for another {bytes} bytes: {message}")]
    Memory {
        /// How many were asked for.
        bytes: usize,
        /// What the device said.
        message: String,
    },
    /// The device, or the host that stands in for it, refused.
    #[error("{what}: {message}")]
    Device {
        /// What was asked for.
        what: String,
        /// What it said.
        message: String,
    },
}

/// The result of this crate's fallible functions.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn shape(kernel: &'static str, message: impl Into<String>) -> Self {
        Self::Shape { kernel, message: message.into() }
    }

    /// A refusal.
    pub fn device(what: impl Into<String>, message: impl std::fmt::Display) -> Self {
        Self::Device { what: what.into(), message: message.to_string() }
    }
}
