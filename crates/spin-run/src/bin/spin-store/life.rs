//! `journal`, `rm`, `adopt`, `pin`, `rename`, `gc`: what became of artifacts, and what people say of it.

use std::collections::BTreeSet;
use std::path::Path;

use spin_cli::{Exit, now, say};
use spin_run::{replay, sign};
use spin_store::journal::Event;
use spin_store::retire::Removal;
use spin_store::{Artifact, Reference, Store};

use crate::looks::shown;
use crate::{Format, out};

pub fn journal(store: &Store, prefix: &str, format: Format) -> anyhow::Result<Exit> {
    let Some(journal) = store.journal()? else {
        say("no journal yet: the next artifact that is published begins one");
        return Ok(Exit::Done);
    };
    let entries = journal.entries.iter().filter(|entry| entry.artifact.starts_with(prefix));
    match format {
        Format::Json => out(&entries
            .map(|entry| serde_json::to_string(entry).map(|line| line + "\n"))
            .collect::<Result<String, _>>()?)?,
        Format::Text => {
            for entry in entries {
                // The line before a publication tells nothing when the one after it is there.
                let is_followed =
                    journal.entries.get(entry.entry as usize).is_some_and(|next| next.artifact == entry.artifact);
                if matches!(entry.event, Event::Publishing | Event::Removing) && is_followed {
                    continue;
                }
                let event = format!("{:?}", entry.event).to_lowercase();
                let (at, seal) = (entry.at.as_deref().unwrap_or("-"), entry.seal.get(..12).unwrap_or("-"));
                out(&shown(&format!("{:>6}  {at:20}  {event:10}  {seal}  {}\n", entry.entry, entry.artifact)))?;
            }
        }
    }
    say(&format!("head {}", journal.head()));
    Ok(Exit::Done)
}

pub fn rm(store: &Store, references: &[String], force: bool) -> anyhow::Result<Exit> {
    for reference in references {
        match store.remove(&reference.parse::<Reference>()?, Some(&now()), force)? {
            Removal::Removed(bytes) => say(&shown(&format!("removed {reference} ({bytes} bytes)"))),
            Removal::Noted => say(&shown(&format!("{reference} is gone; the journal says now that it was meant"))),
        }
    }
    Ok(Exit::Done)
}

pub fn adopt(store: &Store, references: &[String], all: bool) -> anyhow::Result<Exit> {
    let artifacts: Vec<Artifact> = match all {
        true => store.artifacts()?,
        false => {
            let get = |text: &String| -> anyhow::Result<Artifact> { Ok(store.get(&text.parse::<Reference>()?)?) };
            references.iter().map(get).collect::<Result<_, _>>()?
        }
    };
    let adopted = store.adopt(artifacts, Some(&now()))?;
    for reference in &adopted {
        say(&shown(&format!("adopted {reference}")));
    }
    if adopted.is_empty() {
        say("the journal has them all");
    }
    Ok(Exit::Done)
}

pub fn seal(store: &Store, reference: &str, key: &Path) -> anyhow::Result<Exit> {
    let artifact = store.get(&reference.parse::<Reference>()?)?;
    let path = sign::seal(store, &artifact, key)?;
    say(&shown(&format!("signed {} with all it is from: {}", artifact.reference(), path.display())));
    Ok(Exit::Done)
}

pub fn pin(store: &Store, references: &[String], is_kept: bool) -> anyhow::Result<Exit> {
    for reference in references {
        // By its number: what it stands for must not move.
        let name = match is_kept {
            true => store.get(&reference.parse::<Reference>()?)?.reference(),
            false => reference.clone(),
        };
        let is_new = store.pin(&name, is_kept)?;
        let how = if is_kept { "pinned" } else { "not pinned any more" };
        say(&shown(&format!("{name} {}", if is_new { how } else { "is left as it was" })));
    }
    if references.is_empty() {
        store.pins()?.iter().try_for_each(|pin| out(&shown(&format!("{pin}\n"))))?;
    }
    Ok(Exit::Done)
}

pub fn rename(store: &Store, what: Option<(&str, &str)>, force: bool, drop: &[String]) -> anyhow::Result<Exit> {
    if let Some((reference, name)) = what {
        let artifact = store.get(&reference.parse::<Reference>()?)?;
        store.rename(&artifact, name, force)?;
        say(&shown(&format!("{name} stands for {} now", artifact.reference())));
    } else if drop.is_empty() {
        for (name, named) in store.names()? {
            out(&shown(&format!("{name}  {}\n", named.artifact)))?;
        }
    }
    for name in drop {
        let how = if store.drop_name(name)? { "stands for nothing any more" } else { "was no name" };
        say(&shown(&format!("{name} {how}")));
    }
    Ok(Exit::Done)
}

/// Flags of `gc`.
#[derive(clap::Args)]
pub struct Collect {
    /// Keep this artifact and all it is from; of the rest, what is not pinned goes. Without any, only what was left lying goes
    #[arg(long, value_name = "REF")]
    keep: Vec<String>,
    /// Keep all artifacts of this run
    #[arg(long, value_name = "RUN")]
    keep_run: Vec<String>,
    /// Also remove unfinished work, which stages would carry on
    #[arg(long)]
    unfinished: bool,
    /// Do it; without, only say what would go
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    pub at: crate::At,
}

pub fn gc(store: &Store, args: &Collect) -> anyhow::Result<Exit> {
    // Before anything is decided: nobody makes anything from what is to go.
    let _alone = if args.yes { Some(store.alone()?) } else { None };
    let mut roots: Vec<Artifact> = Vec::new();
    let named: Vec<String> = store.names()?.into_values().map(|named| named.artifact).collect();
    for reference in store.pins()?.iter().chain(&named).chain(&args.keep) {
        roots.push(store.get(&reference.parse::<Reference>()?)?);
    }
    for run in &args.keep_run {
        let prefix = format!("{run}/");
        let of_run: Vec<_> = store.list()?.into_iter().filter(|entry| entry.1.starts_with(&prefix)).collect();
        anyhow::ensure!(!of_run.is_empty(), "no artifact is of a run {run:?}; nothing is removed");
        roots.extend(of_run.iter().map(|entry| store.load_listed(entry)).collect::<Result<Vec<_>, _>>()?);
    }
    let has_roots = !args.keep.is_empty() || !args.keep_run.is_empty();
    let mut kept = BTreeSet::new();
    for root in &roots {
        kept.extend(replay::needed_of(store, root)?.iter().map(Artifact::reference));
    }
    let garbage = store.garbage(has_roots.then_some(&kept))?;
    let mut bytes = 0;
    let mut line = |size: u64, what: &str, why: &str| {
        bytes += size;
        out(&shown(&format!("{size:>14} bytes  {what}  ({why})\n")))
    };
    for artifact in &garbage.artifacts {
        line(artifact.manifest.bytes(), &artifact.reference(), "nothing that is kept is from it")?;
    }
    let lists = [(&garbage.assemblies, "an assembly that was left"), (&garbage.leftovers, "work of what is published")];
    for (list, why) in lists {
        for (path, size) in list {
            line(*size, &path.display().to_string(), why)?;
        }
    }
    for (path, size) in &garbage.unfinished {
        match args.unfinished {
            true => line(*size, &path.display().to_string(), "unfinished work")?,
            false => say(&shown(&format!("kept: unfinished work of {size} bytes in {}", path.display()))),
        }
    }
    match args.yes {
        false => say(&format!("{bytes} bytes could go; --yes removes them")),
        true => say(&format!("removed {} bytes", store.collect(&garbage, args.unfinished, Some(&now()))?)),
    }
    Ok(Exit::Done)
}
