//! Prints all goroutines of a running Go program: id, state, wait reason and the functions on the stack.
//!
//! `cargo run -p sfgi-core --example goroutines -- PID`, as root or as the user of the process.

use anyhow::{Context as _, Result};
use sfgi_core::{
    binary::GoBinary,
    memory::Live,
    process::Process,
    snapshot::{self, Clock, Options, View},
};

fn main() -> Result<()> {
    let pid = std::env::args().nth(1).context("usage: goroutines PID")?.parse()?;
    let process = Process::open(pid)?;
    let binary = GoBinary::read(process.exe()?)?;
    let bias = process.load_bias(binary.image().entry())?;
    let memory = Live::of(&process);
    let view = View { memory: &memory, binary: &binary, bias, clock: Clock::Live };
    let options = Options { stacks: true, ..Options::default() };
    let snapshot = snapshot::take(&view, options, &mut |_, _| {})?;
    for goroutine in &snapshot.goroutines {
        let reason = if goroutine.state.waits() { binary.wait_reasons().text(goroutine.reason) } else { "" };
        println!("goroutine {} {} {reason}", goroutine.goid, goroutine.state);
        for pc in snapshot.stacks.get(goroutine.stack) {
            for frame in binary.symbolize(pc.lookup().wrapping_sub(bias)) {
                println!("    {} {}:{}", frame.func, frame.file, frame.line);
            }
        }
    }
    Ok(())
}
