//! What there is to fetch: one table.

/// Where a repository lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// A dataset of the Hugging Face hub.
    Hub,
    /// A repository of GitHub, read through its address for raw files.
    GitHub,
}

/// A benchmark's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dataset {
    /// AI2 Reasoning Challenge.
    Arc,
    /// HellaSwag.
    HellaSwag,
    /// Massive Multitask Language Understanding.
    Mmlu,
    /// TruthfulQA, multiple choice.
    TruthfulQa,
    /// Winogrande, with the largest training split.
    Winogrande,
    /// Grade-school mathematics.
    Gsm8k,
    /// OpenBookQA.
    OpenBookQa,
    /// BIG-Bench Hard with its chain-of-thought prompts. Its files carry a
    /// canary: never train on them.
    Bbh,
    /// MT-Bench.
    MtBench,
}

/// The repository of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where it lives.
    pub host: Host,
    /// `owner/name`.
    pub repo: &'static str,
    /// The commit, pinned: another one may hold other rows.
    pub revision: &'static str,
}

/// A file of a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Path in the repository.
    pub path: String,
    /// Rows it must have: of a Parquet table, lines of `.jsonl`, `examples` of
    /// BBH's `.json`. Prose has none.
    pub rows: Option<u64>,
}

fn item(path: impl Into<String>, rows: u64) -> Item {
    Item { path: path.into(), rows: Some(rows) }
}

/// The single part of a split of a small dataset.
fn part(split: &str, rows: u64) -> Item {
    item(format!("{split}-00000-of-00001.parquet"), rows)
}

impl Dataset {
    /// All of them.
    pub const ALL: [Dataset; 9] = [
        Dataset::Arc,
        Dataset::HellaSwag,
        Dataset::Mmlu,
        Dataset::TruthfulQa,
        Dataset::Winogrande,
        Dataset::Gsm8k,
        Dataset::OpenBookQa,
        Dataset::Bbh,
        Dataset::MtBench,
    ];

    /// Its name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Dataset::Arc => "arc_challenge",
            Dataset::HellaSwag => "hellaswag",
            Dataset::Mmlu => "mmlu",
            Dataset::TruthfulQa => "truthfulqa",
            Dataset::Winogrande => "winogrande",
            Dataset::Gsm8k => "gsm8k",
            Dataset::OpenBookQa => "openbookqa",
            Dataset::Bbh => "bbh",
            Dataset::MtBench => "mt_bench",
        }
    }

    /// The dataset of a name.
    pub fn from_name(name: &str) -> Option<Dataset> {
        Dataset::ALL.into_iter().find(|d| d.name() == name)
    }

    /// Its repository and revision.
    pub fn source(self) -> Source {
        let hub = |repo, revision| Source { host: Host::Hub, repo, revision };
        match self {
            Dataset::Arc => hub("allenai/ai2_arc", "210d026faf9955653af8916fad021475a3f00453"),
            Dataset::HellaSwag => hub("Rowan/hellaswag", "218ec52e09a7e7462a5400043bb9a69a41d06b76"),
            Dataset::Mmlu => hub("cais/mmlu", "c30699e8356da336a370243923dbaf21066bb9fe"),
            Dataset::TruthfulQa => hub("truthfulqa/truthful_qa", "741b8276f2d1982aa3d5b832d3ee81ed3b896490"),
            Dataset::Winogrande => hub("allenai/winogrande", "01e74176c63542e6b0bcb004dcdea22d94fb67b5"),
            Dataset::Gsm8k => hub("openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866"),
            Dataset::OpenBookQa => hub("allenai/openbookqa", "388097ea7776314e93a529163e0fea805b8a6454"),
            Dataset::Bbh => Source {
                host: Host::GitHub,
                repo: "suzgunmirac/BIG-Bench-Hard",
                revision: "9ee07bd481feebf959a6b59d61ea57bdcf30964d",
            },
            // GitHub takes an abbreviated commit.
            Dataset::MtBench => Source { host: Host::GitHub, repo: "lm-sys/FastChat", revision: "0e6d3e4b" },
        }
    }

    /// The files that scoring needs, with their rows. Splits that no task
    /// reads are left out.
    pub fn items(self) -> Vec<Item> {
        match self {
            Dataset::Arc => vec![part("ARC-Challenge/train", 1119), part("ARC-Challenge/test", 1172)],
            Dataset::HellaSwag => vec![part("data/train", 39_905), part("data/validation", 10_042)],
            Dataset::Mmlu => {
                let both = |(subject, rows): &(&str, u64)| {
                    [part(&format!("{subject}/dev"), 5), part(&format!("{subject}/test"), *rows)]
                };
                MMLU.iter().flat_map(both).collect()
            }
            Dataset::TruthfulQa => vec![part("multiple_choice/validation", 817)],
            Dataset::Winogrande => vec![part("winogrande_xl/train", 40_398), part("winogrande_xl/validation", 1267)],
            Dataset::Gsm8k => vec![part("main/train", 7473), part("main/test", 1319)],
            Dataset::OpenBookQa => vec![part("main/train", 4957), part("main/test", 500)],
            Dataset::Bbh => {
                let both = |(task, rows): &(&str, u64)| {
                    let prompt = Item { path: format!("cot-prompts/{task}.txt"), rows: None };
                    [item(format!("bbh/{task}.json"), *rows), prompt]
                };
                BBH.iter().flat_map(both).collect()
            }
            Dataset::MtBench => {
                let data = "fastchat/llm_judge/data";
                vec![
                    item(format!("{data}/judge_prompts.jsonl"), 8),
                    item(format!("{data}/mt_bench/question.jsonl"), 80),
                    item(format!("{data}/mt_bench/reference_answer/gpt-4.jsonl"), 30),
                ]
            }
        }
    }
}

