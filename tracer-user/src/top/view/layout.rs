//! Where things are on the screen: for drawing, and for the mouse.

use crate::top::{By, Column};
use std::ops::Range;

/// Columns for the marks before a row.
pub(in crate::top) const MARKS: u16 = 2;
/// Columns of the process id, where there are several.
const PID: u16 = 8;
/// Targets that have a line in the head.
pub(in crate::top) const MAX_HEADS: usize = 4;
/// What stands before the tabs, and between two.
const BETWEEN_TABS: u16 = 1;

/// Lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::top) struct Areas {
    pub(in crate::top) head: Range<u16>,
    pub(in crate::top) tabs: u16,
    pub(in crate::top) titles: u16,
    pub(in crate::top) body: Range<u16>,
    pub(in crate::top) footer: u16,
}

impl Areas {
    pub(in crate::top) fn of(height: u16, targets: usize) -> Areas {
        let head = match targets {
            0 | 1 => 3,
            several => u16::try_from(several.min(MAX_HEADS + 1)).unwrap_or(1),
        };
        let footer = height.saturating_sub(1);
        let titles = (head + 1).min(footer);
        Areas { head: 0..head, tabs: head, titles, body: (titles + 1).min(footer)..footer, footer }
    }

    /// The first row that is shown, so that the chosen one of `rows` is: pages, so that rows keep their place.
    pub(in crate::top) fn first(&self, chosen: usize, rows: usize) -> usize {
        let lines = usize::from(self.body.end - self.body.start).max(1);
        let room = if rows > lines { lines - usize::from(lines > 1) } else { lines };
        chosen / room.max(1) * room
    }
}

/// Where a column is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::top) struct Slot {
    /// Which one; `None`: the process id.
    pub(in crate::top) column: Option<usize>,
    pub(in crate::top) x: u16,
    pub(in crate::top) width: u16,
}

/// The columns that a table of this width has room for.
pub(in crate::top) fn slots(columns: &[Column], width: u16, several: bool) -> Vec<Slot> {
    let shown: Vec<usize> = (0..columns.len()).filter(|at| width >= columns[*at].from).collect();
    let fixed: u16 = shown.iter().map(|at| columns[*at].width + 1).sum();
    let fixed = fixed + MARKS + if several { PID + 1 } else { 0 };
    let shares = shown.iter().filter(|at| columns[**at].width == 0).count();
    let share = width.saturating_sub(fixed) / u16::try_from(shares.max(1)).unwrap_or(1);
    let pid = several.then_some((None, PID));
    let named =
        shown.iter().map(|at| (Some(*at), if columns[*at].width == 0 { share } else { columns[*at].width }));
    let mut x = MARKS;
    let place = |(column, wanted): (Option<usize>, u16)| {
        let slot = Slot { column, x, width: wanted.min(width.saturating_sub(x)) };
        x += wanted + 1;
        slot
    };
    pid.into_iter().chain(named).map(place).filter(|slot| slot.width > 0).collect()
}

/// The tabs' texts, with where they begin.
pub(in crate::top) fn tabs() -> impl Iterator<Item = (By, u16, String)> {
    let mut x = BETWEEN_TABS;
    By::ALL.into_iter().zip(1..).map(move |(by, number)| {
        let text = format!("{number} {}", by.name());
        let at = x;
        x += u16::try_from(text.len()).unwrap_or(0) + 1 + BETWEEN_TABS;
        (by, at, text)
    })
}

/// The tab at this column.
pub(in crate::top) fn tab_at(column: u16) -> Option<By> {
    let hit = |(_, x, text): &(By, u16, String)| {
        (*x..*x + u16::try_from(text.len()).unwrap_or(0)).contains(&column)
    };
    tabs().find(hit).map(|(by, ..)| by)
}
