//! Which targets a section of the configuration is about, and the plan that follows for one of them.

use super::{Config, schema::some_time};
use crate::agent::picture::Identity;
use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Deserializer, de::Error as _};
use sfgi_core::event::Mode;
use std::{str::FromStr, sync::Arc, time::Duration};

/// The limit of a compiled regular expression, bytes. A rule needs a few kilobytes; nested repetitions like
/// `(a{999}){999}` need many times that.
const REGEX_SIZE: usize = 1 << 18;

/// Conditions on a target. All that are given must hold; a target that lacks the property asked for does not match.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Matching {
    /// The executable's path in the target's own mount namespace.
    pub exe: Option<Pattern>,
    /// The import path of the main package, or the path of the main module.
    pub module: Option<Pattern>,
    pub unit: Option<Pattern>,
    pub container: Option<Pattern>,
    /// The pod as `namespace/name`; its uid where the node does not tell both names.
    pub pod: Option<Pattern>,
}

/// Settings for the targets that match.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    #[serde(rename = "match")]
    pub matching: Matching,
    /// Replaces the name that the target's environment gives, in metrics and alerts.
    pub service: Option<String>,
    /// `None`: as `scan.mode`.
    pub mode: Option<Mode>,
    #[serde(deserialize_with = "some_time")]
    pub interval: Option<Duration>,
    /// Whether a finding may raise the mode for a while; `None`: as `raise.on_finding`.
    pub raise: Option<bool>,
}

/// A regular expression that matches anywhere in the text, unless `^` and `$` bind it.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

/// A pattern for the whole text: `*` is any text, also none, `?` one character.
#[derive(Clone, Debug)]
pub struct Glob(Regex);

/// Why a text is no [`Pattern`] and no [`Glob`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no regular expression: {why}")]
pub struct PatternError {
    text: String,
    why: String,
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Pattern, PatternError> {
        compile(text).map(Pattern)
    }
}

impl FromStr for Glob {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Glob, PatternError> {
        // `(?s)`: names come from targets and may have line ends.
        let escaped = regex::escape(text).replace(r"\*", ".*").replace(r"\?", ".");
        compile(&format!("(?s)^{escaped}$")).map(Glob)
    }
}

