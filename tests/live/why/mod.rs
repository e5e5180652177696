mod dwarf;
mod formats;
mod goroutines;
mod objects;
mod standing;
mod steps;

use crate::harness::Test;

pub(crate) fn tests() -> Vec<Test> {
    let all = [
        dwarf::tests(),
        formats::tests(),
        goroutines::tests(),
        objects::tests(),
        standing::tests(),
        steps::tests(),
    ];
    all.into_iter().flatten().collect()
}
