use regex::Regex;

use crate::PeftError;
use crate::config::{LoraConfig, Targets};

/// A layer that a config chooses, with its own rank and scale.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Target {
    pub(crate) path: String,
    pub(crate) r: i64,
    pub(crate) scale: f64,
}

/// The layers among `names` (the model's linear layers, head left out) that `config` chooses, in their order.
///
/// PEFT's rules: a list holds names or suffixes at a dot, a string is a regex for the whole name, and
/// `all-linear` is every linear layer but the head. Rank and alpha patterns match the end of a name.
pub(crate) fn resolve(config: &LoraConfig, names: &[String]) -> Result<Vec<Target>, PeftError> {
    let default = Targets::suffixes(&["q_proj", "v_proj"]);
    let asked = config.target_modules.as_ref().unwrap_or(&default);
    let chosen = Chooser::new(asked, "target_modules")?;
    let excluded = config.exclude_modules.as_ref().map(|t| Chooser::new(t, "exclude_modules")).transpose()?;
    let saved = modules_to_save(config);
    let in_layers = layer_filter(config)?;
    let ranks = pattern_regexes(&config.rank_pattern.0, "rank_pattern")?;
    let alphas = pattern_regexes(&config.alpha_pattern.0, "alpha_pattern")?;
    let targets: Vec<Target> = names
        .iter()
        .filter(|n| !excluded.as_ref().is_some_and(|e| e.matches(n)))
        .filter(|n| !saved.iter().any(|m| has_part(n, m)))
        .filter(|n| chosen.matches(n) && (matches!(asked, Targets::Pattern(_)) || in_layers(n)))
        .map(|name| {
            let r = first_match(&ranks, name).unwrap_or(config.r);
            let alpha = first_match(&alphas, name).unwrap_or(config.lora_alpha);
            Target { path: name.clone(), r, scale: config.scale(r, alpha) }
        })
        .collect();
    if targets.is_empty() {
        let asked = match asked {
            Targets::Suffixes(list) => format!("{list:?}"),
            Targets::Pattern(pattern) => format!("{pattern:?}"),
        };
        return Err(PeftError::Target { field: "target_modules", asked, existing: kinds(names) });
    }
    // PEFT lets a suffix that matches nothing pass when another one matches; a typo would then go unseen.
    if let Targets::Suffixes(list) = asked
        && let Some(lost) = list.iter().find(|s| !names.iter().any(|n| is_suffix(n, s)))
    {
        let asked = format!("{lost:?}");
        return Err(PeftError::Target { field: "target_modules", asked, existing: kinds(names) });
    }
    Ok(targets)
}

/// The modules that are trained whole.
pub(crate) fn modules_to_save(config: &LoraConfig) -> &[String] {
    config.modules_to_save.as_deref().unwrap_or(&[])
}

/// The last parts of layer names, each once, in order of appearance: what a target list may hold.
pub(crate) fn kinds(names: &[String]) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    for name in names {
        let kind = name.rsplit('.').next().unwrap_or(name);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds.join(", ")
}

/// Whether `name` is `suffix` or ends with it at a dot.
pub(crate) fn is_suffix(name: &str, suffix: &str) -> bool {
    name == suffix || name.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'))
}

/// Whether `part` is one or several whole dotted parts of `name`.
fn has_part(name: &str, part: &str) -> bool {
    format!(".{name}.").contains(&format!(".{part}."))
}

enum Chooser<'a> {
    All,
    Suffixes(&'a [String]),
    Whole(Regex),
}

impl<'a> Chooser<'a> {
    fn new(targets: &'a Targets, field: &'static str) -> Result<Self, PeftError> {
        Ok(match targets {
            Targets::Suffixes(list) => Chooser::Suffixes(list),
            Targets::Pattern(p) if p.eq_ignore_ascii_case("all-linear") => Chooser::All,
            Targets::Pattern(p) => Chooser::Whole(compile(&format!("^(?:{p})$"), field)?),
        })
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Chooser::All => true,
            Chooser::Suffixes(list) => list.iter().any(|s| is_suffix(name, s)),
            Chooser::Whole(regex) => regex.is_match(name),
        }
    }
}

fn compile(pattern: &str, field: &'static str) -> Result<Regex, PeftError> {
    Regex::new(pattern).map_err(|e| PeftError::Config(format!("{field}: {e} (look-around is not supported)")))
}

fn pattern_regexes<T: Copy>(
    entries: &[(String, T)],
    field: &'static str,
) -> Result<Vec<(Regex, T)>, PeftError> {
    entries
        .iter()
        .map(|(pattern, value)| Ok((compile(&format!(r"^(?:.*\.)?(?:{pattern})$"), field)?, *value)))
        .collect()
}

