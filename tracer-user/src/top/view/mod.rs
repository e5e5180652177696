//! Draws a picture on a grid of characters.

pub(super) mod grid;
mod panes;

pub use panes::LeakSearch;

use super::{Cell, Finding, Head, Pane, Picture, Screen};
use crate::output::{count, duration};
use grid::{Areas, MAX_HEADS, Paint, Tone, columns, draw_table, tabs, wrapped};
use panes::{detail_lines, help_lines, leak_lines};
use ratatui::{buffer::Buffer, layout::Rect};

/// What is shown beside the picture. All of it is read or chosen on the user's side.
#[derive(Clone, Debug, Default)]
pub struct Look {
    pub colour: bool,
    /// A sentence in the last line, until the next key.
    pub notice: Option<String>,
    pub leaks: LeakSearch,
    /// Stack and object of the goroutine that the pane shows.
    pub read: Option<Read>,
}

/// What was read of one goroutine from the target's memory.
#[derive(Clone, Debug)]
pub struct Read {
    /// Index of the target, and goid.
    pub who: (usize, u64),
    /// The whole stack, in lines of a traceback.
    pub stack: Vec<String>,
    /// The objects that it waits for, in lines.
    pub waits_for: Vec<String>,
}

/// A line of a pane. Drawing breaks it where it is wider than the screen.
struct Line(String, Tone);

impl Line {
    fn plain(text: impl Into<String>) -> Line {
        Line(text.into(), Tone::Plain)
    }

    fn title(text: impl Into<String>) -> Line {
        Line(text.into(), Tone::Title)
    }
}

/// Draws a picture over the whole buffer. Returns how far the pane can be scrolled, for [`Screen::drawn`].
pub fn draw(buffer: &mut Buffer, picture: Option<&Picture>, screen: &Screen, look: &Look) -> usize {
    let area = buffer.area;
    let mut paint = Paint { buffer, colour: look.colour };
    let Some(picture) = picture else {
        paint.put(0, 0, area.width, "sfgi top: the first look takes a moment", Tone::Plain);
        return 0;
    };
    let areas = Areas::of(area.height, picture.heads.len());
    draw_head(&mut paint, &areas, picture, screen);
    let lines = match screen.pane {
        Pane::Table => {
            draw_table(&mut paint, &areas, picture, screen);
            None
        }
        Pane::Detail => Some(detail_lines(picture, look)),
        Pane::Findings => Some(findings(picture)),
        Pane::Leaks => Some(leak_lines(&look.leaks)),
        Pane::Help => Some(help_lines(picture.table(screen.by).columns)),
    };
    footer(&mut paint, &areas, screen, look);
    lines.map_or(0, |lines| scrolled(&mut paint, &areas, &lines, screen.scroll))
}

/// The screen as text, as a terminal of this size would show it: for `--batch`, `report --top` and tests.
pub fn text(picture: &Picture, screen: &Screen, look: &Look, width: u16, height: u16) -> String {
    let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
    draw(&mut buffer, Some(picture), screen, look);
    let mut text = String::new();
    for y in 0..height {
        let mut line = String::new();
        let mut skip = 0;
        for x in 0..width {
            // ratatui fills the cell behind a wide character with a blank, which is not part of the text.
            let symbol = buffer.cell((x, y)).map_or(" ", |cell| cell.symbol());
            if skip == 0 {
                line.push_str(symbol);
            }
            skip = if skip > 0 { skip - 1 } else { columns(symbol).saturating_sub(1) };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Draws a pane from line `scroll` on; returns the largest `scroll` that still fills the screen.
fn scrolled(paint: &mut Paint<'_>, areas: &Areas, lines: &[Line], scroll: usize) -> usize {
    let width = paint.buffer.area.width;
    let wrap = |line: &Line| {
        let tone = line.1;
        wrapped(&line.0, usize::from(width), 4).into_iter().map(move |text| Line(text, tone))
    };
    let lines: Vec<Line> = lines.iter().flat_map(wrap).collect();
    // A pane has no column titles, so it takes their line, too.
    let body = areas.titles..areas.body.end;
    let max = lines.len().saturating_sub(usize::from(body.end - body.start));
    for (Line(text, tone), y) in lines.iter().skip(scroll.min(max)).zip(body) {
        paint.put(0, y, width, text, *tone);
    }
    max
}

fn findings(picture: &Picture) -> Vec<Line> {
    let several = picture.heads.len() > 1;
    let line = |finding: &Finding| {
        let pid = picture.heads.get(finding.target).filter(|_| several);
        let pid = pid.map(|head| format!("PID {}: ", head.pid)).unwrap_or_default();
        Line::plain(format!("! {pid}{}", finding.sentence()))
    };
    let mut lines = vec![Line::title(format!("FINDINGS ({})", picture.findings.len()))];
    if picture.findings.is_empty() {
        lines.push(Line::plain("Nothing is wrong that can be seen from here. L looks for leaks."));
    }
    lines.extend(picture.findings.iter().map(line));
    if picture.more_findings > 0 {
        lines.push(Line::plain(format!("… and {} more times", count(picture.more_findings))));
    }
    lines
}

fn footer(paint: &mut Paint<'_>, areas: &Areas, screen: &Screen, look: &Look) {
    let (width, y) = (paint.buffer.area.width, areas.footer);
    if let Some(prompt) = &screen.prompt {
        let end = paint.put(0, y, width, &format!("filter (regular expression): {prompt}"), Tone::Title);
        paint.put(end, y, 1, "_", Tone::Chosen);
        return;
    }
    // A refused filter comes first: it answers what the user just typed.
    if let Some(sentence) = screen.refused.as_ref().or(look.notice.as_ref()) {
        paint.put(0, y, width, sentence, Tone::Alarm);
        return;
    }
    let keys = match screen.pane {
        Pane::Table => "? help  1-4 view  ↵ in  / filter  <> sort  f findings  L leaks  p pause  q quit",
        Pane::Detail | Pane::Findings | Pane::Leaks | Pane::Help => {
            "Esc back  ↑↓ scroll  1-4 view  f findings  L leaks  ? help  p pause  q quit"
        }
    };
    paint.put(0, y, width, keys, Tone::Faint);
}

fn draw_head(paint: &mut Paint<'_>, areas: &Areas, picture: &Picture, screen: &Screen) {
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

/// The first line of the head: `PID 1234 shop go1.26.6  1m02s  142 goroutines`.
fn who(head: &Head, picture: &Picture, screen: &Screen) -> String {
    let Head { pid, program, go_version, total, system, .. } = head;
    let paused = if screen.paused { "PAUSED  " } else { "" };
    let own = if *system > 0 { format!(" (+{} of the runtime)", count(*system)) } else { String::new() };
    // Whole seconds are shown, except in the first one, where only 0 would be left.
    let whole_seconds = picture.lasted_ns / 1_000_000_000 * 1_000_000_000;
    let time = duration(if whole_seconds > 0 { whole_seconds } else { picture.lasted_ns });
    let ended = head.ended.as_ref().map(|why| format!("  ENDED: {why}")).unwrap_or_default();
    format!("{paused}PID {pid} {program} {go_version}  {time}  {}{own}{ended}", goroutines(*total))
}

fn goroutines(number: u64) -> String {
    if number == 1 { "1 goroutine".to_owned() } else { format!("{} goroutines", count(number)) }
}

/// The second line of the head: `waiting 130  running 2  ! 2 findings (f)`.
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

/// The third line of the head: what the probes cost, and what was lost.
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
