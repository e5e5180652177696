//! The runtime's traceback of goroutines, in the form that `runtime.Stack`, `pprof.Lookup("goroutine")` with debug=2
//! and `sfgi dump` print it (`src/runtime/traceback.go`, `goroutineheader` and `traceback2`).

use std::{collections::BTreeMap, fmt};

use anyhow::{Context, Result};

/// The "function" of a frame that stands for frames that were left out of a deep stack (`...12 frames elided...`, in
/// the middle, Go 1.21+; up to 1.20 `...additional frames elided...`, at the end).
pub const ELIDED: &str = "...";

/// One goroutine of a traceback.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Goroutine {
    pub goid: u64,
    /// Why it waits, or its state: the first words between the brackets, without `(scan)`.
    pub status: String,
    /// For how many whole minutes it has been waiting; 0 where the traceback does not say.
    pub minutes: u64,
    /// Further words between the brackets, such as `locked to thread`.
    pub remarks: Vec<String>,
    /// Innermost first. One called [`ELIDED`] stands for frames that were left out.
    pub frames: Vec<Frame>,
    /// Its `go` statement; `None` for the main goroutine.
    pub creator: Option<Creator>,
    /// Lines that are neither a frame nor a creator.
    pub notes: Vec<String>,
}

/// A call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Such as `main.(*turn).still`.
    pub func: String,
    /// The text between the parentheses; `...` for an inlined function.
    pub args: String,
    pub file: String,
    pub line: u32,
    /// `+0x…` behind the line; empty for an inlined function.
    pub offset: String,
}

/// A `go` statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Creator {
    /// The function that contains it.
    pub func: String,
    /// The goroutine that executed it (Go 1.21+).
    pub goid: Option<u64>,
    pub file: String,
    pub line: u32,
}

impl Goroutine {
    /// The goroutine without what changes as time passes.
    pub fn timeless(&self) -> Goroutine {
        Goroutine { minutes: 0, ..self.clone() }
    }
}

/// As the runtime prints it.
impl fmt::Display for Goroutine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = if self.minutes == 0 { String::new() } else { format!(", {} minutes", self.minutes) };
        let remarks: String = self.remarks.iter().map(|remark| format!(", {remark}")).collect();
        writeln!(f, "goroutine {} [{}{minutes}{remarks}]:", self.goid, self.status)?;
        for note in &self.notes {
            writeln!(f, "\t{note}")?;
        }
        for frame in &self.frames {
            writeln!(f, "{}({})\n\t{}:{} {}", frame.func, frame.args, frame.file, frame.line, frame.offset)?;
        }
        let Some(creator) = &self.creator else { return Ok(()) };
        let goid = creator.goid.map_or_else(String::new, |goid| format!(" in goroutine {goid}"));
        writeln!(f, "created by {}{goid}\n\t{}:{}", creator.func, creator.file, creator.line)
    }
}

/// Reads a traceback of many goroutines.
///
/// # Errors
/// It is not in the runtime's form, or a goroutine occurs twice.
pub fn parse(text: &str) -> Result<BTreeMap<u64, Goroutine>> {
    let mut all = BTreeMap::new();
    for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
        let goroutine = goroutine(paragraph.trim_matches('\n'))
            .with_context(|| format!("not a traceback:\n{paragraph}"))?;
        let goid = goroutine.goid;
        anyhow::ensure!(all.insert(goid, goroutine).is_none(), "goroutine {goid} occurs twice");
    }
    Ok(all)
}

fn goroutine(paragraph: &str) -> Result<Goroutine> {
    let mut lines = paragraph.lines();
    let mut goroutine = header(lines.next().unwrap_or_default()).context("its first line")?;
    while let Some(line) = lines.next() {
        if line.starts_with('\t') {
            goroutine.notes.push(line.trim().to_owned());
            continue;
        }
        if let Some(what) = line.strip_prefix(ELIDED) {
            let (func, args) = (ELIDED.to_owned(), what.to_owned());
            goroutine.frames.push(Frame { func, args, ..Frame::default() });
            continue;
        }
        let (file, number, offset) =
            lines.next().and_then(place).with_context(|| format!("no place: {line}"))?;
        if let Some(creator) = line.strip_prefix("created by ") {
            let (func, goid) = match creator.rsplit_once(" in goroutine ") {
                Some((func, goid)) => (func, Some(goid.parse()?)),
                None => (creator, None),
            };
            goroutine.creator = Some(Creator { func: func.to_owned(), goid, file, line: number });
        } else {
            let (func, args) = call(line).with_context(|| format!("no call: {line}"))?;
            goroutine.frames.push(Frame { func, args, file, line: number, offset });
        }
    }
    Ok(goroutine)
}

