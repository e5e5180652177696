mod binaries;
mod freeze;
mod labels;
mod objects;
mod registers;
mod timers;

pub(crate) use freeze::freeze_until_killed;

use crate::harness::Test;

pub(crate) fn tests() -> Vec<Test> {
    let all = [
        binaries::tests(),
        freeze::tests(),
        labels::tests(),
        objects::tests(),
        registers::tests(),
        timers::tests(),
    ];
    all.into_iter().flatten().collect()
}
