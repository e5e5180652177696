//! Values of options and of the configuration.

use std::time::Duration;

/// `10ms`, `1.5s`, `5m`: a number and a unit.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
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
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|err| format!("{text}: {err}")),
        Err(_) => duration(text),
    }
}

/// `64MiB`, `10MB`, `512KiB`, `1GiB`, `4096B`: a number of bytes.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let wrong = || format!("{text}: a size is a number and a unit, as 64MiB");
    let value: f64 = digits.trim_end().parse().map_err(|_| wrong())?;
    let unit: u64 = match &text[digits.len()..] {
        "B" => 1,
        "kB" | "KB" => 1000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        _ => return Err(format!("{text}: a size needs a unit: B, KiB, MiB, GiB, kB, MB or GB")),
    };
    let all = value * unit as f64;
    // Above this a float no longer holds every byte; no size here comes near.
    if !(0.0..=9e15).contains(&all) {
        return Err(format!("{text}: a size is not negative and less than 9 PB"));
    }
    Ok(all as u64)
}

/// `2%` is 0.02. Never negative; above 100 % where there is more than one of it (cores).
pub(crate) fn share(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').map(|number| number.trim_end().parse::<f64>());
    match number {
        Some(Ok(percent)) if percent.is_finite() && percent >= 0.0 => Ok(percent / 100.0),
        _ => Err(format!("{text}: a share is a number and a percent sign, as 2%")),
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

    #[test]
    fn sizes_need_a_unit() {
        assert_eq!(bytes("64MiB"), Ok(64 << 20));
        assert_eq!(bytes("1.5KiB"), Ok(1536));
        assert_eq!(bytes("10 MB"), Ok(10_000_000));
        for bad in ["", "64", "-1MiB", "MiB", "1e30GiB", "NaNB", "1XiB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
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
