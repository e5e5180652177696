//! The rules: those that are built in, and those of a directory.

use super::{
    condition::Condition,
    group::Verdict,
    rule::{Formal, Rule, Severity},
};
use serde::Deserialize;
use std::{
    cmp::Reverse,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The built-in catalogue.
const BUILT_IN: [(&str, &str); 8] = [
    ("channels.toml", include_str!("rules/channels.toml")),
    ("sync.toml", include_str!("rules/sync.toml")),
    ("contexts.toml", include_str!("rules/contexts.toml")),
    ("timers.toml", include_str!("rules/timers.toml")),
    ("connections.toml", include_str!("rules/connections.toml")),
    ("resident.toml", include_str!("rules/resident.toml")),
    ("running.toml", include_str!("rules/running.toml")),
    ("suspects.toml", include_str!("rules/suspects.toml")),
];
/// Bytes of a file of rules; all of the built-in ones together are less than a tenth of that.
const MAX_FILE: u64 = 1 << 20;

/// Why rules cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// A file or directory cannot be read.
    #[error("cannot read the rules in {path}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What stands in a file is no rule.
    #[error("{file}:{line}: {what}; see sfgi leaks --help for the form of a rule")]
    Bad {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// Two rules of one set have the same id.
    #[error("{file}: there are two rules with the id {id}: give one of them another id")]
    Twice {
        /// The file with the second one.
        file: String,
        /// The id.
        id: String,
    },
    /// A file is too large to be one of rules.
    #[error("{path} is larger than {MAX_FILE} bytes: that is no file of rules")]
    Large {
        /// Which one.
        path: PathBuf,
    },
}

/// Rules in the order in which they are asked.
#[derive(Clone, Debug)]
pub struct Rules(Vec<Arc<Rule>>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    rule: Vec<Entry>,
}

/// A rule as it stands in a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    class: String,
    title: String,
    #[serde(default)]
    priority: i32,
    severity: Severity,
    #[serde(default)]
    gives: Gives,
    explanation: String,
    fix: String,
    formal: Formal,
    #[serde(rename = "match")]
    condition: Condition,
}

/// What a rule can say without a proof.
#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Gives {
    #[default]
    Likely,
    Suspect,
}

impl Rules {
    /// The built-in ones.
    ///
    /// # Errors
    /// None of those that are released: a test reads them.
    pub fn built_in() -> Result<Rules, RulesError> {
        let mut rules = Vec::new();
        for (file, text) in BUILT_IN {
            add(&mut rules, file, text)?;
        }
        Ok(Rules::in_order(rules))
    }

    /// These, and those of all `.toml` files of a directory: a rule with the id of one of these takes its
    /// place.
    ///
    /// # Errors
    /// The directory or one of its files cannot be read, or holds what is no rule.
    pub fn with_directory(self, directory: &Path) -> Result<Rules, RulesError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| RulesError::Read { path, source }
        };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(failed(directory))? {
            let path = entry.map_err(failed(directory))?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                files.push(path);
            }
        }
        files.sort();
        let mut added = Vec::new();
        for path in files {
            if std::fs::metadata(&path).map_err(failed(&path))?.len() > MAX_FILE {
                return Err(RulesError::Large { path });
            }
            let text = std::fs::read_to_string(&path).map_err(failed(&path))?;
            add(&mut added, &path.display().to_string(), &text)?;
        }
        let kept = self.0.into_iter().filter(|rule| added.iter().all(|new| new.id != rule.id));
        Ok(Rules::in_order(kept.chain(added.clone()).collect()))
    }

    fn in_order(mut rules: Vec<Arc<Rule>>) -> Rules {
        rules.sort_by_key(|rule| Reverse(rule.priority));
        Rules(rules)
    }

    /// The first one first.
    pub fn iter(&self) -> std::slice::Iter<'_, Arc<Rule>> {
        self.0.iter()
    }
}

/// Adds the rules of a file.
fn add(rules: &mut Vec<Arc<Rule>>, file: &str, text: &str) -> Result<(), RulesError> {
    let document: Document = toml::from_str(text).map_err(|err| RulesError::Bad {
        file: file.to_owned(),
        line: err.span().map_or(1, |span| line_of(text, span.start)),
        what: err.message().lines().collect::<Vec<_>>().join(" "),
    })?;
    for entry in document.rule {
        if rules.iter().any(|rule| rule.id == entry.id) {
            return Err(RulesError::Twice { file: file.to_owned(), id: entry.id });
        }
        if let Some(what) = entry.objection() {
            let at = text.find(&format!("\"{}\"", entry.id)).unwrap_or(0);
            return Err(RulesError::Bad { file: file.to_owned(), line: line_of(text, at), what });
        }
        rules.push(Arc::new(entry.into_rule()));
    }
    Ok(())
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

impl Entry {
    /// What the form allows and makes no sense.
    fn objection(&self) -> Option<String> {
        let name = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        };
        let part = |part: Option<f64>| part.is_none_or(|part| (0.0..=1.0).contains(&part));
        let condition = &self.condition;
        if !name(&self.id) || !name(&self.class) {
            return Some(format!(
                "id {:?} and class {:?}: both are made of small letters, digits and hyphens",
                self.id, self.class
            ));
        }
        if !part(condition.busy) || !part(condition.yielding) || !part(condition.moved) {
            return Some(format!("rule {}: busy, yielding and moved are parts, from 0 to 1", self.id));
        }
        if condition.in_order && condition.frames.is_empty() {
            return Some(format!("rule {}: in_order without frames says nothing", self.id));
        }
        None
    }

    fn into_rule(self) -> Rule {
        Rule {
            id: self.id,
            class: self.class,
            title: self.title,
            priority: self.priority,
            severity: self.severity,
            gives: match self.gives {
                Gives::Likely => Verdict::Likely,
                Gives::Suspect => Verdict::Suspect,
            },
            explanation: one_line(&self.explanation),
            fix: one_line(&self.fix),
            formal: self.formal,
            condition: self.condition,
        }
    }
}

/// Texts are broken in the file where it reads best.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
