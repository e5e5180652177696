//! A picture on a grid of characters.

mod detail;
mod head;
mod help;
pub(super) mod layout;
mod leaks;
mod paint;
mod rows;

pub use leaks::LeakSearch;

use super::{Pane, Picture, Screen};
use layout::Areas;
use paint::{Paint, Tone, wrapped};
use ratatui::{buffer::Buffer, layout::Rect};

/// What is shown besides a picture.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// With colours.
    pub colour: bool,
    /// A sentence for the user.
    pub notice: Option<String>,
    /// What was found leaked.
    pub leaks: LeakSearch,
    /// What was read of the goroutine that is shown.
    pub read: Option<Read>,
}

/// What only a look at the target's memory tells of one goroutine.
#[derive(Clone, Debug)]
pub struct Read {
    /// The target's number, and the goroutine's id.
    pub who: (usize, u64),
    /// Its whole stack, in lines.
    pub stack: Vec<String>,
    /// What it waits for, in lines.
    pub waits_for: Vec<String>,
}

/// A line of a pane that can be longer than the screen.
struct Line(String, Tone);

impl Line {
    fn plain(text: impl Into<String>) -> Line {
        Line(text.into(), Tone::Plain)
    }

    fn title(text: impl Into<String>) -> Line {
        Line(text.into(), Tone::Title)
    }
}

/// Draws a picture, over all of the buffer. Says how far the pane can be scrolled.
pub fn draw(buffer: &mut Buffer, picture: Option<&Picture>, screen: &Screen, look: &Look) -> usize {
    let area = buffer.area;
    let mut paint = Paint { buffer, colour: look.colour };
    let Some(picture) = picture else {
        paint.put(0, 0, area.width, "sfgi top: the first look takes a moment", Tone::Plain);
        return 0;
    };
    let areas = Areas::of(area.height, picture.heads.len());
    head::draw(&mut paint, &areas, picture, screen);
    let lines = match screen.pane {
        Pane::Table => {
            rows::draw(&mut paint, &areas, picture, screen);
            None
        }
        Pane::Detail => Some(detail::lines(picture, look)),
        Pane::Findings => Some(findings(picture)),
        Pane::Leaks => Some(leaks::lines(&look.leaks)),
        Pane::Help => Some(help::lines(picture.table(screen.by).columns)),
    };
    footer(&mut paint, &areas, screen, look);
    lines.map_or(0, |lines| scrolled(&mut paint, &areas, &lines, screen.scroll))
}

/// What a terminal of this size would show, in lines.
pub fn text(picture: &Picture, screen: &Screen, look: &Look, width: u16, height: u16) -> String {
    let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
    draw(&mut buffer, Some(picture), screen, look);
    let mut text = String::new();
    for y in 0..height {
        let mut line = String::new();
        let mut skip = 0;
        for x in 0..width {
            // What is behind a wide character belongs to it.
            let symbol = buffer.cell((x, y)).map_or(" ", |cell| cell.symbol());
            if skip == 0 {
                line.push_str(symbol);
            }
            skip = if skip > 0 { skip - 1 } else { paint::columns(symbol).saturating_sub(1) };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A pane that may be longer than the screen.
fn scrolled(paint: &mut Paint<'_>, areas: &Areas, lines: &[Line], scroll: usize) -> usize {
    let width = paint.buffer.area.width;
    let wrap = |line: &Line| {
        let tone = line.1;
        wrapped(&line.0, usize::from(width), 4).into_iter().map(move |text| Line(text, tone))
    };
    let lines: Vec<Line> = lines.iter().flat_map(wrap).collect();
    let body = areas.titles..areas.body.end;
    let max = lines.len().saturating_sub(usize::from(body.end - body.start));
    for (Line(text, tone), y) in lines.iter().skip(scroll.min(max)).zip(body) {
        paint.put(0, y, width, text, *tone);
    }
    max
}

fn findings(picture: &Picture) -> Vec<Line> {
    let several = picture.heads.len() > 1;
    let line = |finding: &super::Finding| {
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
        lines.push(Line::plain(format!("… and {} more times", crate::output::count(picture.more_findings))));
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
    if let Some(sentence) = screen.refused.as_ref().or(look.notice.as_ref()) {
        paint.put(0, y, width, sentence, Tone::Alarm);
        return;
    }
    let keys = match screen.pane {
        Pane::Table => "? help  1-4 view  ↵ in  / filter  <> sort  f findings  L leaks  p pause  q quit",
        _ => "Esc back  ↑↓ scroll  1-4 view  f findings  L leaks  ? help  p pause  q quit",
    };
    paint.put(0, y, width, keys, Tone::Faint);
}
