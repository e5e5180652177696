mod core_files;
mod ends;
mod many;
mod profile;
mod real;
mod standing;
mod traceback;

use crate::harness::Test;

pub(crate) fn tests() -> Vec<Test> {
    let all = [
        core_files::tests(),
        ends::tests(),
        many::tests(),
        profile::tests(),
        real::tests(),
        standing::tests(),
        traceback::tests(),
    ];
    all.into_iter().flatten().collect()
}
