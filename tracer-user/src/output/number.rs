//! Numbers and sizes for people.

/// A number with a comma at every third digit: `1,000,000`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the largest unit that leaves a digit before the point: `1.21 MiB`.
pub fn bytes(number: u64) -> String {
    let (value, unit) = match number {
        0..0x400 => return format!("{number} B"),
        0x400..0x10_0000 => (number as f64 / 1024.0, "KiB"),
        0x10_0000..0x4000_0000 => (number as f64 / 1024f64.powi(2), "MiB"),
        _ => (number as f64 / 1024f64.powi(3), "GiB"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let cases = [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345, "12,345"), (1_000_000, "1,000,000")];
        for (number, text) in cases {
            assert_eq!(count(number), text);
        }
    }

    #[test]
    fn sizes_have_units() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1_268_777, "1.21 MiB"),
            (5 << 30, "5.00 GiB"),
        ];
        for (number, text) in cases {
            assert_eq!(bytes(number), text);
        }
    }
}
