//! What of the configuration the core of the agent is told.

use super::{Config, ConfigError, Matching};
use crate::agent::settings::{Budget, Matcher, ProcessRule, Raise, Settings, Thresholds};
use regex::{Regex, RegexBuilder};
use sfgi_core::detect::Rules;
use std::sync::Arc;

/// The size of a compiled regular expression: what stands in a rule needs a few kilobytes.
const REGEX_SIZE: usize = 1 << 20;

impl Config {
    /// The settings of the core. Excluding rules come first; where only some processes are wanted, a rule
    /// that excludes all others comes last.
    ///
    /// # Errors
    /// A regular expression is none, or the rules of leaks cannot be read.
    pub fn settings(&self) -> Result<Settings, ConfigError> {
        let built_in = Rules::built_in();
        let catalogue = match &self.leaks.rules {
            Some(directory) => built_in.and_then(|rules| rules.with_directory(directory)),
            None => built_in,
        };
        let catalogue = catalogue.map_err(|error| ConfigError::Senseless(format!("leaks.rules: {error}")))?;
        Ok(Settings {
            interval: self.scan.interval,
            budget: Budget {
                node: self.budget.node,
                process: self.budget.process.unwrap_or(self.budget.node),
            },
            mode: self.scan.mode,
            rules: self.process_rules()?,
            raise: Raise {
                on_finding: self.raise.on_finding,
                hold: self.raise.hold,
                cool_down: self.raise.cool_down,
            },
            thresholds: Thresholds { min_age: self.leaks.min_age, min_count: self.leaks.min_count },
            top: self.metrics.sites,
            remember: self.store.file.is_some(),
            ..Settings::new(Arc::new(catalogue))
        })
    }

    fn process_rules(&self) -> Result<Vec<ProcessRule>, ConfigError> {
        let mut rules = Vec::new();
        for matching in &self.exclude {
            rules.push(ProcessRule {
                when: matcher("exclude", matching)?,
                exclude: true,
                ..ProcessRule::default()
            });
        }
        for rule in &self.rule {
            rules.push(ProcessRule {
                when: matcher("rule.match", &rule.matching)?,
                exclude: false,
                mode: rule.mode,
                service: rule.service.as_deref().map(Arc::from),
                interval: rule.interval,
                raise: rule.raise,
            });
        }
        for matching in &self.include {
            rules.push(ProcessRule { when: matcher("include", matching)?, ..ProcessRule::default() });
        }
        if !self.include.is_empty() {
            rules.push(ProcessRule { exclude: true, ..ProcessRule::default() });
        }
        Ok(rules)
    }
}

fn matcher(section: &str, matching: &Matching) -> Result<Matcher, ConfigError> {
    if *matching == Matching::default() {
        let what = format!(
            "a section {section} matches nothing in particular: give exe, module, unit, container or pod"
        );
        return Err(ConfigError::Senseless(what));
    }
    let compiled = |key: &str, text: &Option<String>| {
        text.as_deref().map(|text| compile(&format!("{section}.{key}"), text)).transpose()
    };
    Ok(Matcher {
        exe: compiled("exe", &matching.exe)?,
        module: compiled("module", &matching.module)?,
        unit: compiled("unit", &matching.unit)?,
        container: compiled("container", &matching.container)?,
        pod: compiled("pod", &matching.pod)?,
    })
}

fn compile(key: &str, text: &str) -> Result<Regex, ConfigError> {
    RegexBuilder::new(text).size_limit(REGEX_SIZE).build().map_err(|error| {
        // It draws a picture; what is wrong stands in its last line.
        let told = error.to_string();
        let why = told.lines().last().unwrap_or_default().trim_start_matches("error: ");
        let hint = if text.starts_with('*') { "; for anything at all write .*" } else { "" };
        ConfigError::Senseless(format!("{key} is {text:?}, which is no regular expression: {why}{hint}"))
    })
}

/// `*` (anything, also nothing) and `?` (one character) for the whole text.
pub(in crate::agent) fn glob(text: &str) -> Result<Regex, ConfigError> {
    let escaped = regex::escape(text).replace(r"\*", ".*").replace(r"\?", ".");
    compile("alerts.service.name", &format!("(?s)^{escaped}$"))
}
