//! What a fixture's source says about the stacks that its goroutines can have: each line belongs to a function, and a
//! line that calls a function contains its name. A stack that is put together from two goroutines, or from two
//! moments of one, contradicts the source.

use std::{collections::HashMap, fs};

use anyhow::{Context, Result, ensure};

use crate::{
    fixture,
    traceback::{Creator, ELIDED, Frame, Goroutine},
};

/// What the line of the fixture that waits must contain, by status (`src/runtime/runtime2.go`, `waitReasonStrings`).
const WAITS: [(&str, &[&str]); 7] = [
    ("chan receive", &["<-"]),
    ("chan send", &["<-"]),
    ("select", &["select"]),
    ("sleep", &["time.Sleep("]),
    ("sync.Mutex.Lock", &[".Lock("]),
    ("sync.RWMutex.Lock", &[".Lock("]),
    ("sync.WaitGroup.Wait", &[".Wait("]),
];

/// The lines of one fixture's source files, by file name.
#[derive(Debug)]
pub struct Source(HashMap<String, Vec<String>>);

impl Source {
    /// Reads the source of a fixture.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of(fixture: &str) -> Result<Source> {
        let mut files = HashMap::new();
        for entry in fs::read_dir(fixture::sources_dir().join(fixture))? {
            let path = entry?.path();
            let name = file_name(&path.to_string_lossy()).to_owned();
            files.insert(name, fs::read_to_string(&path)?.lines().map(str::to_owned).collect());
        }
        Ok(Source(files))
    }

    /// Checks that a goroutine that `package main` started can have this stack.
    ///
    /// # Errors
    /// It cannot; the error says why.
    pub fn check(&self, goroutine: &Goroutine) -> Result<()> {
        self.possible(goroutine).with_context(|| format!("impossible: {goroutine}"))
    }

    fn possible(&self, goroutine: &Goroutine) -> Result<()> {
        let frames = match goroutine.frames.as_slice() {
            // Up to Go 1.20 the frame below a goroutine that has not run yet is shown, too.
            [frames @ .., last] if last.func == "runtime.goexit" => frames,
            frames => frames,
        };
        if frames.iter().all(|frame| frame.func.starts_with("runtime.goexit")) && !frames.is_empty() {
            return Ok(()); // it has come to its end
        }
        for frame in frames.iter().filter(|frame| is_main(&frame.func)) {
            self.is_in(&frame.func, &frame.file, frame.line)?;
        }
        for pair in frames.windows(2) {
            self.calls(&pair[1], &pair[0])?;
        }
        // Locks of the library itself: the first timer reads GODEBUG, and others wait for it meanwhile.
        let own = frames.iter().any(|frame| frame.func.starts_with("internal/godebug."));
        if let Some(frame) = frames.iter().find(|frame| is_main(&frame.func)).filter(|_| !own) {
            self.waits(&goroutine.status, frame)?;
        }
        let creator = goroutine.creator.as_ref().context("it has no creator")?;
        let outermost = frames.last().context("it has no stack")?;
        // Up to Go 1.20 only the innermost 100 frames are shown, the runtime's hidden ones counted
        // (`_TracebackMaxFrames`), and the traceback does not always say that it leaves some out.
        if frames.len() >= 90 { Ok(()) } else { self.starts(creator, outermost) }
    }

    /// Checks that `func` contains this line.
    fn is_in(&self, func: &str, file: &str, line: u32) -> Result<()> {
        let lines =
            self.0.get(file_name(file)).with_context(|| format!("not a file of the fixture: {file}"))?;
        let before = lines.get(..line as usize).with_context(|| format!("{file} has no line {line}"))?;
        let around = before.iter().rev().find_map(|line| line.strip_prefix("func "));
        let around = around.with_context(|| format!("line {line} is in no function"))?;
        let name = name(func);
        let found = around.starts_with(&format!("{name}(")) || around.contains(&format!(") {name}("));
        ensure!(found, "{file}:{line} is not in {func}");
        Ok(())
    }

    /// Checks that `caller` calls `callee` on its line. Where a function of one number calls itself, the callee's
    /// number must be one less.
    fn calls(&self, caller: &Frame, callee: &Frame) -> Result<()> {
        if !is_main(&caller.func) || callee.func.starts_with("runtime.") || callee.func == ELIDED {
            return Ok(());
        }
        let line = self.line(&caller.file, caller.line)?;
        let named = line.contains(&format!("{}(", name(&callee.func)));
        ensure!(named, "{} does not call {}: {line}", caller.func, callee.func);
        if let (true, Some(above), Some(below)) = (caller.func == callee.func, number(caller), number(callee))
        {
            ensure!(above == below + 1, "{} with {above} calls itself with {below}", caller.func);
        }
        Ok(())
    }

    /// Checks that `frame` waits on its line for what the status says.
    fn waits(&self, status: &str, frame: &Frame) -> Result<()> {
        let Some((_, words)) = WAITS.iter().find(|(reason, _)| *reason == status) else { return Ok(()) };
        let line = self.line(&frame.file, frame.line)?;
        ensure!(words.iter().any(|word| line.contains(word)), "no {status} on its line: {line}");
        Ok(())
    }

    /// Checks that the creator's line starts `outermost`, or that `outermost` is that line's wrapper: the function
    /// that the compiler makes for a `go` statement with arguments, seen before it has called anything.
    fn starts(&self, creator: &Creator, outermost: &Frame) -> Result<()> {
        ensure!(is_main(&outermost.func), "its outermost function is {}", outermost.func);
        self.is_in(&creator.func, &creator.file, creator.line)?;
        let line = self.line(&creator.file, creator.line)?;
        let is_wrapper = wrapped(&outermost.func) == Some(&creator.func) && outermost.line == creator.line;
        let started = line.contains(&format!("go {}(", name(&outermost.func)));
        ensure!(started || is_wrapper, "{} is not started by: {line}", outermost.func);
        Ok(())
    }

    fn line(&self, file: &str, line: u32) -> Result<&str> {
        let lines = self.0.get(file_name(file));
        let text = lines.and_then(|lines| lines.get((line as usize).checked_sub(1)?));
        text.map(String::as_str).with_context(|| format!("no line {line} in {file}"))
    }
}

