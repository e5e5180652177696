//! What is wrong with a configuration, in one sentence, with the line.

use std::path::PathBuf;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {error}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not what the schema says.
    #[error("{}, line {line}: {what}", file.display())]
    Wrong {
        /// The file.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong, and what may be meant.
        what: String,
    },
    /// What stands there is understood, but makes no sense together; from the file, a flag or the environment.
    #[error("{0}")]
    Senseless(String),
}

impl ConfigError {
    /// An error of the TOML reader, with its line and with the key that may be meant.
    pub(super) fn of_toml(file: PathBuf, text: &str, error: &toml::de::Error) -> Self {
        let begin = error.span().map_or(0, |span| span.start);
        let line = text.bytes().take(begin).filter(|byte| *byte == b'\n').count() + 1;
        ConfigError::Wrong { file, line, what: with_suggestion(error.message()) }
    }
}

/// How like a key must be to one that exists to be suggested, between 0 and 1 (Jaro-Winkler).
const LIKE: f64 = 0.75;

/// serde says ``unknown field `intervall`, expected one of `interval`, `mode` ``: the names between backticks are the
/// unknown one, then all that exist. Nothing but the text tells them.
fn with_suggestion(message: &str) -> String {
    let message = message.lines().next().unwrap_or_default();
    if !message.starts_with("unknown field") && !message.starts_with("unknown variant") {
        return message.to_owned();
    }
    let mut names = message.split('`').skip(1).step_by(2);
    let Some(unknown) = names.next() else { return message.to_owned() };
    let known: Vec<&str> = names.collect();
    let what = if message.starts_with("unknown field") { "key" } else { "value" };
    let likeness = |name: &&str| strsim::jaro_winkler(unknown, name);
    let best = known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match best.filter(|best| likeness(best) >= LIKE) {
        Some(best) => format!("there is no {what} `{unknown}` here: did you mean `{best}`?"),
        None => format!("there is no {what} `{unknown}` here, only {}", known.join(", ")),
    }
}
