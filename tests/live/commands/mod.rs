//! What holds for every command that looks at a program for a while: it ends, it is confined, it writes safely, and it leaves nothing
//! behind.

mod confined;
mod hangs;
mod killed;
mod streams;
mod text;
mod user;
mod written;

use crate::harness::Test;

pub(crate) fn tests() -> Vec<Test> {
    let all = [
        confined::tests(),
        hangs::tests(),
        killed::tests(),
        streams::tests(),
        text::tests(),
        user::tests(),
        written::tests(),
    ];
    all.into_iter().flatten().collect()
}