fn is_main(func: &str) -> bool {
    func.starts_with("main.")
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// `Lock` of `sync.(*Mutex).Lock`; for a function literal, the name of the function around it.
fn name(func: &str) -> &str {
    let func = wrapped(func).unwrap_or(func);
    func.rsplit('.').next().unwrap_or(func)
}

/// `main.move` of `main.move.gowrap1`, and of `main.move.func1`, as the wrapper is called up to Go 1.21.
fn wrapped(func: &str) -> Option<&str> {
    let (around, last) = func.rsplit_once('.')?;
    let number = last.strip_prefix("gowrap").or_else(|| last.strip_prefix("func"))?;
    (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(around)
}

/// The first argument, if it is the only one and certain (without a `?`).
fn number(frame: &Frame) -> Option<u64> {
    u64::from_str_radix(frame.args.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
func start() {
\tgo outer(9)
}

func outer(n int) {
\tinner(n)
}

func inner(n int) {
\t<-never
\tinner(n - 1)
}
";

    fn source() -> Source {
        Source(HashMap::from([("main.go".to_owned(), FILE.lines().map(str::to_owned).collect())]))
    }

    fn goroutine(status: &str, frames: &[(&str, &str, u32)], creator: u32) -> Goroutine {
        let frame = |&(func, args, line): &(&str, &str, u32)| Frame {
            func: format!("main.{func}"),
            args: args.to_owned(),
            file: "/src/main.go".to_owned(),
            line,
            offset: String::new(),
        };
        let (func, file) = ("main.start".to_owned(), "/src/main.go".to_owned());
        Goroutine {
            status: status.to_owned(),
            frames: frames.iter().map(frame).collect(),
            creator: Some(Creator { func, file, goid: None, line: creator }),
            ..Goroutine::default()
        }
    }

    #[test]
    fn possible_stacks_pass() {
        let source = source();
        source
            .check(&goroutine(
                "chan receive",
                &[("inner", "0x1", 10), ("inner", "0x2", 11), ("inner", "0x7?", 11), ("outer", "0x9", 6)],
                2,
            ))
            .unwrap();
        source.check(&goroutine("runnable", &[("outer", "...", 5)], 2)).unwrap();
        source.check(&goroutine("runnable", &[("start.gowrap1", "", 2)], 2)).unwrap();
    }

    #[test]
    fn each_contradiction_is_found() {
        let cases = [
            ("is not in", goroutine("runnable", &[("inner", "", 6), ("outer", "", 6)], 2)),
            ("does not call", goroutine("runnable", &[("inner", "", 10), ("outer", "", 5)], 2)),
            (
                "calls itself",
                goroutine("runnable", &[("inner", "0x1", 10), ("inner", "0x3", 11), ("outer", "", 6)], 2),
            ),
            ("no chan receive", goroutine("chan receive", &[("inner", "", 11), ("outer", "", 6)], 2)),
            ("not started by", goroutine("runnable", &[("inner", "", 10)], 2)),
            ("is not in main.start", goroutine("runnable", &[("outer", "", 5)], 6)),
            ("not started by", goroutine("runnable", &[("start.gowrap1", "", 3)], 2)),
            ("no stack", goroutine("runnable", &[], 2)),
        ];
        for (words, goroutine) in cases {
            let error = source().check(&goroutine).unwrap_err();
            assert!(format!("{error:#}").contains(words), "{words}: {error:#}");
        }
    }
}
