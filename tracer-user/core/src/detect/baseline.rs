//! Leaks that are known and accepted: a file with their ids, made by `--write-baseline`.

use super::{Fingerprint, Report};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// The schema name in a baseline.
const SCHEMA: &str = "sfgi.leaks-baseline/1";

/// Why a text is no baseline.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    /// It is no JSON of that form.
    #[error("it is no baseline ({0}): make one with --write-baseline")]
    Form(#[from] serde_json::Error),
    /// It is of another schema.
    #[error("its schema is {0}, this sfgi reads {SCHEMA}: make it anew with --write-baseline")]
    Schema(String),
    /// An id is none.
    #[error("{0}")]
    Id(String),
}

/// The accepted leaks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baseline {
    ids: HashSet<Fingerprint>,
}

#[derive(Deserialize, Serialize)]
struct Document {
    schema: String,
    accepted: Vec<Accepted>,
}

/// The id decides; the rest tells people what it stands for.
#[derive(Deserialize, Serialize)]
struct Accepted {
    id: String,
    class: String,
    #[serde(default)]
    title: String,
}

impl Baseline {
    /// From the text of a file.
    ///
    /// # Errors
    /// It is none, or of another schema.
    pub fn parse(text: &str) -> Result<Baseline, BaselineError> {
        let document: Document = serde_json::from_str(text)?;
        if document.schema != SCHEMA {
            return Err(BaselineError::Schema(document.schema));
        }
        let ids = document.accepted.iter().map(|entry| entry.id.parse());
        Ok(Baseline { ids: ids.collect::<Result<_, _>>().map_err(BaselineError::Id)? })
    }

    /// The text of a baseline with all groups of a report, each id once, sorted: it belongs under version
    /// control.
    pub fn text(report: &Report) -> String {
        let mut accepted: Vec<_> = report
            .groups
            .iter()
            .map(|group| {
                let (class, title) = (group.rule.class.clone(), group.rule.title.clone());
                Accepted { id: group.id.to_string(), class, title }
            })
            .collect();
        accepted.sort_by(|one, other| (&one.class, &one.id).cmp(&(&other.class, &other.id)));
        accepted.dedup_by(|one, other| one.id == other.id);
        let document = Document { schema: SCHEMA.to_owned(), accepted };
        let mut text = serde_json::to_string_pretty(&document).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Whether a leak is accepted.
    pub fn accepts(&self, id: Fingerprint) -> bool {
        self.ids.contains(&id)
    }
}
