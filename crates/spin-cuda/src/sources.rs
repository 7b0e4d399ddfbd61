//! The sources, as they are compiled on first use.

/// A file of kernels.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// Its name without `.cu`.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
    /// What the names of its kernels begin with.
    pub kernels: &'static [&'static str],
}

macro_rules! source {
    ($name:literal: $($kernel:literal),*) => {
        Source {
            name: $name,
            text: include_str!(concat!("../kernels/", $name, ".cu")),
            kernels: &[$($kernel),*],
        }
    };
}

/// What the files include.
pub const HEADERS: &[(&str, &str)] = &[
    ("common.cuh", include_str!("../kernels/common.cuh")),
    ("attend.cuh", include_str!("../kernels/attend.cuh")),
    ("spans.cuh", include_str!("../kernels/spans.cuh")),
];

/// All files of kernels.
pub const SOURCES: &[Source] = &[
    source!("activation": "silu_", "gelu_"),
    source!("attention": "attention_forward_"),
    source!("attention_backward": "attention_delta_", "attention_queries_", "attention_keys_"),
    source!("attention_mma": "attention_mma_"),
    source!("attention_paged": "attention_paged_", "cache_append_"),
    source!("attention_tree": "attention_tree_"),
    source!("draw": "draw_tokens", "penalise"),
    source!("dropout": "dropout_"),
    source!("elementwise": "scale_", "add_scaled_", "add_bias_", "convert_"),
    source!("head": "head_logps", "head_gradient_"),
    source!("norm": "rms_norm_"),
    source!("optimizer": "adamw", "rmsprop"),
    source!("product": "product_"),
    source!("reduce": "column_parts_", "add_parts"),
    source!("rope": "rotate_"),
    source!("rows": "gather_", "add_segments_"),
    source!("score": "score_targets"),
    source!("squared_norm": "squared_norm_parts", "clip_factor"),
];

/// The file that has a kernel.
pub fn source_of(kernel: &str) -> Option<&'static Source> {
    SOURCES.iter().find(|source| source.kernels.iter().any(|begins| kernel.starts_with(begins)))
}

impl Source {
    /// The text with all that it includes in its place: what NVRTC is given, which looks for no files.
    pub fn whole(&self) -> String {
        let mut text = String::new();
        append(self.text, &mut Vec::new(), &mut text);
        text
    }
}

/// Appends lines, and once what they include.
fn append(part: &str, included: &mut Vec<&'static str>, text: &mut String) {
    for line in part.lines().filter(|line| *line != "#pragma once") {
        let Some(name) = line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"')) else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        // What only the host includes is no header of ours.
        if let Some((name, header)) = HEADERS.iter().find(|header| header.0 == name)
            && !included.contains(name)
        {
            included.push(name);
            append(header, included, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_sources_include_nothing() {
        for source in SOURCES {
            let whole = source.whole();
            assert!(!whole.contains("#include"), "{}", source.name);
            assert_eq!(whole.matches("struct bf16 {").count(), 1);
            let includes = |name: &str| source.text.contains(&format!("#include \"{name}\""));
            assert_eq!(whole.contains("void attend("), includes("attend.cuh"));
            assert_eq!(whole.contains("struct Span {"), includes("spans.cuh"));
            // A macro may join what follows to a name, so the last underscore need not stand there.
            for kernel in source.kernels {
                assert!(whole.contains(kernel.trim_end_matches('_')), "{kernel} of {}", source.name);
            }
        }
        assert_eq!(source_of("rms_norm_forward_float_bf16").map(|source| source.name), Some("norm"));
        assert!(source_of("nothing").is_none());
    }
}
