//! The frames of a stack: which ones a traceback shows, and their text.

use super::names::{clean, printed};
use crate::snapshot::Pc;
use crate::target::{Frame, GoBinary, tracebacks};
use std::collections::HashMap;
use std::io::{self, Write};
use std::rc::Rc;

/// Pcs whose text is kept.
const CAPACITY: usize = 1 << 16;
/// Up to 1.20, frames that are looked at (`_TracebackMaxFrames`).
const MAX_FRAMES: usize = 100;
/// Since 1.21, frames that are shown of the inner and of the outer end
/// (`tracebackInnerFrames`, `tracebackOuterFrames`).
const END_FRAMES: usize = 50;

/// The text of a stack, with holes for the arguments.
#[derive(Debug, Default)]
pub(super) struct Rendered {
    text: String,
    /// Where in the text arguments belong, and those of which frame.
    holes: Vec<(usize, usize)>,
}

impl Rendered {
    /// Whether it shows no frame.
    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Writes it with arguments, a line for each frame of the stack; `...` where there are none.
    pub(super) fn write(&self, out: &mut dyn Write, args: Option<&str>) -> io::Result<()> {
        let mut lines = args.map(|args| args.split('\n'));
        let (mut written, mut frame) = (0, 0);
        for (at, of) in &self.holes {
            out.write_all(self.text.get(written..*at).unwrap_or("").as_bytes())?;
            let args = match &mut lines {
                Some(lines) => lines.nth(of - frame).unwrap_or("..."),
                None => "...",
            };
            out.write_all(args.as_bytes())?;
            (written, frame) = (*at, of + 1);
        }
        out.write_all(self.text.get(written..).unwrap_or("").as_bytes())
    }
}

/// A function that a pc belongs to.
struct Line {
    /// Up to the opening parenthesis.
    func: String,
    /// From the closing one on.
    rest: String,
    inlined: bool,
    wrapper: bool,
    /// Whether a wrapper that calls it is shown (`elideWrapperCalling`).
    panics: bool,
    shown: bool,
    /// Whether it is shown only below another frame.
    below: bool,
}

/// Turns stacks of one process into text.
pub(super) struct Renderer<'a> {
    pub(super) binary: &'a GoBinary,
    /// What the kernel added to the binary's link addresses.
    pub(super) bias: u64,
    /// The N of its Go 1.N.
    pub(super) minor: u32,
    lines: HashMap<Pc, Rc<[Line]>>,
}

/// What a traceback shows: lines, and the index of the frame that each is of.
type Shown = Vec<(Rc<[Line]>, usize, usize)>;

impl<'a> Renderer<'a> {
    pub(super) fn new(binary: &'a GoBinary, bias: u64) -> Renderer<'a> {
        Renderer { binary, bias, minor: binary.version().minor, lines: HashMap::new() }
    }

    pub(super) fn render(&mut self, stack: &[Pc]) -> Rendered {
        let stack = if self.minor < 21 { stack.get(..MAX_FRAMES).unwrap_or(stack) } else { stack };
        let mut shown = self.shown(stack, false);
        // Where nothing but the runtime is on the stack, that is shown.
        if shown.is_empty() {
            shown = self.shown(stack, true);
        }
        let mut rendered = Rendered::default();
        if self.minor < 21 {
            rendered.push(&shown);
            if shown.len() == MAX_FRAMES {
                rendered.text.push_str("...additional frames elided...\n");
            }
        } else if let Some(elided) = shown.len().checked_sub(2 * END_FRAMES).filter(|elided| *elided > 0) {
            let (inner, rest) = shown.split_at(END_FRAMES);
            rendered.push(inner);
            rendered.text.push_str(&format!("...{elided} frames elided...\n"));
            rendered.push(rest.split_at(elided).1);
        } else {
            rendered.push(&shown);
        }
        rendered
    }

    /// `showfuncinfo` for every function on the stack.
    fn shown(&mut self, stack: &[Pc], all: bool) -> Shown {
        let mut shown = Shown::new();
        let mut callee_panics = false;
        for (frame, pc) in stack.iter().enumerate() {
            let lines = self.lines(*pc);
            for (index, line) in lines.iter().enumerate() {
                let elided = line.wrapper && !callee_panics;
                let shows = !elided && (line.shown || line.below && !shown.is_empty());
                if all || shows {
                    shown.push((Rc::clone(&lines), index, frame));
                }
                callee_panics = line.panics;
            }
        }
        shown
    }

    fn lines(&mut self, pc: Pc) -> Rc<[Line]> {
        if let Some(lines) = self.lines.get(&pc) {
            return Rc::clone(lines);
        }
        let frames = self.binary.symbolize(pc.lookup().wrapping_sub(self.bias));
        let linked = pc.addr().wrapping_sub(self.bias);
        let lines: Rc<[Line]> = frames.iter().map(|frame| self.line(frame, linked)).collect();
        if self.lines.len() >= CAPACITY {
            self.lines.clear();
        }
        self.lines.insert(pc, Rc::clone(&lines));
        lines
    }

    fn line(&self, frame: &Frame<'_>, pc: u64) -> Line {
        let into = if frame.inlined { 0 } else { pc.saturating_sub(frame.entry) };
        let special = !frame.wrapper;
        Line {
            func: printed(frame.func, self.minor),
            rest: place(frame.file, frame.line, into),
            inlined: frame.inlined,
            wrapper: frame.wrapper,
            panics: special && tracebacks::shows_its_wrapper(frame.func),
            shown: tracebacks::shows(frame.func, self.minor),
            below: frame.func == tracebacks::PANIC,
        }
    }
}

impl Rendered {
    fn push(&mut self, shown: &[(Rc<[Line]>, usize, usize)]) {
        for (lines, index, frame) in shown {
            let Some(line) = lines.get(*index) else { continue };
            self.text.push_str(&line.func);
            self.text.push('(');
            if line.inlined {
                self.text.push_str("...");
            } else {
                self.holes.push((self.text.len(), *frame));
            }
            self.text.push_str(")\n");
            self.text.push_str(&line.rest);
        }
    }
}

/// The line with the place in the source; `into`: bytes from the entry of the function to the pc, 0
/// where that is not said.
pub(super) fn place(file: &str, line: u32, into: u64) -> String {
    let file = if file.is_empty() { "?".into() } else { clean(file) };
    if into == 0 { format!("\t{file}:{line}\n") } else { format!("\t{file}:{line} +{into:#x}\n") }
}
