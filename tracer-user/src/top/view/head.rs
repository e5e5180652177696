//! The head: who is watched, how many goroutines there are, what watching costs, what was lost.

use super::{
    Paint, Tone,
    layout::{Areas, MAX_HEADS, tabs},
};
use crate::{
    output::{count, duration},
    top::{Cell, Head, Picture, Screen},
};

pub(super) fn draw(paint: &mut Paint<'_>, areas: &Areas, picture: &Picture, screen: &Screen) {
    let width = paint.buffer.area.width;
    if let [head] = &picture.heads[..] {
        let lines = [who(head, picture, screen), states(head, picture), cost(head)];
        for (line, y) in lines.iter().zip(areas.head.clone()) {
            let tone = if y == 0 { Tone::Title } else { Tone::Plain };
            paint.put(0, y, width, line, tone);
        }
    } else {
        for (head, y) in picture.heads.iter().take(MAX_HEADS).zip(areas.head.clone()) {
            let text = format!("{}  {}", who(head, picture, screen), cost(head));
            paint.put(0, y, width, &text, Tone::Title);
        }
        if picture.heads.len() > MAX_HEADS {
            let more = picture.heads.len() - MAX_HEADS;
            paint.put(0, areas.head.end - 1, width, &format!("… and {more} more processes"), Tone::Plain);
        }
    }
    tabs_line(paint, areas.tabs, picture, screen);
}

fn tabs_line(paint: &mut Paint<'_>, y: u16, picture: &Picture, screen: &Screen) {
    let width = paint.buffer.area.width;
    let mut end = 0;
    for (by, x, text) in tabs() {
        if by == screen.by {
            paint.put(x - 1, y, 1, "[", Tone::Title);
            end = paint.put(x, y, width, &text, Tone::Title);
            end = paint.put(end, y, 1, "]", Tone::Title);
        } else {
            end = paint.put(x, y, width.saturating_sub(x), &text, Tone::Plain);
        }
    }
    let mut notes = Vec::new();
    if let Some(filter) = &screen.query.filter {
        notes.push(format!("/{filter}/"));
    }
    if let Some(head) = screen.query.target.and_then(|target| picture.heads.get(target)) {
        notes.push(format!("only PID {}", head.pid));
    }
    if screen.query.system {
        notes.push("with the runtime's".to_owned());
    }
    let x = end + 2;
    paint.put(x, y, width.saturating_sub(x), &notes.join("  "), Tone::Title);
}

/// `PID 1234 shop go1.26.6  1m02s  142 goroutines`.
fn who(head: &Head, picture: &Picture, screen: &Screen) -> String {
    let Head { pid, program, go_version, total, system, .. } = head;
    let paused = if screen.paused { "PAUSED  " } else { "" };
    let own = if *system > 0 { format!(" (+{} of the runtime)", count(*system)) } else { String::new() };
    let whole_seconds = picture.lasted_ns / 1_000_000_000 * 1_000_000_000;
    let time = duration(if whole_seconds > 0 { whole_seconds } else { picture.lasted_ns });
    let ended = head.ended.as_ref().map(|why| format!("  ENDED: {why}")).unwrap_or_default();
    format!("{paused}PID {pid} {program} {go_version}  {time}  {}{own}{ended}", goroutines(*total))
}

fn goroutines(number: u64) -> String {
    if number == 1 { "1 goroutine".to_owned() } else { format!("{} goroutines", count(number)) }
}

/// `waiting 130  running 2 …  2 findings`.
fn states(head: &Head, picture: &Picture) -> String {
    let mut parts: Vec<String> =
        head.counts.iter().map(|(state, number)| format!("{state} {}", count(*number))).collect();
    match picture.findings.len() {
        0 => {}
        1 => parts.push("! 1 finding (f)".to_owned()),
        findings => parts.push(format!("! {findings} findings (f)")),
    }
    if head.refused > 0 {
        parts.push(format!("! {} times there was no room for a goroutine", count(head.refused)));
    }
    parts.join("  ")
}

/// What it costs, and what was lost.
fn cost(head: &Head) -> String {
    let rate = |rate: Option<f64>| Cell::Rate(rate).text(0);
    let hit = head.hit_ns.map_or_else(|| "-".to_owned(), |ns| format!("{ns:.0} ns"));
    let (share, (lost, lately)) = (Cell::Share(head.share).text(0), head.lost);
    let lately = if lately > 0 { format!(" (! {} now)", count(lately)) } else { String::new() };
    format!(
        "events/s {}  probes: hits/s {}, {hit} each, {share} of its CPU  lost {}{lately}",
        rate(head.events),
        rate(head.hits),
        count(lost)
    )
}
