//! spin-pair's work with the tokens of demonstrations out of a table, as its peers have them.

use std::collections::HashMap;
use std::path::Path;

use anyhow::ensure;
use arrow::array::{AsArray, ListArray};
use arrow::datatypes::UInt32Type;
use rayon::prelude::*;
use spin_run::graph::Graph;
use spin_run::run::RunFile;
use spin_run::schema::Demonstration;
use spin_store::{Context, Store, table};

fn ids(lists: &ListArray, row: usize) -> Vec<u32> {
    lists.value(row).as_primitive::<UInt32Type>().values().to_vec()
}

/// Publishes the pairs of a run's first round; the content's digest.
pub fn pairs(run: &Path, tokens: &Path) -> anyhow::Result<String> {
    let names = ["row_id", "prompt_ids", "response_ids"];
    let columns = names.par_iter().map(|name| table::read_columns(tokens, &[*name])).collect::<Result<Vec<_>, _>>()?;
    let (prompts, answers) = (columns[1].column(0).as_list::<i32>(), columns[2].column(0).as_list::<i32>());
    let places: HashMap<&str, usize> = table::texts(&columns[0], "row_id", tokens)?.zip(0..).collect();
    let given = |row: &Demonstration| {
        let place = places[row.row_id.as_str()];
        Ok((ids(prompts, place), ids(answers, place)))
    };
    let run = RunFile::load(run, &[])?;
    let store = Store::open_existing(&run.store_dir())?;
    let graph = Graph::new(&run, &store);
    let (artifact, made) = spin_pair::stage::run_with(&graph, 0, &Context::silent(&store), Some(&given))?;
    ensure!(made, "there were pairs");
    Ok(artifact.manifest.content)
}
