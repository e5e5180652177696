//! The frames of a stack that a traceback shows, and their text.

use super::names::{clean, printed};
use sfgi_core::goruntime::Release;
use sfgi_core::snapshot::Pc;
use sfgi_core::{
    binary::{Frame, GoBinary},
    goruntime::tracebacks,
};
use std::collections::HashMap;
use std::io::{self, Write};
use std::rc::Rc;

/// Pcs whose text is kept; a full map is cleared.
const CAPACITY: usize = 1 << 16;
/// Up to Go 1.20: frames that are walked (`_TracebackMaxFrames`).
const MAX_FRAMES: usize = 100;
/// Since Go 1.21: frames shown of the inner and of the outer end (`tracebackInnerFrames`, `tracebackOuterFrames`).
const END_FRAMES: usize = 50;

/// The text of a stack, with holes for the arguments: many goroutines share a stack, but not the arguments.
#[derive(Debug, Default)]
pub(super) struct Rendered {
    text: String,
    /// Offset of each hole in the text, and the index of its frame.
    holes: Vec<(usize, usize)>,
}

impl Rendered {
    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Writes the text. `args` has one line for each frame of the stack; a hole without arguments gets `...`.
    pub(super) fn write(&self, out: &mut dyn Write, args: Option<&str>) -> io::Result<()> {
        let mut lines = args.map(|args| args.split('\n'));
        let (mut written, mut frame) = (0, 0);
        for (at, of) in &self.holes {
            out.write_all(self.text.get(written..*at).unwrap_or("").as_bytes())?;
            let args = match &mut lines {
                // The iterator has passed the lines up to `frame`. Inlined frames have no hole: lines are skipped.
                Some(lines) => lines.nth(of - frame).unwrap_or("..."),
                None => "...",
            };
            out.write_all(args.as_bytes())?;
            (written, frame) = (*at, of + 1);
        }
        out.write_all(self.text.get(written..).unwrap_or("").as_bytes())
    }
}

/// The text of one function at a pc: a pc has several where functions are inlined.
struct Line {
    /// The text up to the opening parenthesis.
    func: String,
    /// The line below, with the place.
    rest: String,
    inlined: bool,
    wrapper: bool,
    /// Whether a wrapper that calls this function is shown (`elideWrapperCalling`).
    panics: bool,
    shown: bool,
    /// Whether it is shown only if a frame further inside is: `runtime.gopanic`.
    below: bool,
}

/// Renders stacks of one target.
pub(super) struct Renderer<'a> {
    pub(super) binary: &'a GoBinary,
    /// What the kernel added to the binary's link addresses.
    pub(super) bias: u64,
    pub(super) release: Release,
    lines: HashMap<Pc, Rc<[Line]>>,
}

/// The shown lines: the lines of a pc, the index among them, the index of the frame.
type Shown = Vec<(Rc<[Line]>, usize, usize)>;

