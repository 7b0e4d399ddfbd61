//! What a report links: it is built and run where no model is.

use std::process::Command;

#[test]
fn no_tensor_tokenizer_or_network_is_linked() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let args = ["tree", "--offline", "--package", "spin-report", "--edges", "normal", "--prefix", "none"];
    let output = Command::new(cargo).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    let (tree, problem) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{problem}");
    let linked: Vec<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(linked.contains(&"spin-run"), "{tree}");
    for stem in ["candle", "mistralrs", "tokenizers", "ureq", "reqwest", "spin-model", "spin-bench", "spin-sample"] {
        let found: Vec<&&str> = linked.iter().filter(|name| name.starts_with(stem)).collect();
        assert!(found.is_empty(), "a report links {found:?}");
    }
}
