//! The network: everything that leaves this machine goes through here.
//!
//! [`url`] and [`secret`] keep what opens doors out of messages and records,
//! [`Name`] is a name such as `hf:openai/gsm8k`. With the feature `client`,
//! [`retry`] says when a server is asked again, [`download`] brings one file and
//! checks it, and [`hub`] knows the cache that Python programs share.

#[cfg(feature = "client")]
pub mod digest;
#[cfg(feature = "client")]
pub mod download;
#[cfg(feature = "client")]
mod endpoints;
mod error;
#[cfg(feature = "client")]
pub mod hub;
mod name;
#[cfg(feature = "client")]
pub mod retry;
pub mod secret;
#[cfg(feature = "client")]
#[doc(hidden)]
pub mod testing;
pub mod url;

#[cfg(feature = "client")]
pub use endpoints::Endpoints;
pub use error::{NetError, Result};
pub use name::Name;
