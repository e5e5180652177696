//! What a picture says, as metrics: names, units and labels by the conventions of Prometheus. The series of a process are made anew
//! from each picture, so those of one that has ended are gone with it.

mod families;
mod family;
mod history;
mod text;

#[cfg(test)]
mod tests;

pub use families::{About, families};
pub use family::{Family, Kind, Label, Series, Value};
pub use history::history;
pub use text::{CONTENT_TYPE, text};
