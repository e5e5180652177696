//! Little-endian integers and strings from bytes that may end anywhere: `None` instead of a panic.

pub(crate) fn array<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..at.checked_add(N)?)?.try_into().ok()
}

pub(crate) fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    array(data, at).map(u32::from_le_bytes)
}

pub(crate) fn i32_at(data: &[u8], at: usize) -> Option<i32> {
    array(data, at).map(i32::from_le_bytes)
}

pub(crate) fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    array(data, at).map(u64::from_le_bytes)
}

/// Bytes up to which a terminating NUL is looked for. Function names with many type arguments have some thousand
/// bytes; without a bound a hostile table would make each name a scan of the whole file.
pub(crate) const MAX_STRING: usize = 16 << 10;

/// The bytes of the NUL-terminated string at `at`, without the NUL.
pub(crate) fn c_string(data: &[u8], at: usize) -> Option<&[u8]> {
    let rest = data.get(at..)?;
    rest.get(..rest.iter().take(MAX_STRING).position(|byte| *byte == 0)?)
}

/// Reads an unsigned LEB128 number (`encoding/binary.Uvarint`) at `*at` and moves `*at` behind it. `None`: the bytes
/// end, or the number does not fit 64 bits.
pub(crate) fn uvarint(data: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *data.get(*at)?;
        *at += 1;
        let bits = u64::from(byte & 0x7f);
        // The tenth byte has room for one bit only: 9 × 7 bits lie below it.
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uvarint_reads_go_s_encoding() {
        let mut at = 0;
        assert_eq!(uvarint(&[0xac, 0x02, 7], &mut at), Some(300));
        assert_eq!(at, 2);
        let largest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(uvarint(&largest, &mut 0), Some(u64::MAX));
    }

    #[test]
    fn uvarint_refuses_what_ends_early_or_is_too_large() {
        assert_eq!(uvarint(&[0x80], &mut 0), None);
        assert_eq!(uvarint(&[0xff; 11], &mut 0), None);
        assert_eq!(uvarint(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], &mut 0), None);
    }

    #[test]
    fn reads_end_at_the_end() {
        assert_eq!(u32_at(&[1, 0, 0, 0], 0), Some(1));
        assert_eq!(u32_at(&[1, 0, 0, 0], 1), None);
        assert_eq!(u64_at(&[0; 8], usize::MAX), None);
        assert_eq!(c_string(b"ab\0c", 0), Some(&b"ab"[..]));
        assert_eq!(c_string(b"ab\0c", 3), None);
    }
}
