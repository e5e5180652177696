//! Many small reads at once.

use crate::memory::{Memory, Range};

/// Stretches read together: enough for the calls to be few, and little memory.
const BATCH: usize = 16 << 10;
/// Longest stretch that is read.
const MAX_LEN: usize = 4 << 10;

/// Reads each of `ranges`, at most 4 KiB each, and hands it over with its index. Those that cannot
/// be read are left out; so is the rest when the process has ended. What `each` returns does not
/// matter: it may end early with `?`.
pub(super) fn records(
    memory: &dyn Memory,
    ranges: &[Range],
    mut each: impl FnMut(usize, &[u8]) -> Option<()>,
) {
    let (mut buffer, mut whole) = (Vec::new(), Vec::new());
    let mut index = 0;
    for batch in ranges.chunks(BATCH) {
        if batch.iter().any(|range| range.len > MAX_LEN)
            || memory.scatter(batch, &mut buffer, &mut whole).is_err()
        {
            return;
        }
        let mut rest = &buffer[..];
        for (range, whole) in batch.iter().zip(&whole) {
            let Some((record, behind)) = rest.split_at_checked(range.len) else { return };
            rest = behind;
            if *whole {
                let _ = each(index, record);
            }
            index += 1;
        }
    }
}
