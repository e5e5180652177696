//! The grid of characters: where things are, for drawing and for the mouse; text on it, cleaned of whatever a target's
//! names could do to a terminal; and the table.

use crate::{
    output::{clean, count},
    top::{By, Column, Picture, Row, Screen, Table},
};
use ratatui::{
    buffer::Buffer,
    style::{Color, Modifier, Style},
    text::Span,
};
use std::ops::Range;

/// Columns before a row: `>` for the chosen one, `!` for one that needs attention.
const MARKS: u16 = 2;
/// Columns of the process id, which is shown where there are several targets.
const PID: u16 = 8;
/// Targets with a line in the head; one more line counts the rest.
pub(super) const MAX_HEADS: usize = 4;
/// Blank columns before the tabs, and between two. The brackets of the chosen tab stand in them.
const BETWEEN_TABS: u16 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::top) struct Areas {
    pub(in crate::top) head: Range<u16>,
    pub(in crate::top) tabs: u16,
    pub(in crate::top) titles: u16,
    pub(in crate::top) body: Range<u16>,
    pub(in crate::top) footer: u16,
}

impl Areas {
    pub(in crate::top) fn of(height: u16, targets: usize) -> Areas {
        let head = match targets {
            0 | 1 => 3,
            several => u16::try_from(several.min(MAX_HEADS + 1)).unwrap_or(1),
        };
        let footer = height.saturating_sub(1);
        let titles = (head + 1).min(footer);
        Areas { head: 0..head, tabs: head, titles, body: (titles + 1).min(footer)..footer, footer }
    }

    /// Index of the first shown row. It goes by pages, so that rows keep their place while the choice moves.
    pub(in crate::top) fn first(&self, chosen: usize, rows: usize) -> usize {
        let lines = usize::from(self.body.end - self.body.start).max(1);
        // One line of a page says how many rows follow.
        let room = if rows > lines { lines - usize::from(lines > 1) } else { lines };
        chosen / room.max(1) * room
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::top) struct Slot {
    /// Index of the column; `None`: the process id.
    pub(in crate::top) column: Option<usize>,
    pub(in crate::top) x: u16,
    pub(in crate::top) width: u16,
}

/// The columns for which a table of this width has room, with their places.
pub(in crate::top) fn slots(columns: &[Column], width: u16, several: bool) -> Vec<Slot> {
    let shown: Vec<usize> = (0..columns.len()).filter(|at| width >= columns[*at].from).collect();
    let fixed: u16 = shown.iter().map(|at| columns[*at].width + 1).sum();
    let fixed = fixed + MARKS + if several { PID + 1 } else { 0 };
    let shares = shown.iter().filter(|at| columns[**at].width == 0).count();
    // On a narrow terminal nothing may be left to share; slots without width are dropped below.
    let share = width.saturating_sub(fixed) / u16::try_from(shares.max(1)).unwrap_or(1);
    let pid = several.then_some((None, PID));
    let named =
        shown.iter().map(|at| (Some(*at), if columns[*at].width == 0 { share } else { columns[*at].width }));
    let mut x = MARKS;
    let place = |(column, wanted): (Option<usize>, u16)| {
        let slot = Slot { column, x, width: wanted.min(width.saturating_sub(x)) };
        x += wanted + 1;
        slot
    };
    pid.into_iter().chain(named).map(place).filter(|slot| slot.width > 0).collect()
}

/// The tabs: table, first column, text.
pub(super) fn tabs() -> impl Iterator<Item = (By, u16, String)> {
    let mut x = BETWEEN_TABS;
    By::ALL.into_iter().zip(1..).map(move |(by, number)| {
        let text = format!("{number} {}", by.name());
        let at = x;
        x += u16::try_from(text.len()).unwrap_or(0) + 1 + BETWEEN_TABS;
        (by, at, text)
    })
}

pub(in crate::top) fn tab_at(column: u16) -> Option<By> {
    let hit = |(_, x, text): &(By, u16, String)| {
        (*x..*x + u16::try_from(text.len()).unwrap_or(0)).contains(&column)
    };
    tabs().find(hit).map(|(by, ..)| by)
}

/// The role of a text. Colours only repeat what marks, words or the place say, for NO_COLOR and for colour blindness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    #[default]
    Plain,
    Title,
    Faint,
    Alarm,
    Chosen,
}

