//! Text on the grid: nothing that the target named gets to the terminal as it is.

use crate::output::clean;
use ratatui::{
    buffer::Buffer,
    style::{Color, Modifier, Style},
    text::Span,
};

/// What a text is. Colours only repeat what marks, words or the place on the screen say already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    #[default]
    Plain,
    Title,
    Faint,
    Alarm,
    Chosen,
}

/// Draws.
pub(super) struct Paint<'b> {
    pub(super) buffer: &'b mut Buffer,
    pub(super) colour: bool,
}

impl Paint<'_> {
    pub(super) fn style(&self, tone: Tone) -> Style {
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

    /// Writes a text into so many columns; what does not fit ends in `…`. Says where it ended.
    pub(super) fn put(&mut self, x: u16, y: u16, width: u16, text: &str, tone: Tone) -> u16 {
        let area = self.buffer.area;
        if y >= area.height || x >= area.width || width == 0 {
            return x;
        }
        let (text, style) = (clean(text), self.style(tone));
        let width = width.min(area.width - x);
        if columns(&text) <= usize::from(width) {
            return self.buffer.set_stringn(x, y, &text, usize::from(width), style).0;
        }
        let (end, _) = self.buffer.set_stringn(x, y, &text, usize::from(width - 1), style);
        self.buffer.set_stringn(end, y, "…", 1, style).0
    }

    /// The same, at the right of its columns.
    pub(super) fn put_right(&mut self, x: u16, y: u16, width: u16, text: &str, tone: Tone) {
        let used = u16::try_from(columns(&clean(text))).unwrap_or(u16::MAX).min(width);
        self.put(x + width - used, y, used, text, tone);
    }

    /// A whole line gets a tone.
    pub(super) fn line(&mut self, y: u16, tone: Tone) {
        let (area, style) = (self.buffer.area, self.style(tone));
        self.buffer.set_style(ratatui::layout::Rect::new(0, y, area.width, 1).intersection(area), style);
    }
}

/// How many columns a text takes.
pub(super) fn columns(text: &str) -> usize {
    Span::raw(text).width()
}

/// A text in lines of so many columns; all but the first are indented by `indent` more.
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
