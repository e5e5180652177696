//! `sfgi doctor`: what this host and a binary allow.

use super::opened::{LayoutArg, Opened};
use crate::{live::in_words, probe, probe::Calibration};
use anyhow::Result;
use clap::Args as ClapArgs;
use sfgi_core::{
    event::Mode,
    plan::{CostClass, Plan},
};
use std::{fs, path::PathBuf};

#[derive(ClapArgs)]
#[command(after_help = "\
EXAMPLES
  sfgi doctor                  is this host fit, and what does a probe cost here?
  sfgi doctor -p 1234          which probes would stand where in process 1234
  sfgi doctor ./server         the same for a file")]
pub(super) struct Args {
    /// Process to look at
    #[arg(short, long, value_name = "PID", conflicts_with = "file")]
    pid: Option<u32>,
    /// Executable to look at
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    layout: LayoutArg,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    println!("kernel       {}", kernel.trim());
    probe::check_host()?;
    let calibration = probe::calibrate()?;
    println!(
        "uprobes      yes, {:.0} ns a hit where the kernel emulates the instruction,",
        calibration.emulated_ns
    );
    println!("             {:.0} ns where it single-steps", calibration.single_stepped_ns);
    println!("BTF          yes");
    let Some(Opened { binary, name, .. }) = open(args)? else { return Ok(()) };
    println!("binary       {}", name.display());
    println!("Go           {}", binary.version().raw);
    println!("module       {}", binary.info().path.as_deref().unwrap_or("unknown"));
    println!("layout       {}", binary.layout().source());
    for mode in [Mode::Full, Mode::Wait, Mode::Life] {
        let plan = Plan::choose(&binary, mode, None, true)?;
        println!("\nmode {mode}: {}", in_words(&plan, mode, false));
        print_plan(&plan, &calibration);
    }
    Ok(())
}

fn open(args: &Args) -> Result<Option<Opened>> {
    match (args.pid, &args.file) {
        (Some(pid), _) => Opened::process(pid, &args.layout).map(Some),
        (None, Some(path)) => Opened::file(path, &args.layout).map(Some),
        (None, None) => Ok(None),
    }
}

fn print_plan(plan: &Plan, calibration: &Calibration) {
    println!("  {:<46} {:>10} {:>9}  {:<28} {:>8}", "FUNCTION", "ADDRESS", "OFFSET", "INSTRUCTION", "NS/HIT");
    for probe in &plan.probes {
        let (ns, mark) = match probe.cost() {
            CostClass::Emulated => (calibration.emulated_ns, ""),
            CostClass::SingleStepped => (calibration.single_stepped_ns, "  single-stepped"),
        };
        println!(
            "  {:<46} {:>#10x} {:>#9x}  {:<28} {ns:>8.0}{mark}",
            probe.function, probe.placement.vaddr, probe.file_offset, probe.placement.instruction
        );
    }
    for missing in &plan.missing {
        println!("  {:<46} not probed: {}", missing.function, missing.reason);
    }
}
