//! The report of runs: one HTML file that needs nothing beside it, the same
//! numbers as Markdown, and every chart as an SVG file.
//!
//! [`gather`] reads a run's stored scores, metrics, answers and manifests into
//! [`data`]; the rows of the [`browser`] are brought by who has a tokenizer.
//! [`scores`] judges, [`answers`] measures texts, [`lineage`] is where numbers
//! come from, [`charts`] draws on [`svg`] and [`axis`]; [`html`] and
//! [`markdown`] write. [`escape`] is the one way for text of models and data
//! into a page.
//!
//! The same store gives the same bytes: nothing here looks at a clock.

pub mod answers;
mod axis;
pub mod browser;
pub mod charts;
pub mod data;
mod dropped;
pub mod escape;
pub mod gather;
mod html;
mod leaderboard;
pub mod lineage;
mod markdown;
#[cfg(test)]
mod page_tests;
mod paper;
pub mod scores;
mod svg;

pub use data::Report;
pub use html::html;
pub use markdown::markdown;
