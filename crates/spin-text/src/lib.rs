//! From messages to token ids and back, in one place.
//!
//! Everything that turns text into tokens goes through `Codec`: the stage that imports
//! demonstrations, the one that samples answers, the one that trains and the one that scores. What
//! is rendered once is never rendered differently elsewhere, and the tokens that were sampled are the
//! tokens trained on.
//!
//! A [`Codec`] is read from a Hugging Face model directory. It renders the directory's chat template
//! with minijinja, set up the way `transformers` sets up Jinja, and encodes with the `tokenizers`
//! library, so that [`Codec::prompt_ids`] equals `apply_chat_template(..., add_generation_prompt=True)`
//! id by id. Three rules go beyond that:
//!
//! - **The boundary is exact.** [`Codec::response_ids`] gives ids that can follow the prompt's ids as
//!   they are: `prompt_ids ++ response_ids` is one text, cut where generation starts and ending with one
//!   end-of-sequence token, as a generated answer does.
//! - **Text is text.** A `</s>` typed by somebody into a message is encoded as the characters it is
//!   made of; only the template writes control tokens (see [`Codec`] for what counts as one).
//! - **Nothing depends on the day.** A template that asks for today's date is refused, unless the day
//!   is fixed by [`Codec::with_date`].
//!
//! Without the feature `codec` only [`Message`] and [`Chat`] are there, for crates that name
//! conversations and never read one: neither a tokenizer nor a template engine is linked then.
//!
//! This crate never prints, reads no environment variables and knows nothing about tensors.
//!
//! ```no_run
//! # #[cfg(feature = "codec")]
//! # fn main() -> Result<(), spin_text::TextError> {
//! use spin_text::{Codec, Message};
//!
//! let codec = Codec::from_dir("models/zephyr".as_ref())?;
//! let prompt = [Message::user("What is the capital of France?")];
//! let mut ids = codec.prompt_ids(&prompt)?;
//! ids.extend(codec.response_ids(&prompt, "Paris.")?);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "codec"))]
//! # fn main() {}
//! ```

mod chat;
mod message;

#[cfg(feature = "codec")]
mod codec;
#[cfg(feature = "codec")]
mod date;
#[cfg(feature = "codec")]
mod error;
#[cfg(feature = "codec")]
mod fields;
#[cfg(feature = "codec")]
mod files;
#[cfg(feature = "codec")]
mod guard;
#[cfg(feature = "codec")]
mod json;
#[cfg(feature = "codec")]
pub mod limits;
#[cfg(feature = "codec")]
pub mod python;
#[cfg(feature = "codec")]
mod read;
#[cfg(feature = "codec")]
mod template;

pub use chat::{Chat, TemplateChoice};
pub use message::Message;

#[cfg(feature = "codec")]
pub use codec::{BosPolicy, Codec, TOKENIZERS_VERSION};
#[cfg(feature = "codec")]
pub use error::{Result, TextError};
#[cfg(feature = "codec")]
pub use template::ALPACA_TEMPLATE;
