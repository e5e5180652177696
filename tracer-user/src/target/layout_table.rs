//! The table of layouts by version, for binaries without DWARF. The data is `layouts.json`, which
//! says itself how it was made.

use super::elf::Arch;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::LazyLock;

const DATA: &str = include_str!("layouts.json");

static TABLE: LazyLock<Option<Table>> = LazyLock::new(|| serde_json::from_str(DATA).ok());

#[derive(Deserialize)]
struct Table {
    rows: Vec<Row>,
    /// By field, an offset for each row; none where the version has no such field.
    offsets: HashMap<String, Vec<Option<u32>>>,
}

#[derive(Deserialize)]
struct Row {
    go: String,
    arch: String,
}

impl Row {
    /// The patch number, if the row is one of this series and architecture.
    fn patch(&self, arch: Arch, minor: u32) -> Option<u32> {
        let (series, patch) = self.go.strip_prefix("1.")?.split_once('.')?;
        (self.arch == arch.go_name() && series.parse() == Ok(minor)).then(|| patch.parse().ok())?
    }
}

/// The fields of Go 1.`minor`.`patch`, and which rows they are from: the row of this very version,
/// what the rows before and after it agree on, or the nearest row at the end of the series.
pub(super) fn lookup(arch: Arch, minor: u32, patch: u32) -> Option<(String, HashMap<String, u32>)> {
    let table = TABLE.as_ref()?;
    let series: Vec<_> = (table.rows.iter().enumerate())
        .filter_map(|(index, row)| Some((row.patch(arch, minor)?, index, &row.go)))
        .collect();
    let before = series.iter().filter(|row| row.0 <= patch).max();
    let after = series.iter().filter(|row| row.0 >= patch).min();
    let (first, last) = (before.or(after)?, after.or(before)?);
    let offset = |row: &[Option<u32>]| {
        let offset = row.get(first.1).copied()??;
        (row.get(last.1) == Some(&Some(offset))).then_some(offset)
    };
    let offsets =
        (table.offsets.iter()).filter_map(|(field, row)| Some((field.clone(), offset(row)?))).collect();
    let rows = if first == last { first.2.clone() } else { format!("{}–{}", first.2, last.2) };
    Some((rows, offsets))
}
