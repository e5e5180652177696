//! Executables that say to be larger than they are, or that cost more to read than they have.

use std::{
    fs::{self, OpenOptions, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    time::Duration,
};

use super::{MIB, run};
use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    process::Process,
    toolchain::Go,
};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(a_sparse_program_that_is_not_even_go),
        live(a_go_program_with_a_hole),
        live(a_program_with_hostile_dwarf),
    ]
}

const HUGE: u64 = 2 << 30;

/// What reading an executable may take on the slowest machine, the start of sfgi included.
const SOON: Duration = Duration::from_secs(10);

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn program(path: &Path, content: &[u8], len: u64) -> Result<()> {
    fs::write(path, content)?;
    OpenOptions::new().write(true).open(path)?.set_len(len)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))?;
    Ok(())
}

/// An ELF file of two gigabytes that are mapped and not there, without sections. It waits for signals.
fn a_sparse_program_that_is_not_even_go() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("sparse");
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    file.extend(words(&[0x40_0078, 64, 0, 56 << 32 | 64 << 32, 0]));
    file.truncate(48);
    file.extend([0, 0, 0, 0]);
    for field in [64u16, 56, 1, 64, 0, 0] {
        file.extend(field.to_le_bytes());
    }
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    file.extend(words(&[0, 0x40_0000, 0x40_0000, HUGE, HUGE, 4096]));
    // mov eax, SYS_pause; syscall; jmp to the first.
    file.extend([0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7]);
    program(&path, &file, HUGE)?;
    let target = Process::spawn(&mut Command::new(&path))?;
    let pid = target.pid().to_string();
    for command in [&["dump"][..], &["leaks"], &["doctor"]] {
        let ended = run(&[command, &["-p", &pid]].concat())?.within(96 * MIB, SOON)?;
        ended.says(1, &["not a Go program"]).with_context(|| format!("{command:?}"))?;
    }
    run(&["ps"])?.within(256 * MIB, Duration::from_secs(60))?.says(0, &[])?;
    Ok(())
}

/// A Go program whose last program header maps two gigabytes that are not there.
fn a_go_program_with_a_hole() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("hole");
    let mut data = fs::read(fixture::build("pingpong", &Go::newest(), Variant::Plain)?)?;
    let count = usize::from(u16::from_le_bytes([data[56], data[57]]));
    let header = 64 + (count - 1) * 56;
    let is_load = |at: usize| data.get(at) == Some(&1);
    ensure!(!is_load(header), "the last program header is needed");
    let at = (data.len() as u64).next_multiple_of(4096);
    data[header..header + 8].copy_from_slice(&[1, 0, 0, 0, 4, 0, 0, 0]);
    data[header + 8..header + 56].copy_from_slice(&words(&[
        at,
        0x1_0000_0000,
        0x1_0000_0000,
        HUGE,
        HUGE,
        4096,
    ]));
    program(&path, &data, at + HUGE)?;
    let target = fixture::start_command(Command::new(&path).args(["-d", "60s"]))?;
    let pid = target.pid().to_string();
    let ended = run(&["dump", "-p", &pid])?.within(160 * MIB, SOON)?.says(0, &["goroutines read"])?;
    ensure!(ended.stdout.contains("main.main"), "{}", ended.stdout);
    run(&["leaks", "-p", &pid])?.within(256 * MIB, Duration::from_secs(30))?.says(0, &[])?;
    Ok(())
}

/// A release that is not in the table, so that its DWARF is looked at: tiny units with a large table of abbreviations,
/// and entries that are small only while they are compressed.
fn a_program_with_hostile_dwarf() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let go = Go::newest();
    let plain = fixture::build("pingpong", &go, Variant::Stripped)?;
    let mut table = Vec::new();
    // A code of three bytes, which is never the same, a tag, no children, no attributes.
    for code in 0..80_000u32 {
        table.extend([code as u8 | 0x80, (code >> 7) as u8 | 0x80, (code >> 14) as u8, 0x11, 0, 0, 0]);
    }
    let mut units = Vec::new();
    for number in 0..24_000u32 {
        units.extend([9, 0, 0, 0, 5, 0, 1, 8]);
        units.extend((number * 7).to_le_bytes());
        units.push(1);
    }
    let mut entries = (64u32 << 20).to_le_bytes().to_vec();
    entries.extend([5, 0, 1, 8, 0, 0, 0, 0]);
    entries.resize((64 << 20) + 4, 1);
    for (name, info, compress) in [("units", &units, false), ("compressed", &entries, true)] {
        let [info_file, table_file, made] = ["info", "abbrev", name].map(|name| dir.path().join(name));
        fs::write(&info_file, info)?;
        fs::write(&table_file, if compress { &[1, 0x11, 0, 0, 0, 0][..] } else { &table })?;
        let mut objcopy = Command::new("objcopy");
        for (section, file) in [(".debug_info", &info_file), (".debug_abbrev", &table_file)] {
            objcopy.arg("--add-section").arg(format!("{section}={}", file.display()));
        }
        if compress {
            objcopy.arg("--compress-debug-sections=zlib");
        }
        let status = objcopy.arg(&plain).arg(&made).status()?;
        ensure!(status.success(), "objcopy: {status}");
        let mut data = fs::read(&made)?;
        let (known, next) = (format!("go{}", go.version), format!("go1.9{}", &go.version[3..]));
        ensure!(known.len() == next.len(), "{known} and {next}");
        let places: Vec<_> =
            (0..data.len() - known.len()).filter(|at| data[*at..].starts_with(known.as_bytes())).collect();
        for at in places {
            data[at..at + next.len()].copy_from_slice(next.as_bytes());
        }
        fs::write(&made, data)?;
        fs::set_permissions(&made, Permissions::from_mode(0o755))?;
        let target = fixture::start_command(Command::new(&made).args(["-d", "60s"])).context(name)?;
        let pid = target.pid().to_string();
        let ended = run(&["dump", "-p", &pid])?.within(256 * MIB, Duration::from_secs(30)).context(name)?;
        ended.says(0, &["checked against the code"]).context(name)?;
    }
    Ok(())
}
