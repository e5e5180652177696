//! A table.

use super::{
    Paint, Tone,
    layout::{Areas, slots},
};
use crate::{
    output::count,
    top::{Picture, Row, Screen, Table},
};

pub(super) fn draw(paint: &mut Paint<'_>, areas: &Areas, picture: &Picture, screen: &Screen) {
    let table = screen.table(picture);
    let (width, several) = (paint.buffer.area.width, picture.heads.len() > 1);
    titles(paint, areas.titles, &table, screen, several);
    let chosen = screen.row(&table);
    let first = areas.first(chosen, table.rows.len());
    let lines = usize::from(areas.body.end - areas.body.start);
    let left = table.rows.len().saturating_sub(first) as u64 + table.more;
    // The last line says what there is no room for.
    let shown = if left > lines as u64 { lines.saturating_sub(1) } else { lines };
    let y = |line: usize| areas.body.start + u16::try_from(line).unwrap_or(0);
    for (line, row) in table.rows.iter().skip(first).take(shown).enumerate() {
        let mark = screen.chosen.is_some() && first + line == chosen;
        draw_row(paint, y(line), row, &table, picture, mark);
    }
    let shown = table.rows.len().saturating_sub(first).min(shown);
    if left > shown as u64 {
        let text = format!("  … and {} more", count(left - shown as u64));
        paint.put(0, y(shown), width, &text, Tone::Faint);
    } else if table.rows.is_empty() {
        let why = if screen.query.filter.is_some() { "Nothing matches the filter." } else { "Nothing yet." };
        paint.put(0, areas.body.start, width, why, Tone::Plain);
    }
}

fn titles(paint: &mut Paint<'_>, y: u16, table: &Table, screen: &Screen, several: bool) {
    paint.line(y, Tone::Chosen);
    for slot in slots(table.columns, paint.buffer.area.width, several) {
        let Some((at, column)) = slot.column.and_then(|at| Some((at, table.columns.get(at)?))) else {
            paint.put_right(slot.x, y, slot.width, "PID", Tone::Chosen);
            continue;
        };
        let sort = screen.sort();
        // Numbers go down from the largest, text goes on from a to z.
        let down = (column.right || column.title == "TREND") != sort.reverse;
        let arrow = if down { "↓" } else { "↑" };
        let title =
            if at == sort.column { format!("{}{arrow}", column.title) } else { column.title.to_owned() };
        if column.right {
            paint.put_right(slot.x, y, slot.width, &title, Tone::Chosen);
        } else {
            paint.put(slot.x, y, slot.width, &title, Tone::Chosen);
        }
    }
}

fn draw_row(paint: &mut Paint<'_>, y: u16, row: &Row, table: &Table, picture: &Picture, chosen: bool) {
    let tone = match (chosen, row.alarm) {
        (true, _) => Tone::Chosen,
        (_, true) => Tone::Alarm,
        _ => Tone::Plain,
    };
    if chosen {
        paint.line(y, Tone::Chosen);
    }
    paint.put(0, y, 1, if chosen { ">" } else { " " }, tone);
    paint.put(1, y, 1, if row.alarm { "!" } else { " " }, tone);
    for slot in slots(table.columns, paint.buffer.area.width, picture.heads.len() > 1) {
        let Some(at) = slot.column else {
            let pid = picture.heads.get(row.key.target).map(|head| head.pid.to_string()).unwrap_or_default();
            paint.put_right(slot.x, y, slot.width, &pid, tone);
            continue;
        };
        let Some((cell, column)) = row.cells.get(at).zip(table.columns.get(at)) else { continue };
        let text = cell.text(usize::from(slot.width));
        if column.right {
            paint.put_right(slot.x, y, slot.width, &text, tone);
        } else {
            paint.put(slot.x, y, slot.width, &text, tone);
        }
    }
}
