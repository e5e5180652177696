//! Values with a unit, as they stand in the file: `"30s"`, `"64MiB"`, `"2%"`.

use crate::parse;
use serde::{Deserialize, Deserializer, de::Error};
use std::time::Duration;

/// `"30s"`.
pub(super) fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    text(from, parse::duration)
}

/// `"30s"`, for a key that may be left out.
pub(super) fn some_time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    time(from).map(Some)
}

/// `"64MiB"`, in bytes.
pub(super) fn size<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    text(from, parse::bytes)
}

/// `"64MiB"`, for a key that may be left out.
pub(super) fn some_size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    size(from).map(Some)
}

/// `"2%"` as 0.02.
pub(super) fn share<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    text(from, parse::share)
}

/// `"2%"`, for a key that may be left out.
pub(super) fn some_share<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    share(from).map(Some)
}

fn text<'de, D: Deserializer<'de>, T>(from: D, parse: fn(&str) -> Result<T, String>) -> Result<T, D::Error> {
    let text = String::deserialize(from)?;
    parse(&text).map_err(D::Error::custom)
}
