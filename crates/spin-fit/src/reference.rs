//! The opponent's log-probabilities, computed once before the first update
//! and stored, so that the opponent is never a second model in memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value, json};
use spin_model::{Batch, CausalLm};
use spin_run::run::FitDtype;
use spin_run::schema::{Pair, ReferenceRow, Row};
use spin_store::work::Found;
use spin_store::{Artifact, Ending, Left, Making, Staged, table};

use crate::batches::Limit;
use crate::collective::{Collective, Solo, bytes_of, talk, told, words_of};
use crate::error::{FitError, Result};
use crate::start::kind_of;
use crate::watch::TrainingWatch;

/// Pairs per part: what a restart may lose.
const PAIRS_PER_PART: usize = 512;

/// A prompt with its answers.
pub type Group<'a> = (&'a [u32], Vec<&'a [u32]>);

/// Summed log-probabilities of the answers of each group, in nats.
///
/// # Errors
/// When an answer does not fit the model.
pub fn logps(model: &CausalLm, groups: &[Group<'_>], limit: Limit) -> Result<Vec<Vec<f64>>> {
    logps_among(model, groups, limit, &Solo)
}

/// The same on each process of `world`, which share the work.
///
/// # Errors
/// As [`logps`].
pub fn logps_among(
    model: &CausalLm,
    groups: &[Group<'_>],
    limit: Limit,
    world: &dyn Collective,
) -> Result<Vec<Vec<f64>>> {
    Ok(logps_while(model, groups, limit, world, &mut |_| true)?.unwrap_or_default())
}

/// As [`logps`], as long as `go_on` holds on all processes, which is asked
/// before each forward pass and told the number of groups done; `None` if it
/// did not. How groups are cut does not depend on the number of processes, so
/// neither do their numbers.
fn logps_while(
    model: &CausalLm,
    groups: &[Group<'_>],
    limit: Limit,
    world: &dyn Collective,
    go_on: &mut dyn FnMut(usize) -> bool,
) -> Result<Option<Vec<Vec<f64>>>> {
    let size = |(prompt, answers): &Group<'_>| {
        (answers.len(), prompt.len() + answers.iter().map(|a| a.len()).max().unwrap_or(0))
    };
    let cuts = limit.cut_sizes(&groups.iter().map(size).collect::<Vec<_>>());
    let owner = |number: usize| number % world.world();
    let (mut done, mut own) = (0, Some(Vec::new()));
    for (number, batch) in cuts.iter().enumerate() {
        if owner(number) == world.rank()
            && let Some(sums) = &mut own
        {
            if go_on(done) {
                let chosen = batch.iter().map(|&g| (groups[g].0, groups[g].1.iter().copied()));
                sums.extend(model.sum_logps(&Batch::grouped(chosen)?)?.into_iter().map(f64::to_bits));
            } else {
                own = None;
            }
        }
        done += batch.len();
    }
    // A word ahead of the sums: nobody has none.
    let own = own.map(|sums| bytes_of(&[&[0], sums.as_slice()].concat())).unwrap_or_default();
    let all = talk(world, Ok(&own))?;
    if all.iter().any(Vec::is_empty) {
        return Ok(None);
    }
    let mut sums: Vec<_> = all.iter().map(|bytes| words_of(bytes).skip(1).map(f64::from_bits)).collect();
    let mut out = vec![Vec::new(); groups.len()];
    for (number, batch) in cuts.into_iter().enumerate() {
        for group in batch {
            out[group] = sums[owner(number)].by_ref().take(groups[group].1.len()).collect();
        }
    }
    Ok(Some(out))
}

/// Reads a reference that is to be used for training `model` on `pairs`.
///
/// # Errors
/// When it was made of other weights, other pairs, with another type of
/// weights or on another kind of device, or is damaged.
pub fn read(
    reference: &Artifact,
    model: &Artifact,
    pairs: &Artifact,
    dtype: FitDtype,
    device: &str,
) -> Result<Vec<ReferenceRow>> {
    let refuse = |what, found: String, expected: String| {
        Err(FitError::OtherReference { reference: reference.reference(), what, found, expected })
    };
    for (role, what, expected) in [("model", "weights", model), ("pairs", "pairs", pairs)] {
        let parent = reference.manifest.parents.iter().find(|p| p.role == role);
        let name = |reference: &dyn std::fmt::Display, content: &str| {
            format!("{reference} ({})", &content[..content.len().min(12)])
        };
        match parent {
            Some(parent) if parent.content == expected.manifest.content => {}
            Some(parent) => {
                let expected = name(&expected.reference(), &expected.manifest.content);
                return refuse(what, name(&parent.origin, &parent.content), expected);
            }
            None => return refuse(what, "none recorded".into(), expected.reference()),
        }
    }
    let made_with = reference.manifest.params["dtype"].as_str().unwrap_or("an unknown type");
    if made_with != dtype.name() {
        return refuse("type of weights", made_with.into(), dtype.name().into());
    }
    // Releases that noted none had no other.
    let made_on = reference.manifest.environment.get("device").and_then(Value::as_str).unwrap_or("cpu");
    if kind_of(made_on) != kind_of(device) {
        return refuse("device", made_on.into(), device.into());
    }
    Ok(ReferenceRow::read_all(reference)?)
}

/// Computes the reference of `pairs` under `model`, as far as it is not in the
/// work directory. A stop keeps the parts so far.
///
/// # Errors
/// When an answer does not fit the model, or the disk is full.
pub fn step(
    making: &Making<'_>,
    model: &CausalLm,
    pairs: &[Pair],
    limit: Limit,
    world: &dyn Collective,
    watch: &mut dyn TrainingWatch,
) -> Result<Ending> {
    let work = &making.work;
    let mut names = Vec::new();
    for (i, chunk) in pairs.chunks(PAIRS_PER_PART).enumerate() {
        let name = table::part_name(i);
        let found = work.read_part::<ReferenceRow>(&name, i)?;
        match found.check(|part| same_rows(chunk, &part.rows), "it is of other pairs") {
            Found::Whole(_) => {}
            unusable => {
                if let Found::Unusable(why) = unusable {
                    watch.note(&format!("{} is computed again: {why}", work.path(&name).display()));
                }
                told(world, &bytes_of(&[i as u64]))?;
                let mut go_on = |done: usize| {
                    watch.reference((i * PAIRS_PER_PART + done) as u64, pairs.len() as u64);
                    !making.is_stopped()
                };
                let Some(rows) = rows_of(model, chunk, limit, world, &mut go_on)? else { return Ok(stopped()) };
                work.write_part(&name, i, &rows, &Value::Null)?;
            }
        }
        names.push(name);
    }
    told(world, &bytes_of(&[END]))?;
    let staged = making.staging()?;
    for name in names {
        match work.copy_part(&name, &staged.path().join(&name))? {
            Found::Whole(()) => {}
            Found::Absent => return Err(FitError::Part { path: work.path(&name), why: "it is gone".into() }),
            Found::Unusable(why) => return Err(FitError::Part { path: work.path(&name), why }),
        }
    }
    let mut facts = Map::new();
    facts.insert("pairs".into(), json!(pairs.len()));
    Ok(Ending::Publish(Staged::new(staged, facts)))
}

/// No part is missing any more.
const END: u64 = u64::MAX;

fn stopped() -> Ending {
    Ending::Leave(Left::Stopped("during the reference pass; the parts that are done are kept".into()))
}

/// Computes a process's share of the parts that the first one names in [`step`];
/// how it ended, if by a stop.
///
/// # Errors
/// When an answer does not fit the model, or another process fails.
pub fn help(
    model: &CausalLm,
    pairs: &[Pair],
    limit: Limit,
    world: &dyn Collective,
    stop: &AtomicBool,
) -> Result<Option<Ending>> {
    loop {
        let part = words_of(&told(world, &[])?).next().unwrap_or(END);
        if part == END {
            return Ok(None);
        }
        let chunk = pairs.chunks(PAIRS_PER_PART).nth(part as usize).unwrap_or_default();
        if rows_of(model, chunk, limit, world, &mut |_| !stop.load(Ordering::Relaxed))?.is_none() {
            return Ok(Some(stopped()));
        }
    }
}

fn same_rows(pairs: &[Pair], rows: &[ReferenceRow]) -> bool {
    let of_pairs = pairs.iter().map(|p| (&p.row_id, p.iteration, p.sample_index));
    of_pairs.eq(rows.iter().map(|r| (&r.row_id, r.iteration, r.sample_index)))
}

/// One part. A row's real answer stands in many pairs and is computed once,
/// with all generated ones after the same prompt.
/// `None` if `go_on` did not hold to the end.
fn rows_of(
    model: &CausalLm,
    pairs: &[Pair],
    limit: Limit,
    world: &dyn Collective,
    go_on: &mut dyn FnMut(usize) -> bool,
) -> Result<Option<Vec<ReferenceRow>>> {
    let mut group_of_row: HashMap<&str, usize> = HashMap::new();
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut places = Vec::with_capacity(pairs.len());
    for pair in pairs {
        let group = *group_of_row.entry(&pair.row_id).or_insert_with(|| {
            groups.push((&pair.prompt_ids, vec![&pair.real_ids]));
            groups.len() - 1
        });
        groups[group].1.push(&pair.generated_ids);
        places.push((group, groups[group].1.len() - 1));
    }
    let Some(logps) = logps_while(model, &groups, limit, world, go_on)? else { return Ok(None) };
    let row = |(pair, (group, place)): (&Pair, (usize, usize))| ReferenceRow {
        row_id: pair.row_id.clone(),
        iteration: pair.iteration,
        sample_index: pair.sample_index,
        real_logps: logps[group][0],
        generated_logps: logps[group][place],
    };
    Ok(Some(pairs.iter().zip(places).map(row).collect()))
}
