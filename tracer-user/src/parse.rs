//! Times, sizes and shares as text: in options, in the configuration and in the agent's HTTP interface.

use std::time::Duration;

/// The end of an error sentence. The commands' help says the same.
const TIME: &str = "a time is a number of seconds, or has a unit: 10ms, 30s, 5m, 1h";
const TIME_WITH_UNIT: &str = "a time needs a unit: 10ms, 30s, 5m, 1h";
const SIZE: &str = "a size is a number of bytes, or has a unit: 64KiB, 16MiB, 1GiB";
const SIZE_WITH_UNIT: &str = "a size needs a unit: 64KiB, 16MiB, 1GiB";
const SHARE: &str = "a share is a number and a percent sign: 2%";
const ADDRESS: &str = "an address is a hexadecimal number: 0xc000012120";
/// The largest size, 8 PiB. `bytesize` computes a size with a unit as an `f64`, which holds every integer up to 2⁵³.
const MAX_SIZE: u64 = 1 << 53;

/// A value that was refused; its message quotes the value and says what is accepted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}: {taken}")]
pub(crate) struct Wrong {
    text: String,
    taken: &'static str,
}

fn wrong(text: &str, taken: &'static str) -> Wrong {
    Wrong { text: text.to_owned(), taken }
}

/// A time on the command line: `10ms`, `1.5s`, `5m`; a number alone is seconds.
pub(crate) fn time(text: &str) -> Result<Duration, Wrong> {
    match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| wrong(text, TIME)),
        Err(_) => parsed_time(text).ok_or_else(|| wrong(text, TIME)),
    }
}

/// A time in a file or a request, where a number alone could be taken for milliseconds.
pub(crate) fn time_with_unit(text: &str) -> Result<Duration, Wrong> {
    parsed_time(text).ok_or_else(|| wrong(text, TIME_WITH_UNIT))
}

/// Refuses humantime's `M`, a month: beside sizes it reads as mega, beside times as minutes.
fn parsed_time(text: &str) -> Option<Duration> {
    if text.contains('M') { None } else { humantime::parse_duration(text).ok() }
}

/// A size on the command line: `64MiB`, `10MB`, `512KiB`; a number alone is bytes.
pub(crate) fn size(text: &str) -> Result<u64, Wrong> {
    parsed_size(text).ok_or_else(|| wrong(text, SIZE))
}

/// A size in the configuration or of `--last`, where a number alone could be taken for another unit or for a time.
pub(crate) fn size_with_unit(text: &str) -> Result<u64, Wrong> {
    let size = parsed_size(text).filter(|_| text.ends_with(char::is_alphabetic));
    size.ok_or_else(|| wrong(text, SIZE_WITH_UNIT))
}

/// An address on the command line or in a request: hexadecimal, with or without `0x`.
pub(crate) fn address(text: &str) -> Result<u64, Wrong> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let hexadecimal = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u64::from_str_radix(digits, 16).ok().filter(|_| hexadecimal).ok_or_else(|| wrong(text, ADDRESS))
}

/// `bytesize` saturates what does not fit into 64 bits; [`MAX_SIZE`] refuses that, too.
fn parsed_size(text: &str) -> Option<u64> {
    let size = text.parse::<bytesize::ByteSize>().ok()?.as_u64();
    (size <= MAX_SIZE).then_some(size)
}

/// A share as a number: `2%` is 0.02. It is never negative; it may exceed 100 %, as shares of one core do.
pub(crate) fn share(text: &str) -> Result<f64, Wrong> {
    let number = text.strip_suffix('%').map(|number| number.trim_end().parse::<f64>());
    match number {
        Some(Ok(percent)) if percent.is_finite() && percent >= 0.0 => Ok(percent / 100.0),
        _ => Err(wrong(text, SHARE)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hexadecimal() {
        for good in ["0xc000012120", "c000012120"] {
            assert_eq!(address(good), Ok(0x00c0_0001_2120), "{good}");
        }
        for bad in ["", "0x", "g", "0x1_0", "-1", "+1", "0x1ffffffffffffffff"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_number_alone_is_seconds_on_the_command_line_only() {
        assert_eq!(time("2"), Ok(Duration::from_secs(2)));
        assert_eq!(time("0.5"), Ok(Duration::from_millis(500)));
        for parse in [time, time_with_unit] {
            assert_eq!(parse("10ms"), Ok(Duration::from_millis(10)));
            assert_eq!(parse("1.5s"), Ok(Duration::from_millis(1500)));
            assert_eq!(parse("50us"), Ok(Duration::from_micros(50)));
            assert_eq!(parse("50µs"), parse("50000ns"));
            assert_eq!(parse("5m"), Ok(Duration::from_secs(300)));
            assert_eq!(parse("1h30m"), Ok(Duration::from_secs(5400)));
            for bad in ["", "ms", "-1", "-1s", "1e400", "1e400s", "10 parsecs", "NaN", "NaNs", "inf", "5M"] {
                assert!(parse(bad).is_err(), "{bad}");
            }
        }
        let error = time_with_unit("10").map_err(|error| error.to_string());
        assert_eq!(error, Err("10: a time needs a unit: 10ms, 30s, 5m, 1h".to_owned()));
    }

    #[test]
    fn a_number_alone_is_bytes_on_the_command_line_only() {
        assert_eq!(size("4096"), Ok(4096));
        for parse in [size, size_with_unit] {
            assert_eq!(parse("64MiB"), Ok(64 << 20));
            assert_eq!(parse("1.5KiB"), Ok(1536));
            assert_eq!(parse("10 MB"), Ok(10_000_000));
            assert_eq!(parse("4096B"), Ok(4096));
            for bad in ["", "-1MiB", "MiB", "1e30GiB", "99999999999GiB", "NaNB", "1XiB"] {
                assert!(parse(bad).is_err(), "{bad}");
            }
        }
        assert!(size_with_unit("64").is_err());
    }

    #[test]
    fn shares_are_percentages() {
        assert_eq!(share("2%"), Ok(0.02));
        assert_eq!(share("150 %"), Ok(1.5));
        for bad in ["", "2", "%", "-1%", "NaN%", "inf%"] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }
}
