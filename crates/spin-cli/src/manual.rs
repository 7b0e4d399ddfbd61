//! What every program prints about itself: completions for shells, and its
//! manual page.

use clap::{Command, CommandFactory, Parser};
use clap_complete::Shell;

/// The word that asks for it, in place of all others.
const COMPLETIONS: &str = "completions";

/// The flags of a program, unless it was asked, as `PROGRAM completions SHELL`,
/// for the completions of a shell or, with `man` for a shell, for its manual:
/// then it prints that and ends.
pub fn parse<C: CommandFactory + Parser>() -> C {
    let words: Vec<_> = std::env::args_os().skip(1).take(3).collect();
    if let [word, which] = words.as_slice()
        && word == COMPLETIONS
        && let Some(which) = which.to_str()
        && let Some(text) = about(C::command(), which)
    {
        crate::out(&text);
        std::process::exit(0);
    }
    C::parse()
}

/// Completions for a shell, or the manual; `None` for another word.
fn about(mut command: Command, which: &str) -> Option<String> {
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    if which == "man" {
        clap_mangen::Man::new(command).render(&mut text).ok()?;
    } else {
        let shell: Shell = which.parse().ok()?;
        clap_complete::generate(shell, &mut command, name, &mut text);
    }
    String::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    #[test]
    fn shells_and_the_manual_know_the_flags() {
        let command = || Command::new("spin-x").arg(Arg::new("device").long("device").help("Where it computes"));
        for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
            let text = about(command(), shell).unwrap();
            assert!(text.contains("spin-x") && text.contains("device"), "{shell}: {text}");
        }
        let manual = about(command(), "man").unwrap();
        assert!(manual.contains(".TH spin-x") && manual.contains("Where it computes"), "{manual}");
        assert_eq!(about(command(), "tcsh"), None);
    }
}
