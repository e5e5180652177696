//! What `sfgi top` shows: the goroutines of its targets at a glance, refreshed each second.
//!
//! [`Top`] is an [`Observer`](sfgi_core::session::Observer) that adds up steps in intervals of the events' own time.
//! [`Top::picture`] makes plain data with names of that ([`Picture`]). [`Screen`] holds what the user chose by keys and
//! mouse, and [`draw`] puts both on a grid of characters. None of these knows where events come from, whether there is
//! a terminal, or what time it is, so a recording gives the same pictures ([`Frozen`]).

mod frozen;
mod keys;
mod live;
mod model;
#[cfg(test)]
mod tests;
mod view;

pub use frozen::Frozen;
pub use keys::{Action, Pane, Screen};
pub use live::{Publisher, Shared};
pub use model::{
    By, Cell, Column, Detail, Finding, Head, Key, Past, Picture, Query, Row, Sort, Source, Table, Top, Trend,
};
pub use view::{LeakSearch, Look, Read, draw, text};
