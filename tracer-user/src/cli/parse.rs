//! Values of options.

use std::time::Duration;

/// `10ms`, `1.5s`, `5m`: a number and a unit.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_alphabetic() || c == 'µ');
    let value: f64 = digits.parse().map_err(|_| format!("{text}: a time is a number and a unit, as 10ms"))?;
    let unit = match &text[digits.len()..] {
        "ns" => 1e-9,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{text}: a time needs a unit: ns, us, ms, s, m or h")),
    };
    Duration::try_from_secs_f64(value * unit).map_err(|err| format!("{text}: {err}"))
}

/// The same; a number alone is seconds.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|err| format!("{text}: {err}")),
        Err(_) => duration(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_need_a_unit_and_seconds_do_not() {
        assert_eq!(duration("10ms"), Ok(Duration::from_millis(10)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(seconds("2"), Ok(Duration::from_secs(2)));
        for bad in ["", "ms", "10", "-1s", "1e400s", "10 parsecs", "NaNs"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