/// MMLU's subjects with the rows of their test split.
pub const MMLU: [(&str, u64); 57] = [
    ("abstract_algebra", 100),
    ("anatomy", 135),
    ("astronomy", 152),
    ("business_ethics", 100),
    ("clinical_knowledge", 265),
    ("college_biology", 144),
    ("college_chemistry", 100),
    ("college_computer_science", 100),
    ("college_mathematics", 100),
    ("college_medicine", 173),
    ("college_physics", 102),
    ("computer_security", 100),
    ("conceptual_physics", 235),
    ("econometrics", 114),
    ("electrical_engineering", 145),
    ("elementary_mathematics", 378),
    ("formal_logic", 126),
    ("global_facts", 100),
    ("high_school_biology", 310),
    ("high_school_chemistry", 203),
    ("high_school_computer_science", 100),
    ("high_school_european_history", 165),
    ("high_school_geography", 198),
    ("high_school_government_and_politics", 193),
    ("high_school_macroeconomics", 390),
    ("high_school_mathematics", 270),
    ("high_school_microeconomics", 238),
    ("high_school_physics", 151),
    ("high_school_psychology", 545),
    ("high_school_statistics", 216),
    ("high_school_us_history", 204),
    ("high_school_world_history", 237),
    ("human_aging", 223),
    ("human_sexuality", 131),
    ("international_law", 121),
    ("jurisprudence", 108),
    ("logical_fallacies", 163),
    ("machine_learning", 112),
    ("management", 103),
    ("marketing", 234),
    ("medical_genetics", 100),
    ("miscellaneous", 783),
    ("moral_disputes", 346),
    ("moral_scenarios", 895),
    ("nutrition", 306),
    ("philosophy", 311),
    ("prehistory", 324),
    ("professional_accounting", 282),
    ("professional_law", 1534),
    ("professional_medicine", 272),
    ("professional_psychology", 612),
    ("public_relations", 110),
    ("security_studies", 245),
    ("sociology", 201),
    ("us_foreign_policy", 100),
    ("virology", 166),
    ("world_religions", 171),
];

/// The tasks of BIG-Bench Hard with their rows.
pub const BBH: [(&str, u64); 27] = [
    ("boolean_expressions", 250),
    ("causal_judgement", 187),
    ("date_understanding", 250),
    ("disambiguation_qa", 250),
    ("dyck_languages", 250),
    ("formal_fallacies", 250),
    ("geometric_shapes", 250),
    ("hyperbaton", 250),
    ("logical_deduction_five_objects", 250),
    ("logical_deduction_seven_objects", 250),
    ("logical_deduction_three_objects", 250),
    ("movie_recommendation", 250),
    ("multistep_arithmetic_two", 250),
    ("navigate", 250),
    ("object_counting", 250),
    ("penguins_in_a_table", 146),
    ("reasoning_about_colored_objects", 250),
    ("ruin_names", 250),
    ("salient_translation_error_detection", 250),
    ("snarks", 178),
    ("sports_understanding", 250),
    ("temporal_sequences", 250),
    ("tracking_shuffled_objects_five_objects", 250),
    ("tracking_shuffled_objects_seven_objects", 250),
    ("tracking_shuffled_objects_three_objects", 250),
    ("web_of_lies", 250),
    ("word_sorting", 250),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        let mut paths = std::collections::BTreeSet::new();
        for dataset in Dataset::ALL {
            assert_eq!(Dataset::from_name(dataset.name()), Some(dataset));
            let source = dataset.source();
            assert!(source.revision.chars().all(|c| c.is_ascii_hexdigit()), "{source:?}");
            assert!(source.revision.len() == 40 || dataset == Dataset::MtBench, "{source:?}");
            for item in dataset.items() {
                assert!(paths.insert(format!("{}/{}", source.repo, item.path)), "{item:?} stands twice");
            }
        }
        assert_eq!(MMLU.iter().map(|(_, rows)| rows).sum::<u64>(), 14_042);
        assert_eq!(Dataset::Mmlu.items().len(), 114);
        assert_eq!(BBH.iter().map(|(_, rows)| rows).sum::<u64>(), 6511);
        assert_eq!(Dataset::from_name("imagenet"), None);
    }
}
