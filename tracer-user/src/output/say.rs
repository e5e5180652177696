//! What is said on standard error, and the cleaning of what a target's names could do to whoever reads it.

use super::clean;
use std::{
    fmt::Display,
    io::{self, Write as _},
};

/// One line of it: nothing in it moves the cursor, ends the line or looks like something else. The ends of lines of a longer message
/// become blanks.
pub(crate) fn one_line(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(clean).collect();
    lines.join(" ")
}

/// The same text where it needs no cleaning.
pub(crate) fn cleaned(text: String) -> String {
    match clean(&text) {
        std::borrow::Cow::Borrowed(_) => text,
        std::borrow::Cow::Owned(cleaned) => cleaned,
    }
}

/// Says a sentence on standard error, as one line behind the name of the program. Where nobody listens (it is closed, or its disk is
/// full), nothing can be done, and the command goes on: `eprintln!` would panic.
pub(crate) fn say(text: impl Display) {
    raw(&format!("sfgi: {}\n", one_line(&text.to_string())));
}

/// Writes to standard error what was cleaned before.
pub(crate) fn raw(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_is_one_line_whatever_is_in_it() {
        let evil = "no\x1b]0;title\x07 such\nsfgi: forged\r\n \u{9b}2J\u{202e}";
        assert_eq!(one_line(evil), "no?]0;title? such sfgi: forged  ?2J?");
        assert_eq!(one_line("plain: änder"), "plain: änder");
        assert_eq!(cleaned("a\x1bb".to_owned()), "a?b");
    }
}
