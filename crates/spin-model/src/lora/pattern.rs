//! Regular expressions of PEFT's settings.

/// A regular expression as Python compiles it, within the bounds of what both
/// languages read alike.
pub(super) fn regex(pattern: &str) -> std::result::Result<fancy_regex::Regex, String> {
    // Operators on sets of characters that Python does not have.
    if ["&&", "--", "~~", "[["].iter().any(|operator| pattern.contains(operator)) {
        return Err(format!("the expression {pattern:?} is read differently by Python; write it in another way"));
    }
    let compiled = fancy_regex::RegexBuilder::new(pattern).backtrack_limit(100_000).build();
    compiled.map_err(|error| format!("the expression {pattern:?} cannot be compiled: {error}"))
}
