use std::sync::atomic::AtomicUsize;

use super::*;
use crate::StageId;
use crate::kind::Kind;
use crate::row::Row as _;
use crate::row::numbers::Number;
use crate::table::part_name;

fn recipe(of: &str) -> Recipe {
    let stage = StageId { name: "test".into(), version: 1 };
    Recipe { kind: Kind::Reference, name: "run/x".into(), stage, params: json!({"of": of}), parents: Vec::new() }
}

fn assembled(making: &Making<'_>, number: u32) -> Result<Staged> {
    let staged = making.staging()?;
    Number::write_part(&staged.path().join(part_name(0)), &[Number(number)], &making.recipe.identity(), 0)?;
    Ok(Staged::new(staged, Map::new()))
}

fn published(making: &Making<'_>, number: u32) -> Result<Ending> {
    assembled(making, number).map(Ending::Publish)
}

fn work_of(store: &Store, recipe: &Recipe) -> std::path::PathBuf {
    store.root().join(".work").join(recipe.identity())
}

#[test]
fn an_artifact_is_made_once_and_its_work_is_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let context = Context { device: "a device", ..Context::silent(&store) };
    let recipe = recipe("once");
    let made = context.make(&recipe, |making| {
        making.work.write_part(&part_name(0), 0, &[Number(1)], &Value::Null)?;
        assembled(making, 1)
    });
    let Ok((made, true)) = made else { panic!("{made:?}") };
    assert_eq!(made.manifest.environment["device"], "a device");
    assert!(!work_of(&store, &recipe).exists());
    let again = context.make(&recipe, |_| -> Result<Staged> { panic!("it is there") });
    assert!(matches!(&again, Ok((found, false)) if found.manifest == made.manifest), "{again:?}");
}

#[test]
fn what_is_left_or_fails_keeps_its_work() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let context = Context::silent(&store);
    let recipe = recipe("later");
    let left = context.make_or_leave(&recipe, |making| {
        making.work.write_part(&part_name(0), 0, &[Number(1)], &Value::Null)?;
        Ok::<_, StoreError>(Ending::Leave(Left::Stopped("half way".into())))
    });
    assert!(matches!(&left, Ok(Outcome::Left(Left::Stopped(place))) if place == "half way"));
    assert!(context.make(&recipe, |_| Err(StoreError::locked("x", "y"))).is_err());
    let kept = context.make(&recipe, |making| {
        assert!(making.work.read_part::<Number>(&part_name(0), 0)?.whole().is_some());
        assembled(making, 1)
    });
    assert!(matches!(kept, Ok((_, true))));
}

#[test]
fn who_comes_second_is_told_at_once_or_waits() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let context = Context { holder: "the first", ..Context::silent(&store) };
    let recipe = recipe("second");
    let patient = Context { patience: Duration::from_secs(60), ..context };
    std::thread::scope(|scope| {
        let first = context.make(&recipe, |making| {
            let second = Context::silent(&store).make(&recipe, |_| -> Result<Staged> { panic!("it is held") });
            let Err(error @ StoreError::Locked { .. }) = second else { panic!("{second:?}") };
            assert!(error.to_string().contains("the first"), "{error}");
            let (store, recipe) = (&store, &recipe);
            scope.spawn(move || {
                let patient = Context { patience: Duration::from_secs(60), ..Context::silent(store) };
                let third = patient.make(recipe, |_| -> Result<Staged> { panic!("it is made meanwhile") });
                assert!(matches!(third, Ok((_, false))), "{third:?}");
            });
            std::thread::sleep(Duration::from_millis(300));
            assembled(making, 1)
        });
        assert!(matches!(first, Ok((_, true))));
    });
    assert!(matches!(patient.make(&recipe, |making| assembled(making, 2)), Ok((_, false))));
}

#[test]
fn what_is_not_final_is_handed_on_and_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let context = Context::silent(&store);
    let recipe = recipe("anew");
    let is_final = |found: &Artifact| Ok(Number::read_all(found)?[0].0 >= 2);
    for number in 1..=2 {
        let made = context.make_unless(&recipe, is_final, |making| {
            assert_eq!(making.earlier.as_ref().map(|earlier| earlier.manifest.version), (number > 1).then_some(1));
            published(making, number)
        });
        let Ok(Outcome::Made(made)) = made else { panic!("{made:?}") };
        assert_eq!(made.manifest.version, number);
    }
    let found = context.make_unless(&recipe, is_final, |_| -> Result<Ending> { panic!("it is final") });
    assert!(matches!(found, Ok(Outcome::Found(found)) if found.manifest.version == 2));
}

#[test]
fn of_eight_that_work_together_one_assembles() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let recipe = recipe("together");
    let assembled_by = AtomicUsize::new(0);
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let work = || {
            Context::silent(&store).make_together(
                &recipe,
                |error: &StoreError| matches!(error, StoreError::Io { .. }),
                |_| Ok(Share::Whole { place: "all".into(), with: 1 }),
                |making, number| {
                    assembled_by.fetch_add(1, Ordering::SeqCst);
                    assembled(making, number)
                },
            )
        };
        let all: Vec<_> = (0..8).map(|_| scope.spawn(work)).collect();
        all.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect()
    });
    assert_eq!(assembled_by.into_inner(), 1);
    assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Made(_))).count(), 1);
    assert_eq!(store.versions(recipe.kind, &recipe.name).unwrap(), [1]);
    // Others' shares are not this one's fault, and what is published meanwhile is found.
    let late = Context::silent(&store).make_together(
        &self::recipe("partial"),
        |_: &StoreError| false,
        |_| Ok(Share::Left(Left::Partial("1 of 2".into()))),
        |_, ()| panic!("it is not whole"),
    );
    assert!(matches!(late, Ok(Outcome::Left(Left::Partial(_)))));
}
