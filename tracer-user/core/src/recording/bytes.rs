//! Numbers and text as bytes: LEB128, small numbers first; differences by zigzag. Reading is
//! bounds-checked and never panics, whatever the bytes are.

/// The bytes of a frame mean nothing, although its checksum matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its contents make no sense")]
pub struct Senseless;

/// Bytes that are read from the front.
#[derive(Clone, Copy, Debug)]
pub struct Take<'a>(pub &'a [u8]);

impl<'a> Take<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[inline]
    pub fn byte(&mut self) -> Result<u8, Senseless> {
        let (first, rest) = self.0.split_first().ok_or(Senseless)?;
        self.0 = rest;
        Ok(*first)
    }

    #[inline]
    pub fn number(&mut self) -> Result<u64, Senseless> {
        // Eight bytes at once, without a loop: few numbers are longer, and only the last of a frame stand nearer to its
        // end.
        let Some(bytes) = self.0.first_chunk::<8>() else { return self.any_number() };
        let word = u64::from_le_bytes(*bytes);
        if word & 0x80 == 0 {
            self.0 = &self.0[1..];
            return Ok(word & 0x7f);
        }
        let last = (!word & 0x8080_8080_8080_8080).trailing_zeros(); // the highest bit of the last byte
        if last == u64::BITS {
            return self.any_number();
        }
        self.0 = &self.0[last as usize / 8 + 1..];
        // Seven bits of each byte are moved together: of two, of four, of eight.
        let bits = word & (u64::MAX >> (63 - last)) & 0x7f7f_7f7f_7f7f_7f7f;
        let bits = (bits & 0x007f_007f_007f_007f) | (bits & 0x7f00_7f00_7f00_7f00) >> 1;
        let bits = (bits & 0x0000_3fff_0000_3fff) | (bits & 0x3fff_0000_3fff_0000) >> 2;
        Ok((bits & 0x0fff_ffff) | (bits & 0x0fff_ffff_0000_0000) >> 4)
    }

    #[cold]
    fn any_number(&mut self) -> Result<u64, Senseless> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(Senseless); // more than 64 bits
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Senseless)
    }

    /// A number that is stored as its difference to `base`.
    #[inline]
    pub fn near(&mut self, base: u64) -> Result<u64, Senseless> {
        let zigzag = self.number()?;
        Ok(base.wrapping_add((zigzag >> 1) ^ (zigzag & 1).wrapping_neg()))
    }

    /// A count of things that take a byte each at least. A count beyond the bytes that are left is senseless, so none
    /// makes a reader allocate more than a frame has.
    pub fn count(&mut self) -> Result<usize, Senseless> {
        let count = usize::try_from(self.number()?).map_err(|_| Senseless)?;
        if count <= self.0.len() { Ok(count) } else { Err(Senseless) }
    }

    pub fn slice(&mut self) -> Result<&'a [u8], Senseless> {
        let len = self.count()?;
        let (slice, rest) = self.0.split_at_checked(len).ok_or(Senseless)?;
        self.0 = rest;
        Ok(slice)
    }

    pub fn text(&mut self) -> Result<&'a str, Senseless> {
        std::str::from_utf8(self.slice()?).map_err(|_| Senseless)
    }

    pub fn small<T: TryFrom<u64>>(&mut self) -> Result<T, Senseless> {
        T::try_from(self.number()?).map_err(|_| Senseless)
    }
}

/// Bytes that are added at the end.
pub trait Put {
    fn number(&mut self, value: u64);
    /// A number as its difference to `base`.
    fn near(&mut self, value: u64, base: u64);
    fn slice(&mut self, bytes: &[u8]);
}

impl Put for Vec<u8> {
    #[inline]
    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    #[inline]
    fn near(&mut self, value: u64, base: u64) {
        let difference = value.wrapping_sub(base);
        let sign = ((difference as i64) >> 63) as u64;
        self.number((difference << 1) ^ sign);
    }

    fn slice(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_out_as_they_went_in(
            value in any::<(u64, u32)>().prop_map(|(value, shift)| value >> (shift % 64)),
            base in any::<u64>(),
        ) {
            let mut bytes = Vec::new();
            bytes.number(value);
            bytes.near(value, base);
            let len = bytes.len();
            for more in [0, 8] {
                bytes.resize(len + more, 0xff);
                let mut take = Take(&bytes);
                prop_assert_eq!(take.number(), Ok(value));
                prop_assert_eq!(take.near(base), Ok(value));
                prop_assert_eq!(take.0.len(), more);
            }
        }

        #[test]
        fn any_bytes_are_a_number_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            let mut take = Take(&bytes);
            while take.number().is_ok() {}
        }
    }

    #[test]
    fn small_numbers_are_small_and_counts_are_bounded() {
        let mut bytes = Vec::new();
        bytes.near(7, 8);
        assert_eq!(bytes.len(), 1);
        assert_eq!(Take(&[200, 1, 2]).count(), Err(Senseless), "more than there are bytes");
        assert_eq!(Take(&[0xff; 11]).number(), Err(Senseless));
    }
}
