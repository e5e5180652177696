//! The table of layouts by version, for binaries without DWARF. The data is `layouts.json`, made by
//! `cargo xtask layouts` from the DWARF of real toolchains.

use crate::binary::elf::Arch;
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
    /// The first release that has this layout.
    go: String,
    /// The last one of its series, if that is another one: all between them that were looked at
    /// are the same.
    last: Option<String>,
    arch: String,
}

/// One row of the table.
pub(super) struct Found {
    /// Its version, e.g. `1.24.11`; of a row for several the one that is nearest.
    pub name: String,
    /// Whether the version asked for lies within it.
    pub holds: bool,
    /// By `struct.field`.
    pub offsets: HashMap<String, u32>,
}

impl Row {
    /// First and last patch number, if the row is one of this series and architecture.
    fn patches(&self, arch: Arch, minor: u32) -> Option<(u32, u32)> {
        let patch = |release: &str| {
            let (series, patch) = release.strip_prefix("1.")?.split_once('.')?;
            (series.parse() == Ok(minor)).then(|| patch.parse().ok())?
        };
        let first = (self.arch == arch.go_name()).then(|| patch(&self.go))??;
        Some((first, self.last.as_deref().map_or(Some(first), patch)?))
    }
}

/// The row that holds Go 1.`minor`.`patch`; else those before and behind it in its series.
pub(super) fn lookup(arch: Arch, minor: u32, patch: u32) -> Vec<Found> {
    let Some(table) = TABLE.as_ref() else { return Vec::new() };
    let series: Vec<_> = (table.rows.iter().enumerate())
        .filter_map(|(index, row)| Some((row.patches(arch, minor)?, index)))
        .collect();
    let before = series.iter().filter(|((first, _), _)| *first <= patch).max();
    let behind = series.iter().filter(|((first, _), _)| *first > patch).min();
    let holds = |row: &&((u32, u32), usize)| (row.0.0..=row.0.1).contains(&patch);
    let rows = match before.filter(holds) {
        Some(row) => vec![row],
        None => before.into_iter().chain(behind).collect(),
    };
    let found = |row: &((u32, u32), usize)| {
        let offset = |column: &Vec<Option<u32>>| column.get(row.1).copied().flatten();
        let offsets =
            table.offsets.iter().filter_map(|(field, column)| Some((field.clone(), offset(column)?)));
        let nearest = patch.clamp(row.0.0, row.0.1);
        Found { name: format!("1.{minor}.{nearest}"), holds: holds(&row), offsets: offsets.collect() }
    };
    rows.into_iter().map(found).collect()
}