pub(super) struct Paint<'b> {
    pub(super) buffer: &'b mut Buffer,
    pub(super) colour: bool,
}

impl Paint<'_> {
    fn style(&self, tone: Tone) -> Style {
        let plain = Style::new();
        match tone {
            Tone::Plain => plain,
            Tone::Title => plain.add_modifier(Modifier::BOLD),
            Tone::Faint if self.colour => plain.fg(Color::DarkGray),
            Tone::Faint => plain,
            Tone::Alarm if self.colour => plain.fg(Color::Red).add_modifier(Modifier::BOLD),
            Tone::Alarm => plain.add_modifier(Modifier::BOLD),
            Tone::Chosen => plain.add_modifier(Modifier::REVERSED),
        }
    }

    /// Writes a text into `width` columns and returns the column behind it. A text that does not fit ends in `…`.
    pub(super) fn put(&mut self, x: u16, y: u16, width: u16, text: &str, tone: Tone) -> u16 {
        let area = self.buffer.area;
        if y >= area.height || x >= area.width || width == 0 {
            return x;
        }
        // Everything on the screen passes here, so no control character of a name reaches the terminal.
        let (text, style) = (clean(text), self.style(tone));
        let width = width.min(area.width - x);
        if columns(&text) <= usize::from(width) {
            return self.buffer.set_stringn(x, y, &text, usize::from(width), style).0;
        }
        let (end, _) = self.buffer.set_stringn(x, y, &text, usize::from(width - 1), style);
        // The text may end a column early, before a wide character, so the mark follows what was written.
        self.buffer.set_stringn(end, y, "…", 1, style).0
    }

    /// Writes a text flush right.
    fn put_right(&mut self, x: u16, y: u16, width: u16, text: &str, tone: Tone) {
        let used = u16::try_from(columns(&clean(text))).unwrap_or(u16::MAX).min(width);
        self.put(x + width - used, y, used, text, tone);
    }

    /// Gives a whole line a tone.
    fn line(&mut self, y: u16, tone: Tone) {
        let (area, style) = (self.buffer.area, self.style(tone));
        self.buffer.set_style(ratatui::layout::Rect::new(0, y, area.width, 1).intersection(area), style);
    }
}

/// The columns that a text takes: a wide character takes two, a combining one none.
pub(super) fn columns(text: &str) -> usize {
    Span::raw(text).width()
}

/// Breaks a text into lines of `width` columns at blanks. All lines but the first are indented by `indent` more. A word
/// that is wider than a line stays whole, and `put` cuts it.
pub(super) fn wrapped(text: &str, width: usize, indent: usize) -> Vec<String> {
    let text = clean(text);
    if columns(&text) <= width {
        return vec![text.into_owned()];
    }
    let own = text.len() - text.trim_start().len();
    let mut lines = vec![" ".repeat(own)];
    for word in text.split_whitespace() {
        let Some(line) = lines.last_mut() else { break };
        let blank = usize::from(!line.trim().is_empty());
        if blank == 1 && columns(line) + 1 + columns(word) > width {
            lines.push(format!("{}{word}", " ".repeat(own + indent)));
        } else {
            line.push_str(&" ".repeat(blank));
            line.push_str(word);
        }
    }
    lines
}

