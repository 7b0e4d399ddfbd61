//! Documents by their texts and by the runs of words in them.

use std::collections::{BTreeMap, HashMap};

use super::text;

/// What was found of a text.
pub struct Hit<'a> {
    /// The document.
    pub document: &'a str,
    /// Whether the text is the document's, rather than shares a run of words.
    pub is_exact: bool,
    /// Words that are shared.
    pub text: String,
    /// Share of the text's runs that the document has.
    pub share: f64,
}

/// Documents to look up.
pub struct Index {
    n: usize,
    names: Vec<String>,
    /// Whole texts, with their column.
    exact: HashMap<u64, u32>,
    /// Runs of words; of several documents the first.
    runs: HashMap<u64, u32>,
}

/// A whole text in its column; files have none.
fn whole(column: &str, hashes: &[u64]) -> u64 {
    text::of_run(&[spin_noise::fnv1a(column), text::of_run(hashes)])
}

impl Index {
    pub fn new(n: usize) -> Index {
        Index { n, names: Vec::new(), exact: HashMap::new(), runs: HashMap::new() }
    }

    pub fn documents(&self) -> usize {
        self.names.len()
    }

    /// Adds a text of a document, the last one added or a new one; whole texts of
    /// fewer words than `least` are none.
    pub fn add(&mut self, document: &str, column: &str, words: &str, least: usize) {
        if self.names.last().is_none_or(|last| last != document) {
            self.names.push(document.to_owned());
        }
        let at = u32::try_from(self.names.len() - 1).unwrap_or(u32::MAX);
        let hashes = text::hashes(&text::words(words));
        if hashes.len() >= least && !hashes.is_empty() {
            self.exact.entry(whole(column, &hashes)).or_insert(at);
        }
        for run in hashes.windows(self.n) {
            self.runs.entry(text::of_run(run)).or_insert(at);
        }
    }

    /// What the documents have of a text: the one that is it, or else the one that
    /// shares the most.
    pub fn hits(&self, column: &str, words: &str) -> Option<Hit<'_>> {
        let words = text::words(words);
        let hashes = text::hashes(&words);
        let name = |at: u32| self.names[at as usize].as_str();
        let exact = [column, ""].iter().find_map(|column| self.exact.get(&whole(column, &hashes)));
        if let Some(at) = exact.filter(|_| !hashes.is_empty()) {
            return Some(Hit { document: name(*at), is_exact: true, text: words.join(" "), share: 1.0 });
        }
        // By document: how many runs, and the first.
        let mut shared: BTreeMap<u32, (usize, usize)> = BTreeMap::new();
        for (start, run) in hashes.windows(self.n).enumerate() {
            if let Some(at) = self.runs.get(&text::of_run(run)) {
                shared.entry(*at).or_insert((0, start)).0 += 1;
            }
        }
        let runs = (hashes.len() + 1).saturating_sub(self.n).max(1);
        let (at, (count, start)) = shared.into_iter().max_by_key(|(at, (count, _))| (*count, u32::MAX - at))?;
        let text = words[start..start + self.n].join(" ");
        Some(Hit { document: name(at), is_exact: false, text, share: count as f64 / runs as f64 })
    }
}
