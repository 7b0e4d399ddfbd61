//! What programs put before the names of tensors, and what other names tell.

use std::collections::{BTreeMap, BTreeSet};

/// What wraps a module, and its name with it, wherever in a name.
const WRAPPERS: [&str; 4] = ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "module."];
/// The base model within the causal language model.
const BASE: &str = "model.";
const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// The name without the parts that wrappers put there.
fn unwrapped(name: &str) -> String {
    let mut rest = name;
    let mut out = String::with_capacity(name.len());
    while !rest.is_empty() {
        match WRAPPERS.iter().find_map(|wrapper| rest.strip_prefix(wrapper)) {
            Some(shorter) => rest = shorter,
            None => {
                let end = rest.find('.').map_or(rest.len(), |dot| dot + 1);
                out.push_str(&rest[..end]);
                rest = &rest[end..];
            }
        }
    }
    out
}

/// The names that stored tensors stand for: as they are; else without what
/// `torch.compile`, data parallelism and checkpointing put before them; else
/// also with one `model.` less (a model in a module of that name) or more (the
/// base model alone, as transformers reads it): the first under which `wanted`
/// are all there and no two are one. `None` if there is no such reading.
///
/// With `tied`, a file with the output projection alone holds the embedding, as
/// in transformers.
pub(super) fn readings(
    stored: &BTreeSet<&str>,
    wanted: &BTreeSet<&str>,
    tied: bool,
) -> Option<BTreeMap<String, String>> {
    let less = |name: &str| unwrapped(name).strip_prefix(BASE).map_or_else(|| unwrapped(name), str::to_owned);
    let more = |name: &str| match unwrapped(name) {
        name if name.starts_with(BASE) || name == HEAD => name,
        name => format!("{BASE}{name}"),
    };
    let ways: [&dyn Fn(&str) -> String; 4] = [&str::to_owned, &unwrapped, &less, &more];
    ways.into_iter().find_map(|way| {
        let mut names: BTreeMap<String, String> = stored.iter().map(|name| ((*name).to_owned(), way(name))).collect();
        let mut image: BTreeSet<&str> = names.values().map(String::as_str).collect();
        if image.len() != stored.len() {
            return None;
        }
        if tied && !image.contains(EMBEDDING) && image.remove(HEAD) {
            image.insert(EMBEDDING);
        }
        if !wanted.is_subset(&image) {
            return None;
        }
        if tied && !names.values().any(|name| name == EMBEDDING) {
            names.values_mut().filter(|name| *name == HEAD).for_each(|name| EMBEDDING.clone_into(name));
        }
        Some(names)
    })
}

/// What an unexpected name tells of the file.
pub(super) fn hint(name: &str) -> &'static str {
    let quantized = [
        ".qweight",
        ".qzeros",
        ".scales",
        ".g_idx",
        ".absmax",
        ".quant_map",
        ".weight_scale",
        ".weight_scale_inv",
        ".weight_packed",
        ".input_scale",
        "_blocks",
        "_scales",
        ".weight_zero_point",
        ".biases",
    ];
    if quantized.iter().any(|end| name.ends_with(end)) || name.contains(".quant_state.") {
        "the weights are quantised, which is not supported; give the model that they were made from, or dequantise \
         them first"
    } else if name.contains("lora_") || name.contains(".base_layer.") {
        "an adapter was saved with the model; give base and adapter to `spin-fit merge`"
    } else if WRAPPERS.iter().any(|wrapper| name.contains(wrapper)) {
        "names have what `torch.compile` (`_orig_mod.`) or data parallelism (`module.`) put before them, and without \
         it they are not those that config.json describes, either; save the unwrapped model"
    } else {
        "config.json describes no such tensor; the configuration does not belong to these weights"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_are_taken_off_where_the_rest_fits() {
        let wanted = BTreeSet::from(["model.embed_tokens.weight", "model.layers.0.q.weight", "lm_head.weight"]);
        for form in [
            ["model.embed_tokens.weight", "model.layers.0.q.weight", "lm_head.weight"],
            ["_orig_mod.model.embed_tokens.weight", "_orig_mod.model.layers.0.q.weight", "_orig_mod.lm_head.weight"],
            ["module.model.embed_tokens.weight", "module.model.layers.0.q.weight", "module.lm_head.weight"],
            ["module._orig_mod.model.embed_tokens.weight", "model.layers.0._orig_mod.q.weight", "lm_head.weight"],
            ["model.model.embed_tokens.weight", "model.model.layers.0.q.weight", "model.lm_head.weight"],
            ["embed_tokens.weight", "layers.0.q.weight", "lm_head.weight"],
        ] {
            let names = readings(&form.into(), &wanted, false).unwrap();
            assert_eq!(names.values().map(String::as_str).collect::<BTreeSet<_>>(), wanted, "{form:?}");
        }
        assert!(readings(&["_orig_mod.model.embed_tokens.weight"].into(), &wanted, false).is_none());
        // Two that would become one.
        let twice = ["a.weight", "_orig_mod.a.weight", "_orig_mod.b.weight"].into();
        assert!(readings(&twice, &["a.weight", "b.weight"].into(), false).is_none());
        let head = readings(&["lm_head.weight"].into(), &["model.embed_tokens.weight"].into(), true).unwrap();
        assert_eq!(head["lm_head.weight"], "model.embed_tokens.weight");
    }
}
