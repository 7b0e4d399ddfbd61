//! Inputs that nobody wrote, thrown for a moment at everything that reads files from
//! outside; `mutate TARGET SECONDS` does it for longer.

use std::time::Duration;

use spin_tests::mutate::{TARGETS, run};

#[test]
fn no_mutation_makes_a_reader_panic() {
    for target in TARGETS {
        let outcome = run(target, Duration::from_millis(1000), 7, &std::env::temp_dir()).unwrap();
        assert!(outcome.tried > 10, "{target}: only {} tried", outcome.tried);
        assert!(outcome.slowest < Duration::from_secs(20), "{target}: one took {:?}", outcome.slowest);
    }
}
