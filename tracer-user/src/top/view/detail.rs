//! One goroutine.

use super::{Line, Look};
use crate::top::{Cell, Past, Picture};
use sfgi_core::{clock::duration, model::What, names::Site};

/// Frames that are shown.
const MAX_FRAMES: usize = 100;

pub(super) fn lines(picture: &Picture, look: &Look) -> Vec<Line> {
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
    lines.extend(detail.past.iter().map(|(past, reason)| Line::plain(line(past, reason, picture.ts))));
    lines
}

fn frame(site: &Site) -> String {
    format!("{}  {}:{}", site.func, site.file, site.line)
}

fn by(goid: u64) -> String {
    if goid == 0 { String::new() } else { format!(" by goroutine {goid}") }
}

/// `  1.20s ago  block  chan receive  after 53.0µs`.
fn line(past: &Past, reason: &str, now_ts: u64) -> String {
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
