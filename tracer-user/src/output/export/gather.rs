//! What profiles by stack have in common: something that finds out what counts.

use super::table::Table;
use sfgi_core::{model::Step, session::Target};

/// What finds out what counts.
pub(super) trait Gather {
    /// Something happened.
    fn step(&mut self, target: &mut Target, step: &Step, table: &mut Table);

    /// Events were lost before what comes.
    fn lost(&mut self) {}

    /// Nothing comes any more.
    fn end(&mut self, target: &Target, until_ts: u64, table: &mut Table);
}