pub(super) fn draw_table(paint: &mut Paint<'_>, areas: &Areas, picture: &Picture, screen: &Screen) {
    let table = screen.table(picture);
    let (width, several) = (paint.buffer.area.width, picture.heads.len() > 1);
    titles(paint, areas.titles, &table, screen, several);
    let chosen = screen.row(&table);
    let first = areas.first(chosen, table.rows.len());
    let lines = usize::from(areas.body.end - areas.body.start);
    let left = table.rows.len().saturating_sub(first) as u64 + table.more;
    // If not all rows fit, the last line says how many are missing.
    let shown = if left > lines as u64 { lines.saturating_sub(1) } else { lines };
    let y = |line: usize| areas.body.start + u16::try_from(line).unwrap_or(0);
    for (line, row) in table.rows.iter().skip(first).take(shown).enumerate() {
        let mark = screen.chosen.is_some() && first + line == chosen;
        draw_row(paint, y(line), row, &table, picture, mark);
    }
    let shown = table.rows.len().saturating_sub(first).min(shown);
    if left > shown as u64 {
        let text = format!("  … and {} more", count(left - shown as u64));
        paint.put(0, y(shown), width, &text, Tone::Faint);
    } else if table.rows.is_empty() {
        let why = if screen.query.filter.is_some() { "Nothing matches the filter." } else { "Nothing yet." };
        paint.put(0, areas.body.start, width, why, Tone::Plain);
    }
}

fn titles(paint: &mut Paint<'_>, y: u16, table: &Table, screen: &Screen, several: bool) {
    paint.line(y, Tone::Chosen);
    for slot in slots(table.columns, paint.buffer.area.width, several) {
        let Some((at, column)) = slot.column.and_then(|at| Some((at, table.columns.get(at)?))) else {
            paint.put_right(slot.x, y, slot.width, "PID", Tone::Chosen);
            continue;
        };
        let sort = screen.sort();
        // The arrow points to where values grow smaller (numbers) or later in the alphabet (text).
        let down = (column.right || column.title == "TREND") != sort.reverse;
        let arrow = if down { "↓" } else { "↑" };
        let title =
            if at == sort.column { format!("{}{arrow}", column.title) } else { column.title.to_owned() };
        if column.right {
            paint.put_right(slot.x, y, slot.width, &title, Tone::Chosen);
        } else {
            paint.put(slot.x, y, slot.width, &title, Tone::Chosen);
        }
    }
}

fn draw_row(paint: &mut Paint<'_>, y: u16, row: &Row, table: &Table, picture: &Picture, chosen: bool) {
    let tone = match (chosen, row.alarm) {
        (true, _) => Tone::Chosen,
        (_, true) => Tone::Alarm,
        _ => Tone::Plain,
    };
    if chosen {
        paint.line(y, Tone::Chosen);
    }
    paint.put(0, y, 1, if chosen { ">" } else { " " }, tone);
    paint.put(1, y, 1, if row.alarm { "!" } else { " " }, tone);
    for slot in slots(table.columns, paint.buffer.area.width, picture.heads.len() > 1) {
        let Some(at) = slot.column else {
            let pid = picture.heads.get(row.key.target).map(|head| head.pid.to_string()).unwrap_or_default();
            paint.put_right(slot.x, y, slot.width, &pid, tone);
            continue;
        };
        let Some((cell, column)) = row.cells.get(at).zip(table.columns.get(at)) else { continue };
        let text = cell.text(usize::from(slot.width));
        if column.right {
            paint.put_right(slot.x, y, slot.width, &text, tone);
        } else {
            paint.put(slot.x, y, slot.width, &text, tone);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_go_on_in_the_next_line() {
        assert_eq!(wrapped("  one two three", 9, 2), ["  one two", "    three"]);
        assert_eq!(wrapped("a   b", 9, 2), ["a   b"], "what fits stays as it is");
        assert_eq!(wrapped("", 9, 2), [""]);
        assert_eq!(wrapped("a-word-that-is-too-long b", 5, 0), ["a-word-that-is-too-long", "b"]);
    }
}
