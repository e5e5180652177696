mod flamegraph;
mod gotrace;
mod perfetto;
mod profiles;

use crate::harness::Test;

pub(crate) fn tests() -> Vec<Test> {
    let all = [flamegraph::tests(), gotrace::tests(), perfetto::tests(), profiles::tests()];
    all.into_iter().flatten().collect()
}
