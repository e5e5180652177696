//! What was found leaked.

use super::Line;
use crate::output::count;
use sfgi_core::leaks::LeakView;
use std::sync::Arc;

/// Goroutines of a group that are named.
const NAMED: usize = 10;

/// How far the search is.
#[derive(Clone, Debug, Default)]
pub enum LeakSearch {
    /// Nobody has asked.
    #[default]
    Unknown,
    /// It goes on: how far, in words.
    Searching(String),
    /// It could not be done, and why.
    Failed(String),
    /// What was found, in a sentence, and the groups, the surest first.
    Found(String, Arc<[LeakView]>),
}

pub(super) fn lines(leaks: &LeakSearch) -> Vec<Line> {
    let mut lines = vec![Line::title("LEAKS")];
    match leaks {
        LeakSearch::Unknown => lines.push(Line::plain("Nobody has looked yet: L looks.")),
        LeakSearch::Searching(progress) => lines.push(Line::plain(format!("{progress} …"))),
        LeakSearch::Failed(why) => lines.push(Line::plain(format!("! {why}"))),
        LeakSearch::Found(summary, groups) => {
            lines.push(Line::plain(format!("{summary} (L looks again)")));
            groups.iter().for_each(|found| group(found, &mut lines));
        }
    }
    lines
}

fn group(group: &LeakView, lines: &mut Vec<Line>) {
    let LeakView { verdict, rule, title, count: number, wait_site, goids, evidence, .. } = group;
    let place = wait_site.as_ref().map_or("", |site| &site.func);
    lines.push(Line::plain(""));
    lines.push(Line::title(format!("{} × {verdict} {}  {place}", count(*number), rule.class)));
    lines.push(Line::plain(format!("  {title}")));
    let named: Vec<String> = goids.iter().take(NAMED).map(u64::to_string).collect();
    if !named.is_empty() {
        let more = number.saturating_sub(named.len() as u64);
        let more = if more > 0 { format!(" and {} more", count(more)) } else { String::new() };
        lines.push(Line::plain(format!("  goroutines {}{more}", named.join(", "))));
    }
    lines.extend(evidence.iter().map(|sentence| Line::plain(format!("  - {sentence}"))));
    lines.push(Line::plain(format!("  fix: {}", rule.fix)));
}
