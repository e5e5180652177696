//! A profile by stack as a flame graph: an SVG that stands alone. A click on a function shows only what it
//! calls; the search marks functions whose name contains a text.

mod tree;

use super::profile::Profile;
use crate::present::{count, duration};
use std::{
    fmt::Write as _,
    io::{self, Write},
};
use tree::{Box, Tree};

/// Pixels.
const WIDTH: f64 = 1200.0;
const ROW: usize = 17;
const MARGIN: usize = 10;
const HEAD: usize = 64;
/// What is narrower cannot be seen.
const NARROWEST: f64 = 0.1;
/// Width of a letter, roughly; the font is a monospaced one of twelve pixels.
const LETTER: f64 = 7.3;

const STYLE: &str = "text{font:12px monospace;fill:#111}.t{font-size:16px}.s{fill:#555}\
    g.f{cursor:pointer}g.f:hover rect{stroke:#000}rect{stroke:#fff;stroke-width:.5}.m rect{fill:#b4f}";

const SCRIPT: &str = include_str!("flame/zoom.js");

/// Writes it.
pub(super) fn write(out: impl Write, profile: &Profile) -> io::Result<()> {
    let mut out = io::BufWriter::new(out);
    let tree = Tree::of(profile);
    let all = tree.total();
    let boxes = tree.boxes(NARROWEST / WIDTH);
    let rows = boxes.iter().map(|flame| flame.depth + 1).max().unwrap_or(1);
    let height = HEAD + rows * ROW + MARGIN;
    let full = WIDTH + 2.0 * MARGIN as f64;
    writeln!(
        out,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" version=\"1.1\" \
         width=\"{full}\" height=\"{height}\" viewBox=\"0 0 {full} {height}\">\n<style>{STYLE}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fffdf5\"/>\n\
         <text class=\"t\" x=\"{MARGIN}\" y=\"24\">{}</text>\n<text class=\"s\" x=\"{MARGIN}\" y=\"44\">{}</text>\n\
         <text class=\"s\" id=\"search\" x=\"{}\" y=\"24\" text-anchor=\"end\" style=\"cursor:pointer\">search</text>\n\
         <text class=\"s\" id=\"found\" x=\"{}\" y=\"44\" text-anchor=\"end\"> </text>",
        escape(&title(profile)),
        escape(&subtitle(profile, all)),
        full - MARGIN as f64,
        full - MARGIN as f64,
    )?;
    for flame in &boxes {
        let y = height - MARGIN - (flame.depth + 1) * ROW;
        write_box(&mut out, profile, all, flame, y)?;
    }
    writeln!(out, "<script><![CDATA[\n{SCRIPT}]]></script>\n</svg>")?;
    out.flush()
}

fn write_box(out: &mut impl Write, profile: &Profile, all: u64, flame: &Box<'_>, y: usize) -> io::Result<()> {
    let (x, width) = (MARGIN as f64 + flame.from * WIDTH, flame.share * WIDTH);
    let value = amount(profile, flame.value);
    let percent = if all == 0 { 100.0 } else { flame.value as f64 / all as f64 * 100.0 };
    let name = escape(flame.name);
    writeln!(
        out,
        "<g class=\"f\"><title>{name} ({value}, {percent:.2} %)</title><rect x=\"{x:.2}\" y=\"{y}\" width=\"{width:.2}\" \
         height=\"{}\" fill=\"{}\"/><text x=\"{:.2}\" y=\"{}\">{}</text></g>",
        ROW - 1,
        colour(flame.name),
        x + 3.0,
        y + 12,
        escape(&fit(flame.name, width)),
    )
}

fn title(profile: &Profile) -> String {
    let exe = profile.exe.rsplit('/').next().unwrap_or_default();
    format!("{} by stack: {exe}, PID {}", profile.kind.title(), profile.pid)
}

fn subtitle(profile: &Profile, all: u64) -> String {
    let mut text = format!("{} in {}", amount(profile, all), duration(profile.duration_ns));
    for comment in &profile.comments {
        write!(text, "; {comment}").expect("a String takes all");
    }
    text
}

/// A value in words: milliseconds, or how many.
fn amount(profile: &Profile, value: u64) -> String {
    if profile.kind.is_time() { format!("{:.3} ms", value as f64 / 1e6) } else { count(value) }
}

/// As much of a name as there is room for.
fn fit(name: &str, width: f64) -> String {
    let room = ((width - 6.0) / LETTER).max(0.0) as usize;
    match name.chars().count() {
        letters if letters <= room => name.to_owned(),
        _ if room < 3 => String::new(),
        _ => name.chars().take(room - 2).chain("..".chars()).collect(),
    }
}

/// Functions of a package have a colour in common; words in brackets are grey.
fn colour(name: &str) -> String {
    if name.starts_with('[') {
        return "#ccc".to_owned();
    }
    let path = name.rfind('/').map_or(0, |at| at + 1);
    let package = name[path..].find('.').map_or(name, |dot| &name[..path + dot]);
    let hash = package.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("hsl({},{}%,{}%)", hash % 360, 55 + (hash >> 16) % 20, 66 + (hash >> 32) % 10)
}

/// Without what means something in XML, or may not be in it at all.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\t' | '\n' | '\r' => escaped.push(' '),
            '\0'..'\x20' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}