impl<'a> Renderer<'a> {
    pub(super) fn new(binary: &'a GoBinary, bias: u64) -> Renderer<'a> {
        Renderer { binary, bias, release: binary.version().release, lines: HashMap::new() }
    }

    pub(super) fn render(&mut self, stack: &[Pc]) -> Rendered {
        let stack =
            if !self.release.prints_both_ends() { stack.get(..MAX_FRAMES).unwrap_or(stack) } else { stack };
        let mut shown = self.shown(stack, false);
        // A stack of runtime functions alone is shown whole, as `traceback` does when it printed nothing.
        if shown.is_empty() {
            shown = self.shown(stack, true);
        }
        let mut rendered = Rendered::default();
        if !self.release.prints_both_ends() {
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

    /// Chooses by the rules of `showfuncinfo`; with `all` takes every function.
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
        Line {
            func: printed(frame.func, self.release),
            rest: place(frame.file, frame.line, into),
            inlined: frame.inlined,
            wrapper: frame.wrapper,
            panics: !frame.wrapper && tracebacks::shows_its_wrapper(frame.func),
            shown: tracebacks::shows(frame.func, self.release),
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

/// The line with the place. `into` is the offset of the pc from the function's entry; 0 leaves it out.
pub(super) fn place(file: &str, line: u32, into: u64) -> String {
    let file = if file.is_empty() { "?".into() } else { clean(file) };
    if into == 0 { format!("\t{file}:{line}\n") } else { format!("\t{file}:{line} +{into:#x}\n") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sfgi_core::testing::binary::entry_of;
    use sfgi_core::testing::binary::{Recipe, WRAPPER, binary};

    fn written(version: &'static str, stack: &[Pc], args: Option<&str>) -> String {
        let binary = GoBinary::parse(binary(Recipe { version, pie: false, heap: false }).into()).unwrap();
        let mut out = Vec::new();
        Renderer::new(&binary, 0x1000).render(stack).write(&mut out, args).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn at(function: &str, into: u64) -> Pc {
        Pc::of_return(entry_of(function) + 0x1000 + into)
    }

    const MAIN: &str = "main.main(...)\n\t/src/main.go:11 +0x14\n";

    #[test]
    fn frames_with_and_without_arguments() {
        let stack =
            [at("runtime.casgstatus", 20), at("main.main", 15), at("main.main", 20), at("runtime.main", 20)];
        let inlined = "main.outer(...)\n\t/src/main.go:20\nmain.main(0x1)\n\t/src/main.go:10 +0xf\n";
        let expected = format!("{inlined}{}", MAIN.replace("...", "0x2, _"));
        assert_eq!(written("go1.26.6", &stack, Some("\n0x1\n0x2, _\n\n")), expected);
        assert_eq!(written("go1.26.6", &stack, None), format!("{}{MAIN}", inlined.replace("0x1)", "...)")));
        assert_eq!(written("go1.26.6", &[at("main.main", 20); 2], Some("")), MAIN.replace("...", "") + MAIN);
    }

    #[test]
    fn an_exact_pc_is_looked_up_itself() {
        let entry = Pc::exact(entry_of("main.main") + 0x1000);
        assert_eq!(written("go1.26.6", &[entry], None), "main.main(...)\n\t/src/main.go:10\n");
        let exact = Pc::exact(entry_of("main.main") + 0x1000 + 16);
        assert_eq!(written("go1.26.6", &[exact], None), "main.main(...)\n\t/src/main.go:11 +0x10\n");
    }

    #[test]
    fn where_nothing_is_to_be_shown_all_is() {
        let text = written("go1.26.6", &[at("runtime.casgstatus", 20), at("runtime.main", 20)], None);
        assert_eq!(
            text,
            "runtime.casgstatus(...)\n\t/src/main.go:11 +0x14\nruntime.main(...)\n\t/src/main.go:11 +0x14\n"
        );
        assert_eq!(written("go1.26.6", &[at(WRAPPER, 20)], None).lines().count(), 2);
        assert_eq!(written("go1.26.6", &[at(WRAPPER, 20), at("main.main", 20)], None), MAIN);
        assert_eq!(written("go1.26.6", &[], None), "");
        assert_eq!(written("go1.26.6", &[Pc::of_return(7)], None), "");
    }

    #[test]
    fn long_stacks_are_cut() {
        let text = |version, count: usize| written(version, &vec![at("main.main", 20); count], None);
        assert_eq!(text("go1.26.6", 100), MAIN.repeat(100));
        let elided = format!("{0}...1 frames elided...\n{0}", MAIN.repeat(50));
        assert_eq!(text("go1.26.6", 101), elided);
        assert_eq!(text("go1.19.8", 99), MAIN.repeat(99));
        let elided = MAIN.repeat(100) + "...additional frames elided...\n";
        assert_eq!(text("go1.19.8", 100), elided);
        assert_eq!(text("go1.19.8", 101), elided);
    }
}