fn compile(text: &str) -> Result<Regex, PatternError> {
    RegexBuilder::new(text).size_limit(REGEX_SIZE).build().map_err(|error| {
        // The error's text draws the expression with a marker over several lines; only its last line says what is
        // wrong.
        let told = error.to_string();
        let why = told.lines().last().unwrap_or_default().trim_start_matches("error: ");
        let hint = if text.starts_with('*') { "; for anything at all write .*" } else { "" };
        PatternError { text: text.to_owned(), why: format!("{why}{hint}") }
    })
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl PartialEq for Glob {
    fn eq(&self, other: &Glob) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Pattern, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Glob {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Glob, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

impl Pattern {
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl Glob {
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl Matching {
    /// Whether no condition is given: it would match every target.
    pub(super) fn is_empty(&self) -> bool {
        *self == Matching::default()
    }

    fn fits(&self, identity: &Identity) -> bool {
        let one = |asked: &Option<Pattern>, told: Option<&str>| {
            asked.as_ref().is_none_or(|pattern| told.is_some_and(|told| pattern.is_match(told)))
        };
        let module = self.module.as_ref().is_none_or(|pattern| {
            // An empty name means that the binary does not tell it; an unbound pattern would match that.
            [&identity.package, &identity.module]
                .iter()
                .any(|name| !name.is_empty() && pattern.is_match(name))
        });
        let pod = identity.pod.as_ref().map(|pod| match (&pod.namespace, &pod.name) {
            (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
            _ => pod.uid.clone(),
        });
        one(&self.exe, Some(&identity.exe.to_string_lossy()))
            && module
            && one(&self.unit, identity.unit.as_deref())
            && one(&self.container, identity.container.as_deref())
            && one(&self.pod, pod.as_deref())
    }
}

/// What the configuration says about one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) exclude: bool,
    pub(crate) mode: Mode,
    /// The name that a rule gives; `None`: the target's own.
    pub(crate) service: Option<Arc<str>>,
    pub(crate) interval: Duration,
    pub(crate) raise: bool,
}

impl Config {
    /// The longest time between two scans that any target can have.
    pub(crate) fn longest_interval(&self) -> Duration {
        let of_rules = self.rule.iter().filter_map(|rule| rule.interval);
        of_rules.fold(self.scan.interval, Duration::max)
    }

    /// The plan for one target. `exclude` wins over everything; of the rules the first that matches holds. Where
    /// `include` has entries, only targets that match one of them or a rule are watched.
    pub(crate) fn plan(&self, identity: &Identity) -> Plan {
        let fits = |matching: &Matching| matching.fits(identity);
        let rule = self.rule.iter().find(|rule| fits(&rule.matching));
        let included = self.include.is_empty() || rule.is_some() || self.include.iter().any(fits);
        Plan {
            exclude: !included || self.exclude.iter().any(fits),
            mode: rule.and_then(|rule| rule.mode).unwrap_or(self.scan.mode),
            service: rule.and_then(|rule| rule.service.as_deref()).map(Arc::from),
            interval: rule.and_then(|rule| rule.interval).unwrap_or(self.scan.interval),
            raise: rule.and_then(|rule| rule.raise).unwrap_or(self.raise.on_finding),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::picture::Pod;

    fn pattern(text: &str) -> Option<Pattern> {
        Some(text.parse().unwrap())
    }

    fn module(text: &str) -> Matching {
        Matching { module: pattern(text), ..Matching::default() }
    }

    fn package(name: &str) -> Identity {
        Identity { package: name.to_owned(), ..Identity::default() }
    }

    #[test]
    fn the_first_rule_that_fits_holds_and_exclude_is_stronger() {
        let rule = |matching, mode, raise| Rule { matching, mode, raise, ..Rule::default() };
        let config = Config {
            rule: vec![
                rule(module("^shop/cart$"), Some(Mode::Wait), Some(false)),
                rule(module("^shop"), Some(Mode::Life), None),
            ],
            exclude: vec![module("/pay$")],
            ..Config::default()
        };
        let plan = |name| config.plan(&package(name));
        assert_eq!((plan("shop/cart").mode, plan("shop/cart").exclude), (Mode::Wait, false));
        assert!(!plan("shop/cart").raise && plan("other").raise);
        assert_eq!(plan("shop/list").mode, Mode::Life);
        assert!(plan("shop/pay").exclude);
        assert_eq!((plan("other").mode, plan("other").exclude), (Mode::Poll, false));
    }

    #[test]
    fn only_what_is_included_or_has_a_rule_is_watched() {
        let config = Config {
            include: vec![module("^shop")],
            rule: vec![Rule { matching: module("^other$"), ..Rule::default() }],
            ..Config::default()
        };
        let watched = ["shop/cart", "other", "another"].map(|name| !config.plan(&package(name)).exclude);
        assert_eq!(watched, [true, true, false]);
    }

    #[test]
    fn everything_that_is_asked_must_hold() {
        let pod =
            Pod { uid: "u".into(), name: Some("n".into()), namespace: Some("s".into()), ..Pod::default() };
        let identity = Identity { exe: "/bin/a".into(), pod: Some(pod), ..Identity::default() };
        let matching = |exe, pod, unit| Matching { exe, pod, unit, ..Matching::default() };
        assert!(matching(pattern("^/bin/"), pattern("^s/n$"), None).fits(&identity));
        assert!(!matching(pattern("^/bin/"), pattern("^u$"), None).fits(&identity));
        assert!(!matching(pattern("^/bin/"), None, pattern("")).fits(&identity));
    }

    #[test]
    fn a_glob_is_about_the_whole_text() {
        let service: Glob = "shop-?*".parse().unwrap();
        assert!(
            service.is_match("shop-12") && !service.is_match("shop-") && !service.is_match("workshop-12")
        );
    }
}