/// Reads `goroutine 7 [chan receive, 3 minutes, locked to thread]:`. Since Go 1.27 labels may follow the bracket.
fn header(line: &str) -> Option<Goroutine> {
    let (goid, rest) = line.strip_prefix("goroutine ")?.split_once(" [")?;
    let (inside, _) = rest.strip_suffix(':')?.rsplit_once(']')?;
    let mut parts = inside.split(", ");
    let mut goroutine = Goroutine {
        goid: goid.parse().ok()?,
        status: parts.next()?.replace(" (scan)", ""),
        ..Goroutine::default()
    };
    for part in parts {
        match part.strip_suffix(" minutes") {
            Some(minutes) => goroutine.minutes = minutes.parse().ok()?,
            None => goroutine.remarks.push(part.to_owned()),
        }
    }
    Some(goroutine)
}

/// Reads `main.(*turn).still(0x1, {0x2, 0x3})`. The arguments contain no parenthesis, so they begin at the last one
/// that opens.
fn call(line: &str) -> Option<(String, String)> {
    let (func, args) = line.strip_suffix(')')?.rsplit_once('(')?;
    Some((func.to_owned(), args.to_owned()))
}

/// Reads `\t/path/file.go:12 +0x1d`.
fn place(line: &str) -> Option<(String, u32, String)> {
    let place = line.strip_prefix('\t')?;
    let (place, offset) = match place.rsplit_once(" +0x") {
        Some((place, offset)) => (place, format!("+0x{offset}")),
        None => (place, String::new()),
    };
    let (file, number) = place.rsplit_once(':')?;
    Some((file.to_owned(), number.parse().ok()?, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
goroutine 1 [running]:
main.main()
	/src/main.go:31 +0xff

goroutine 7 [chan receive (scan), 3 minutes, locked to thread]:
main.(*turn).still(...)
	/src/main.go:79
main.deep[...](0x28, {0x1?, 0x2})
	/src/a file.go:80 +0x1d
...12 frames elided...
created by main.standStill in goroutine 1
	/src/main.go:36 +0x7b

goroutine 9 [running]:
	goroutine running on other thread; stack unavailable
created by main.main
	/src/main.go:5 +0x7b
";

    #[test]
    fn a_traceback_is_read() {
        let all = parse(TEXT).unwrap();
        assert_eq!(all.keys().copied().collect::<Vec<_>>(), [1, 7, 9]);
        let seven = &all[&7];
        assert_eq!((seven.status.as_str(), seven.minutes), ("chan receive", 3));
        assert_eq!(seven.remarks, ["locked to thread"]);
        let frames: Vec<_> =
            seven.frames.iter().map(|f| (f.func.as_str(), f.args.as_str(), f.line)).collect();
        let expected = [
            ("main.(*turn).still", "...", 79),
            ("main.deep[...]", "0x28, {0x1?, 0x2}", 80),
            (ELIDED, "12 frames elided...", 0),
        ];
        assert_eq!(frames, expected);
        assert_eq!(
            (seven.frames[1].file.as_str(), seven.frames[1].offset.as_str()),
            ("/src/a file.go", "+0x1d")
        );
        let creator = seven.creator.as_ref().unwrap();
        assert_eq!((creator.func.as_str(), creator.goid, creator.line), ("main.standStill", Some(1), 36));
        assert_eq!(all[&9].creator.as_ref().unwrap().goid, None);
        assert_eq!(all[&9].notes, ["goroutine running on other thread; stack unavailable"]);
        assert_eq!(all[&1].creator, None);
    }

    #[test]
    fn other_text_and_doubles_are_errors() {
        assert!(parse("goroutine x [running]:\nmain.main()\n\t/src/main.go:31 +0xff\n").is_err());
        assert!(parse("goroutine 1 [running]:\nmain.main()\n").is_err());
        assert!(parse("goroutine 1 [running]:\n\ngoroutine 1 [running]:\n").is_err());
    }
}
