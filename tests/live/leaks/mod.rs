mod classes;
mod cli;
mod finalizers;
mod healthy;
mod lasting;
mod oracle;
mod rings;
mod threads;

use crate::harness::Test;

pub(crate) fn tests() -> Vec<Test> {
    let all = [
        classes::tests(),
        cli::tests(),
        finalizers::tests(),
        healthy::tests(),
        lasting::tests(),
        oracle::tests(),
        rings::tests(),
        threads::tests(),
    ];
    all.into_iter().flatten().collect()
}
