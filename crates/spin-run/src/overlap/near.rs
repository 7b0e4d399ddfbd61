//! Near-duplicates within a table.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{Text, each_text, text};
use crate::schema::Overlap;
use spin_store::Artifact;
use spin_store::error::Result;

/// Words of a run.
const RUN: usize = 5;

/// Bands of hashes, and hashes of each: rows that share four fifths of their runs
/// meet in one of the bands with a probability of 0.985.
const BANDS: usize = 8;
const PER_BAND: usize = 4;

/// The runs of a row's texts, sorted, each once; a short text is one run.
fn runs(texts: &[Text]) -> Vec<u64> {
    let mut all = Vec::new();
    for one in texts {
        let hashes = text::hashes(&text::words(&one.text));
        match hashes.len() {
            0 => {}
            1..RUN => all.push(text::of_run(&hashes)),
            _ => all.extend(hashes.windows(RUN).map(text::of_run)),
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// One hash for each band: of the smallest values that its functions give the runs.
fn bands(runs: &[u64]) -> [u64; BANDS] {
    let mut out = [0; BANDS];
    for (band, out) in out.iter_mut().enumerate() {
        let least = |function: usize| {
            let key = (band * PER_BAND + function) as u64;
            runs.iter().map(|run| text::of_run(&[key, *run])).min().unwrap_or(key)
        };
        let least: Vec<u64> = (0..PER_BAND).map(least).collect();
        *out = text::of_run(&least);
    }
    out
}

/// Pairs of rows, each with the first that it is like; equal ones are told as such
/// without a count.
pub fn pairs(of: &Artifact, similarity: f64) -> Result<Vec<Overlap>> {
    let (mut first, mut equal): (HashMap<u64, u32>, Vec<(u32, u32)>) = Default::default();
    let mut met: Vec<Vec<(u64, u32)>> = vec![Vec::new(); BANDS];
    each_text(of, &mut |number, texts| {
        let runs = runs(&texts);
        if runs.is_empty() {
            return;
        }
        match first.get(&text::of_run(&runs)) {
            Some(other) => equal.push((*other, number)),
            None => {
                first.insert(text::of_run(&runs), number);
                for (band, hash) in met.iter_mut().zip(bands(&runs)) {
                    band.push((hash, number));
                }
            }
        }
    })?;
    drop(first);
    let mut candidates: BTreeSet<(u32, u32)> = BTreeSet::new();
    for mut band in met {
        band.sort_unstable();
        for same in band.chunk_by(|a, b| a.0 == b.0).filter(|same| same.len() > 1) {
            candidates.extend(same[1..].iter().map(|(_, number)| (same[0].1, *number)));
        }
    }
    let wanted: HashSet<u32> = candidates.iter().chain(&equal).flat_map(|(a, b)| [*a, *b]).collect();
    let counted: HashSet<u32> = candidates.iter().flat_map(|(a, b)| [*a, *b]).collect();
    let mut known: HashMap<u32, (String, String, Vec<u64>)> = HashMap::new();
    each_text(of, &mut |number, texts| {
        if wanted.contains(&number) {
            let runs = if counted.contains(&number) { runs(&texts) } else { Vec::new() };
            let id = texts.first().map(|text| text.row_id.clone()).unwrap_or_default();
            let said = texts.first().map(|text| super::cut(&text.text)).unwrap_or_default();
            known.insert(number, (id, said, runs));
        }
    })?;
    let told = |a: u32, b: u32, similarity: f64| Overlap {
        how: "near".into(),
        row_id: known[&b].0.clone(),
        column: String::new(),
        against: of.reference(),
        document: known[&a].0.clone(),
        text: known[&b].1.clone(),
        similarity,
    };
    let mut out: Vec<Overlap> = equal.into_iter().map(|(a, b)| told(a, b, 1.0)).collect();
    let mut seen = HashSet::new();
    for (a, b) in candidates {
        let share = jaccard(&known[&a].2, &known[&b].2);
        if share >= similarity && seen.insert(b) {
            out.push(told(a, b, share));
        }
    }
    Ok(out)
}

/// Share of the runs of two rows that both have.
fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let shared = a.iter().filter(|run| b.binary_search(run).is_ok()).count();
    shared as f64 / (a.len() + b.len() - shared).max(1) as f64
}
