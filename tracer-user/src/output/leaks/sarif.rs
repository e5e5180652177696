//! SARIF 2.1.0, the form in which code hosts and editors take findings: a rule for each rule of the catalogue that
//! found something, a result for each group. The id of a group is its partial fingerprint, by which a code host knows a
//! leak again.

use super::{
    Document,
    text::{unlooked, unlooked_pools},
};
use crate::output::traceback::clean;
use serde_json::{Value, json};
use sfgi_core::{detect::Rule, leaks::LeakView, names::Site};
use std::{
    io::{self, Write},
    sync::Arc,
};

const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";

/// Writes the document as a whole: it has one entry for each group, which are few.
pub fn write_sarif(mut out: impl Write, document: &Document<'_>) -> io::Result<()> {
    let leaks = document.leaks;
    let mut rules: Vec<&Arc<Rule>> = Vec::new();
    let mut results = Vec::new();
    for group in &leaks.groups {
        let rule = rules.iter().position(|rule| rule.id == group.rule.id).unwrap_or_else(|| {
            rules.push(&group.rule);
            rules.len() - 1
        });
        results.push(result(group, rule));
    }
    let notes = [
        leaks.observed.doubt.as_ref().map(|doubt| format!("nothing counts as proven: {doubt}")),
        leaks.incomplete(),
        leaks.objects_doubt.as_deref().map(unlooked),
        leaks.pools_doubt.as_deref().map(unlooked_pools),
    ];
    let notes: Vec<Value> = notes
        .into_iter()
        .flatten()
        .map(|text| json!({"level": "warning", "message": {"text": text}}))
        .collect();
    let driver = json!({
        "name": "sfgi",
        "version": env!("CARGO_PKG_VERSION"),
        "semanticVersion": env!("CARGO_PKG_VERSION"),
        "rules": rules.into_iter().map(|rule| descriptor(rule)).collect::<Vec<_>>(),
    });
    let document = json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": driver},
            "invocations": [{"executionSuccessful": true, "toolExecutionNotifications": notes}],
            "columnKind": "unicodeCodePoints",
            "results": results,
            "properties": {"summary": super::summary(leaks), "goVersion": document.go_version},
        }],
    });
    serde_json::to_writer_pretty(&mut out, &document)?;
    out.write_all(b"\n")?;
    out.flush()
}

fn descriptor(rule: &Rule) -> Value {
    let formal = &rule.formal;
    json!({
        "id": rule.id,
        "name": rule.class,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.explanation},
        "help": {
            "text": format!("{} Fix: {}", rule.explanation, rule.fix),
            "markdown": format!("{}\n\n**Fix:** {}", rule.explanation, rule.fix),
        },
        // `Severity` is serialised as error, warning or note, which are SARIF's levels.
        "defaultConfiguration": {"level": rule.severity},
        "properties": {"tags": ["goroutine-leak", rule.class], "formal": formal},
    })
}

fn result(group: &LeakView, rule: usize) -> Value {
    let what = group.things();
    let frames = if group.is_of_goroutines() { &group.stack[..] } else { &[] };
    let text = format!(
        "{} {what} ({}): {}. {}.",
        group.count,
        group.verdict,
        group.title,
        group.evidence.join("; ")
    );
    let mut value = json!({
        "ruleId": group.rule.id,
        "ruleIndex": rule,
        "level": group.rule.severity,
        "message": {"text": clean(&text)},
        "locations": group.wait_site.iter().map(location).collect::<Vec<_>>(),
        "partialFingerprints": {"sfgiGroup/v1": group.id},
        "occurrenceCount": group.count.max(1),
        "properties": {
            "verdict": group.verdict,
            "class": group.rule.class,
            "pinnedBytes": group.pinned_bytes,
            "fix": group.rule.fix,
        },
    });
    let Some(object) = value.as_object_mut() else { return value };
    if !frames.is_empty() {
        let frames: Vec<Value> = frames.iter().map(|site| json!({"location": location(site)})).collect();
        let message = group.goids.first().map(|goid| format!("goroutine {goid}")).unwrap_or_default();
        object.insert("stacks".to_owned(), json!([{"message": {"text": message}, "frames": frames}]));
    }
    if let Some(creator) = &group.created_by {
        let mut related = location(creator);
        if let Some(related) = related.as_object_mut() {
            related.insert("message".to_owned(), json!({"text": "created by this go statement"}));
        }
        object.insert("relatedLocations".to_owned(), json!([related]));
    }
    value
}

/// A place: the function, and the file if it is known.
fn location(site: &Site) -> Value {
    let logical = json!([{"fullyQualifiedName": clean(&site.func), "kind": "function"}]);
    if site.file.is_empty() {
        return json!({"logicalLocations": logical});
    }
    let artifact = json!({"uri": uri(&site.file)});
    let physical = match site.line {
        0 => json!({"artifactLocation": artifact}),
        line => json!({"artifactLocation": artifact, "region": {"startLine": line}}),
    };
    json!({"physicalLocation": physical, "logicalLocations": logical})
}

/// A file name as a URI reference (RFC 3986): `file:///src/main.go`. A path from a build with -trimpath stays relative.
fn uri(file: &str) -> String {
    let mut text = String::from(if file.starts_with('/') { "file://" } else { "" });
    for byte in file.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b'@' | b'+' => {
                text.push(byte.into());
            }
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}
