mod recording;
mod report;

use crate::harness::Test;

pub(crate) fn tests() -> Vec<Test> {
    let all = [recording::tests(), report::tests()];
    all.into_iter().flatten().collect()
}
