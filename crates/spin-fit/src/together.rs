//! Artifacts that several processes make: the first looks, locks and
//! publishes, and the others help.

use std::time::{Duration, Instant};

use spin_store::{Artifact, Context, Ending, Making, Outcome, Recipe};

use crate::collective::{Collective, told};
use crate::error::{FitError, Result};

/// How long a file system may take to show what another machine has published.
const SEEN_WITHIN: Duration = Duration::from_secs(60);

const FOUND: &[u8] = b"found";
const MAKE: &[u8] = b"make";

/// As [`Context::make_or_leave`], by the processes of `world`. The first has a
/// [`Making`] and gives an ending; the others touch nothing, and give one if it
/// is that of all.
///
/// # Errors
/// As `make_or_leave`. The others hear of it at their next [`told`].
pub(crate) fn make_or_leave(
    world: &dyn Collective,
    context: &Context<'_>,
    recipe: &Recipe,
    body: impl FnOnce(Option<&Making<'_>>) -> Result<Option<Ending>>,
) -> Result<Outcome> {
    if world.is_first() {
        let outcome = context.make_or_leave(recipe, |making| {
            told(world, MAKE)?;
            body(Some(making)).map(|ending| ending.expect("the first process ends it"))
        })?;
        // Whatever comes of it is there now.
        told(world, FOUND)?;
        return Ok(outcome);
    }
    if told(world, &[])? != MAKE {
        return seen(context, recipe).map(Outcome::Found);
    }
    let ending = body(None)?;
    told(world, &[])?;
    match ending {
        Some(Ending::Leave(left)) => Ok(Outcome::Left(left)),
        _ => seen(context, recipe).map(Outcome::Made),
    }
}

/// An artifact that another process says is there.
fn seen(context: &Context<'_>, recipe: &Recipe) -> Result<Artifact> {
    let start = Instant::now();
    loop {
        match context.store.find(recipe)? {
            Some(artifact) => return Ok(artifact),
            None if start.elapsed() < SEEN_WITHIN => std::thread::sleep(Duration::from_millis(200)),
            None => {
                let what = format!("{}/{}", recipe.kind, recipe.name);
                return Err(FitError::NotSeen { what, store: context.store.root().display().to_string() });
            }
        }
    }
}
