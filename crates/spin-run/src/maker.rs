//! Who makes artifacts, and by which version of its behaviour.

use spin_store::manifest::StageId;

/// A program, or a part of one that counts its versions by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maker {
    /// `spin-store import` of rows.
    ImportRows,
    /// `spin-store import` of a model.
    ImportModel,
    /// `spin-sample`.
    Sample,
    /// `spin-pair`.
    Pair,
    /// The reference pass of `spin-fit`.
    Reference,
    /// `spin-fit`.
    Fit,
    /// The metrics beside a model.
    Metrics,
    /// `spin-bench` on the run's held-out rows.
    Bench,
    /// `spin-bench eval`.
    Eval,
    /// `spin-bench eval` on MT-Bench.
    MtBench,
    /// `spin-store overlap`.
    Overlap,
}

impl Maker {
    /// All of them.
    pub const ALL: [Maker; 11] = [
        Maker::ImportRows,
        Maker::ImportModel,
        Maker::Sample,
        Maker::Pair,
        Maker::Reference,
        Maker::Fit,
        Maker::Metrics,
        Maker::Bench,
        Maker::Eval,
        Maker::MtBench,
        Maker::Overlap,
    ];

    /// Its name in manifests.
    pub const fn name(self) -> &'static str {
        match self {
            Maker::ImportRows | Maker::ImportModel => "spin-store import",
            Maker::Sample => "spin-sample",
            Maker::Pair => "spin-pair",
            Maker::Reference => "spin-fit reference",
            Maker::Fit => "spin-fit",
            Maker::Metrics => "spin-fit metrics",
            Maker::Bench => "spin-bench",
            Maker::Eval => "spin-bench eval",
            Maker::MtBench => "spin-bench eval mt_bench",
            Maker::Overlap => "spin-store overlap",
        }
    }

    /// The version of its behaviour: raise it when the same inputs give
    /// something else.
    pub const fn version(self) -> u32 {
        match self {
            Maker::ImportRows | Maker::ImportModel | Maker::Pair | Maker::Eval => 1,
            // 2: letters of scripts without spaces are words.
            Maker::Overlap => 2,
            Maker::Bench => 2,
            // 2: the questions and prompts are parents as files, not as prose.
            Maker::MtBench => 2,
            Maker::Sample | Maker::Reference => 3,
            Maker::Fit | Maker::Metrics => 4,
        }
    }

    /// Both, as a manifest has them.
    pub fn id(self) -> StageId {
        StageId { name: self.name().into(), version: self.version() }
    }
}
