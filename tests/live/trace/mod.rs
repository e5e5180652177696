mod bad_input;
mod builds;
mod illegal;
mod joined;
mod launch;
mod life;
mod namespaces;
mod objects;
mod oracle;
mod overflow;
mod recordings;
mod stress;

use crate::harness::Test;

pub(crate) fn tests() -> Vec<Test> {
    let all = [
        bad_input::tests(),
        builds::tests(),
        illegal::tests(),
        joined::tests(),
        launch::tests(),
        life::tests(),
        namespaces::tests(),
        objects::tests(),
        oracle::tests(),
        overflow::tests(),
        recordings::tests(),
        stress::tests(),
    ];
    all.into_iter().flatten().collect()
}
