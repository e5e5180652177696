//! The goroutines of programs at a glance, refreshed by the second: what `sfgi top` shows.
//!
//! [`Top`] is an [`Observer`](sfgi_core::session::Observer) that adds up what happens, in intervals of the events' own
//! time; [`Top::picture`] is how things stand, with names, in plain data ([`Picture`]). [`Screen`] is what the user
//! makes of it by keys and mouse, and [`draw`] puts both on a grid of characters. None of these knows where events come
//! from, whether there is a terminal, or what time it is: a recording gives the same pictures ([`Frozen`]).

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