fn first_match<T: Copy>(entries: &[(Regex, T)], name: &str) -> Option<T> {
    entries.iter().find(|(regex, _)| regex.is_match(name)).map(|(_, value)| *value)
}

/// `layers_to_transform`: the first number in a name that stands after `layers_pattern` (or after any part).
fn layer_filter(config: &LoraConfig) -> Result<impl Fn(&str) -> bool + use<>, PeftError> {
    let wanted: Vec<u64> = config.layers_to_transform.as_ref().map_or(Vec::new(), |l| l.as_slice().to_vec());
    let before = match config.layers_pattern.as_ref().map(|p| p.as_slice().join("|")) {
        Some(names) if !names.is_empty() => format!("(?:{names})"),
        _ => r"[^.]*".to_owned(),
    };
    let regex = compile(&format!(r"^(?:.*?\.)?{before}\.(\d+)\."), "layers_pattern")?;
    Ok(move |name: &str| {
        wanted.is_empty()
            || regex
                .captures(name)
                .and_then(|c| c[1].parse::<u64>().ok())
                .is_some_and(|index| wanted.contains(&index))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{OneOrMany, Pattern};

    fn names() -> Vec<String> {
        let kinds = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.up_proj"];
        (0..3).flat_map(|i| kinds.map(|k| format!("model.layers.{i}.{k}"))).collect()
    }

    fn check(config: &LoraConfig, expect: &[&str]) {
        let found: Vec<String> = resolve(config, &names()).unwrap().into_iter().map(|t| t.path).collect();
        assert_eq!(found, expect.iter().map(|e| format!("model.layers.{e}")).collect::<Vec<_>>());
    }

    fn with(targets: Targets) -> LoraConfig {
        LoraConfig { target_modules: Some(targets), ..LoraConfig::default() }
    }

    #[test]
    fn layers_are_chosen_as_peft_chooses_them() {
        check(&with(Targets::suffixes(&["up_proj"])), &["0.mlp.up_proj", "1.mlp.up_proj", "2.mlp.up_proj"]);
        check(&with(Targets::suffixes(&["1.self_attn.q_proj"])), &["1.self_attn.q_proj"]);
        check(
            &with(Targets::Pattern(r".*\.2\..*(q|k)_proj".into())),
            &["2.self_attn.q_proj", "2.self_attn.k_proj"],
        );
        assert_eq!(resolve(&LoraConfig::all_linear(4, 8.0), &names()).unwrap().len(), 12);
        let only_last = LoraConfig {
            layers_to_transform: Some(OneOrMany::One(2)),
            ..with(Targets::suffixes(&["q_proj"]))
        };
        check(&only_last, &["2.self_attn.q_proj"]);
        let without = LoraConfig {
            exclude_modules: Some(Targets::Pattern(r".*\.(0|1)\..*".into())),
            ..with(Targets::suffixes(&["q_proj"]))
        };
        check(&without, &["2.self_attn.q_proj"]);
        check(
            &LoraConfig::default(),
            &[
                "0.self_attn.q_proj",
                "0.self_attn.v_proj",
                "1.self_attn.q_proj",
                "1.self_attn.v_proj",
                "2.self_attn.q_proj",
                "2.self_attn.v_proj",
            ],
        );
    }

    #[test]
    fn ranks_and_alphas_follow_their_patterns() {
        let config = LoraConfig {
            rank_pattern: Pattern(vec![(r"layers\.0\.self_attn\.q_proj".into(), 2), ("q_proj".into(), 16)]),
            alpha_pattern: Pattern(vec![("v_proj".into(), 32.0)]),
            ..LoraConfig::default()
        };
        let found = resolve(&config, &names()).unwrap();
        let shape: Vec<(i64, f64)> = found.iter().map(|t| (t.r, t.scale)).collect();
        assert_eq!(shape[..4], [(2, 4.0), (8, 4.0), (16, 0.5), (8, 4.0)]);
    }

    #[test]
    fn what_matches_nothing_is_an_error_that_lists_what_exists() {
        let check = |targets: Targets, expect: &str| {
            let error = resolve(&with(targets), &names()).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        check(Targets::suffixes(&["c_attn"]), "q_proj, k_proj, v_proj, up_proj");
        check(Targets::suffixes(&["q_proj", "gate_proj"]), "\"gate_proj\" matches no layer");
        check(Targets::suffixes(&["_proj"]), "matches no layer");
        check(Targets::Pattern("q_proj".into()), "matches no layer");
        check(Targets::Pattern("(?=x)".into()), "look-around");
    }
}
