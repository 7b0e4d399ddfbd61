//! The network: everything that leaves this machine goes through here.
//!
//! [`url`] and [`secret`] keep what opens doors out of messages and records,
//! [`retry`] says when a server is asked again, [`download`] brings one file
//! and checks it, [`hub`] knows names such as `hf:openai/gsm8k` and the cache
//! that Python programs share.

pub mod digest;
pub mod download;
mod endpoints;
mod error;
pub mod hub;
pub mod retry;
pub mod secret;
#[doc(hidden)]
pub mod testing;
pub mod url;

pub use endpoints::Endpoints;
pub use error::{NetError, Result};
