//! The panes that take the place of the table: one goroutine, leaks, the help.

use super::{Line, Look};
use crate::{
    output::count,
    top::{Cell, Column, Past, Picture},
};
use sfgi_core::{clock::duration, leaks::LeakView, model::What, names::Site};
use std::sync::Arc;

/// Frames (lines of a traceback that was read) shown of a stack: a recursion may have millions.
const MAX_FRAMES: usize = 100;

pub(super) fn detail_lines(picture: &Picture, look: &Look) -> Vec<Line> {
    let Some(detail) = &picture.detail else {
        return vec![Line::plain("The goroutine will be here in a moment.")];
    };
    let (target, goid) = detail.who;
    let pid = picture.heads.get(target).map_or(0, |head| head.pid);
    let thread = if detail.tid == 0 { String::new() } else { format!(", thread {}", detail.tid) };
    let age = match &detail.age {
        age @ Cell::Time(Some(_), _) => format!(" for {}", age.text(0)),
        _ => String::new(),
    };
    let mut lines = vec![
        Line::title(format!("GOROUTINE {goid} of PID {pid}: {}{age}{thread}", detail.state)),
        Line::plain(format!("runs       {}", detail.function)),
        Line::plain(format!("made by    {}{}", detail.creator.0, by(detail.creator.1))),
        Line::plain(format!(
            "on CPU     {}   in the run queue {}, at most {}",
            detail.on_cpu.text(0),
            detail.delays.0.text(0),
            detail.delays.1.text(0)
        )),
    ];
    let read = look.read.as_ref().filter(|read| read.who == detail.who);
    let object = read.map_or(&[][..], |read| &read.waits_for);
    match object {
        [] if detail.waits => lines.push(Line::plain("waits for  -")),
        [] => {}
        [first, more @ ..] => {
            lines.push(Line::plain(format!("waits for  {first}")));
            lines.extend(more.iter().map(|line| Line::plain(format!("           {line}"))));
        }
    }
    lines.push(Line::title("STACK"));
    let whole = read.map_or(&[][..], |read| &read.stack);
    let (stack, frames) = if whole.is_empty() {
        (detail.stack.iter().map(frame).collect(), detail.stack.len())
    } else {
        (whole.to_vec(), whole.len())
    };
    let stack: Vec<String> = stack;
    if stack.is_empty() {
        lines.push(Line::plain("  -  (it moves: a stack can be read of one that waits)"));
    }
    lines.extend(stack.iter().take(MAX_FRAMES).map(|text| Line::plain(format!("  {text}"))));
    if frames > MAX_FRAMES {
        lines.push(Line::plain(format!("  … and {} more", frames - MAX_FRAMES)));
    }
    lines.push(Line::title("LAST, THE YOUNGEST FIRST"));
    if detail.past.is_empty() {
        lines.push(Line::plain("  -"));
    }
    lines.extend(detail.past.iter().map(|(past, reason)| Line::plain(past_line(past, reason, picture.ts))));
    lines
}

fn frame(site: &Site) -> String {
    format!("{}  {}:{}", site.func, site.file, site.line)
}

fn by(goid: u64) -> String {
    if goid == 0 { String::new() } else { format!(" by goroutine {goid}") }
}

/// One step: `  1.20s ago  block  → waiting  chan receive  after 53.0µs`.
fn past_line(past: &Past, reason: &str, now_ts: u64) -> String {
    let ago = duration(now_ts.saturating_sub(past.ts));
    let lasted = Cell::Time(past.duration_ns, past.measure);
    let lasted =
        if past.duration_ns.is_some() { format!("  after {}", lasted.text(0)) } else { String::new() };
    let reason = if reason.is_empty() { String::new() } else { format!("  {reason}") };
    let who = match past.what {
        What::Unblock | What::Create if past.by_goid != 0 => format!(" by g{}", past.by_goid),
        _ => String::new(),
    };
    format!("  {ago:>8} ago  {:<13} → {}{reason}{lasted}{who}", past.what, past.to)
}

/// Goroutines of a group of leaks that are named.
const NAMED: usize = 10;

/// The state of the search for leaks.
#[derive(Clone, Debug, Default)]
pub enum LeakSearch {
    /// No search was asked for.
    #[default]
    Unknown,
    /// A search runs: its progress, in words.
    Searching(String),
    /// The last search failed, and why.
    Failed(String),
    /// A summary in one sentence, and the groups: the surest first.
    Found(String, Arc<[LeakView]>),
}

pub(super) fn leak_lines(leaks: &LeakSearch) -> Vec<Line> {
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

const KEYS: [&str; 14] = [
    "1 2 3 4 Tab  wait sites, creation sites, states, goroutines",
    "↑ ↓ PgUp PgDn Home End, j k g G, wheel  choose a row, or scroll",
    "Enter, click twice  the goroutines of a row; of a goroutine its stack, its object, what it did last",
    "Esc  back; takes the filter away",
    "/  show only what matches a regular expression: function, reason, state",
    "< >, click on a heading  sort by the column beside, or by this one",
    "r  the other way round",
    "f  findings: what is wrong, or looks so",
    "L  look for leaked goroutines (reads the heap, takes seconds); l shows what was found",
    "s  with the runtime's own goroutines, or without",
    "t  one process after the other, then all",
    "p Space  hold the picture; tracing goes on",
    "? h  this help",
    "q Ctrl-C  end",
];

pub(super) fn help_lines(columns: &[Column]) -> Vec<Line> {
    let mut lines = vec![Line::title("KEYS")];
    lines.extend(KEYS.iter().map(|text| Line::plain(format!("  {text}"))));
    lines.push(Line::title("COLUMNS"));
    lines.extend(columns.iter().map(|column| Line::plain(format!("  {}  {}", column.title, column.about))));
    lines.push(Line::title("MARKS"));
    let marks = [
        "-  not known (and not nothing)",
        "~  as the runtime counts it: up to one garbage collection too long",
        "≥  at least so long",
        "!  it grows, or something is wrong with it",
    ];
    lines.extend(marks.iter().map(|text| Line::plain(format!("  {text}"))));
    lines
}
