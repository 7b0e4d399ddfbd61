//! Which projections an adapter's settings mean.

use fancy_regex::Regex;

use super::config::LoraConfig;
use super::pattern::regex;

/// No projection has more inputs or outputs, and a larger number is a mistake.
const MAX_RANK: usize = 65_536;

/// The settings, ready to be asked about names.
pub(super) struct Targets<'a> {
    config: &'a LoraConfig,
    target: Option<Regex>,
    exclude: Option<Regex>,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
    layers: Vec<Regex>,
}

type Found<T> = std::result::Result<T, String>;

/// Whether an expression matches; one that takes too long is an error.
fn matches(expression: &Regex, name: &str) -> Found<bool> {
    expression.is_match(name).map_err(|error| format!("the expression {:?}: {error}", expression.as_str()))
}

/// Python's `re.fullmatch`.
fn full(pattern: &str) -> Found<Regex> {
    regex(pattern)?;
    regex(&format!(r"\A(?:{pattern})\z"))
}

/// PEFT's `get_pattern_key`: the end of a name, from a dot on.
fn end(pattern: &str) -> Found<Regex> {
    regex(pattern)?;
    regex(&format!(r"\A(.*\.)?({pattern})\z"))
}

fn ends_with(name: &str, end: &str) -> bool {
    name == end || name.strip_suffix(end).is_some_and(|rest| rest.ends_with('.'))
}

impl<'a> Targets<'a> {
    /// Compiles the expressions.
    ///
    /// # Errors
    ///
    /// A sentence on one that cannot be.
    pub fn of(config: &'a LoraConfig) -> Found<Self> {
        let patterns = &config.patterns;
        let of = |key: &'static str| move |error: String| format!("`{key}`: {error}");
        let ends = patterns.ranks.iter().map(|(key, rank)| Ok((end(key)?, *rank)));
        let alphas = patterns.alphas.iter().map(|(key, alpha)| Ok((end(key)?, *alpha)));
        let before = |pattern: &String| {
            regex(pattern)?;
            regex(&format!(r"\A(?:^|.*?\.){pattern}\.(?P<idx>\d+)\."))
        };
        // The first number is the layer's.
        let any = || regex(r"\A.*?\.[^.]*\.(?P<idx>\d+)\.").map(|any| vec![any]);
        let layers = match patterns.layers_pattern.is_empty() {
            true => any(),
            false => patterns.layers_pattern.iter().map(before).collect(),
        };
        Ok(Self {
            target: patterns.target.as_deref().map(full).transpose().map_err(of("target_modules"))?,
            exclude: patterns.exclude_pattern.as_deref().map(full).transpose().map_err(of("exclude_modules"))?,
            ranks: ends.collect::<Found<_>>().map_err(of("rank_pattern"))?,
            alphas: alphas.collect::<Found<_>>().map_err(of("alpha_pattern"))?,
            layers: layers.map_err(of("layers_pattern"))?,
            config,
        })
    }

    /// Whether a module has an adapter: PEFT's `check_target_module_exists`.
    ///
    /// # Errors
    ///
    /// A sentence on an expression that takes too long.
    pub fn has(&self, module: &str) -> Found<bool> {
        let patterns = &self.config.patterns;
        let excluded = match &self.exclude {
            Some(expression) => matches(expression, module)?,
            None => patterns.exclude.iter().any(|name| ends_with(module, name)),
        };
        if excluded {
            return Ok(false);
        }
        if let Some(expression) = &self.target {
            return matches(expression, module);
        }
        let names = &self.config.target_modules;
        // A name in full needs no layer.
        if names.iter().any(|name| name == module) {
            return Ok(true);
        }
        if !names.iter().any(|name| name == "all-linear" || ends_with(module, name)) {
            return Ok(false);
        }
        Ok(patterns.layers.is_empty() || self.layer(module)?.is_some_and(|layer| patterns.layers.contains(&layer)))
    }

    fn layer(&self, module: &str) -> Found<Option<usize>> {
        for expression in &self.layers {
            let found = expression.captures(module).map_err(|error| format!("`layers_pattern`: {error}"))?;
            if let Some(found) = found {
                return Ok(found.name("idx").and_then(|index| index.as_str().parse().ok()));
            }
        }
        Ok(None)
    }

    /// The rank and the factor of a module's adapter.
    ///
    /// # Errors
    ///
    /// A sentence on an expression that takes too long.
    pub fn rank_and_scale(&self, module: &str) -> Found<(usize, f64)> {
        let rank = first(&self.ranks, module)?.unwrap_or(self.config.r);
        let alpha = first(&self.alphas, module)?.unwrap_or(self.config.lora_alpha);
        Ok((rank, self.config.scale_of(rank, alpha)))
    }
}

impl LoraConfig {
    /// Whether the numbers make sense.
    ///
    /// # Errors
    ///
    /// A sentence on what does not.
    pub fn check(&self) -> std::result::Result<(), String> {
        if !(1..=MAX_RANK).contains(&self.r) {
            return Err(format!("`r` must be at least 1 and at most {MAX_RANK}, not {}", self.r));
        }
        if !(self.lora_alpha.is_finite() && self.lora_alpha > 0.0) {
            return Err(format!("`lora_alpha` must be positive, not {}", self.lora_alpha));
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return Err(format!("`lora_dropout` must be at least 0 and below 1, not {}", self.lora_dropout));
        }
        let patterns = &self.patterns;
        if let Some((key, rank)) = patterns.ranks.iter().find(|(_, rank)| !(1..=MAX_RANK).contains(rank)) {
            return Err(format!("`rank_pattern` of {key:?} must be at least 1 and at most {MAX_RANK}, not {rank}"));
        }
        if let Some((key, alpha)) = patterns.alphas.iter().find(|(_, alpha)| !(alpha.is_finite() && *alpha > 0.0)) {
            return Err(format!("`alpha_pattern` of {key:?} must be positive, not {alpha}"));
        }
        // As PEFT has it.
        if patterns.target.is_some() && !(patterns.layers.is_empty() && patterns.layers_pattern.is_empty()) {
            return Err("`layers_to_transform` and `layers_pattern` go with a list of `target_modules` only".to_owned());
        }
        if patterns.layers.is_empty() && !patterns.layers_pattern.is_empty() {
            return Err("`layers_pattern` goes with `layers_to_transform` only".to_owned());
        }
        Targets::of(self).map(|_| ())
    }
}

fn first<T: Copy>(of: &[(Regex, T)], module: &str) -> Found<Option<T>> {
    for (expression, value) in of {
        if matches(expression, module)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}
