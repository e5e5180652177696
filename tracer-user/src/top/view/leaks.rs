//! What was found leaked.

use super::Line;
use crate::output::count;
use sfgi_core::detect::Verdict;

/// Goroutines that belong together.
#[derive(Clone, Debug)]
pub struct LeakGroup {
    /// How sure it is.
    pub verdict: Verdict,
    /// Of which class.
    pub class: String,
    /// What it is, in a line.
    pub title: String,
    /// How many.
    pub count: u64,
    /// Where they wait; empty: not known.
    pub place: String,
    /// Some of their goids.
    pub goids: Vec<u64>,
    /// Why it is believed, in sentences.
    pub evidence: Vec<String>,
    /// What to do.
    pub fix: String,
}

/// How far the search is.
#[derive(Clone, Debug, Default)]
pub enum Leaks {
    /// Nobody has asked.
    #[default]
    Unknown,
    /// It goes on: how far, in words.
    Searching(String),
    /// It could not be done, and why.
    Failed(String),
    /// What was found, in a sentence, and the groups, the surest first.
    Found(String, Vec<LeakGroup>),
}

pub(super) fn lines(leaks: &Leaks) -> Vec<Line> {
    let mut lines = vec![Line::title("LEAKS")];
    match leaks {
        Leaks::Unknown => lines.push(Line::plain("Nobody has looked yet: L looks.")),
        Leaks::Searching(progress) => lines.push(Line::plain(format!("{progress} …"))),
        Leaks::Failed(why) => lines.push(Line::plain(format!("! {why}"))),
        Leaks::Found(summary, groups) => {
            lines.push(Line::plain(format!("{summary} (L looks again)")));
            groups.iter().for_each(|found| group(found, &mut lines));
        }
    }
    lines
}

fn group(group: &LeakGroup, lines: &mut Vec<Line>) {
    let LeakGroup { verdict, class, title, count: number, place, goids, evidence, fix } = group;
    lines.push(Line::plain(""));
    lines.push(Line::title(format!("{} × {verdict} {class}  {place}", count(*number))));
    lines.push(Line::plain(format!("  {title}")));
    let named: Vec<String> = goids.iter().map(u64::to_string).collect();
    if !named.is_empty() {
        let more = number.saturating_sub(goids.len() as u64);
        let more = if more > 0 { format!(" and {} more", count(more)) } else { String::new() };
        lines.push(Line::plain(format!("  goroutines {}{more}", named.join(", "))));
    }
    lines.extend(evidence.iter().map(|sentence| Line::plain(format!("  - {sentence}"))));
    lines.push(Line::plain(format!("  fix: {fix}")));
}
