use super::*;
use crate::agent::picture::{Identity, ProcessId, ProcessPicture, Scan};
use sfgi_core::{detect::Verdict, leaks::LeakView, testing::leak};
use std::{os::unix::fs::FileExt as _, path::Path, sync::Arc};

fn process(pid: u32, at_s: u64, goroutines: u64) -> Arc<ProcessPicture> {
    let identity = Identity { exe: "/srv/shop".into(), service: "shop".into(), ..Identity::default() };
    let scan =
        Scan { unix_ns: at_s * 1_000_000_000, goroutines: goroutines + 5, system: 5, ..Scan::default() };
    let leaks: Vec<LeakView> = Vec::new();
    Arc::new(ProcessPicture {
        id: ProcessId { pid, start_ticks: 1, program: 0 },
        identity: identity.into(),
        scan: Some(scan.into()),
        leaks: leaks.into(),
        ..ProcessPicture::default()
    })
}

fn picture(at_s: u64, processes: Vec<Arc<ProcessPicture>>) -> Picture {
    Picture { unix_ns: at_s * 1_000_000_000, processes, ..Picture::default() }
}

fn counts(history: &History) -> Vec<(u64, u64, u64)> {
    let series = history.rows().next().unwrap().1;
    series.steps.iter().map(|step| (step.start_s, step.fewest, step.goroutines)).collect()
}

/// The beginning of a step, in seconds since 1970.
const NOON: u64 = 1_800_000_000 - 1_800_000_000 % STEP_SECONDS;

#[test]
fn a_step_has_the_fewest_and_the_most_of_its_scans() {
    let mut history = History::new("boot", 10, Vec::new());
    for (at, count) in [(0, 10), (30, 30), (299, 20), (300, 5)] {
        history.take(&picture(NOON + at, vec![process(7, NOON + at, count)]));
    }
    // The same scan in another picture is not another scan.
    history.take(&picture(NOON + 900, vec![process(7, NOON + 300, 50)]));
    assert_eq!(counts(&history), [(NOON, 10, 30), (NOON + 300, 5, 5)]);
}

#[test]
fn leaks_that_nobody_has_looked_for_yet_are_as_many_as_before() {
    let mut history = History::new("boot", 10, Vec::new());
    let leaked = |at, looked: bool, count| {
        let leak = LeakView { verdict: Verdict::Proven, count, ..leak("class", "", "") };
        let leaks = if count > 0 { vec![leak] } else { Vec::new() };
        let process = ProcessPicture::clone(&process(7, at, 20));
        Arc::new(ProcessPicture { leaks: leaks.into(), leaks_unix_ns: u64::from(looked), ..process })
    };
    for (at, looked, count) in [(0, false, 0), (300, true, 12), (600, false, 0), (900, true, 0)] {
        history.take(&picture(NOON + at, vec![leaked(NOON + at, looked, count)]));
    }
    let steps = &history.rows().next().unwrap().1.steps;
    assert_eq!(steps.iter().map(|step| step.leaked).collect::<Vec<_>>(), [0, 12, 12, 0]);
}

#[test]
fn an_hour_is_kept_and_what_has_ended_is_forgotten_after_it() {
    let mut history = History::new("boot", 10, Vec::new());
    for at in (0..7200).step_by(60) {
        history.take(&picture(NOON + at, vec![process(7, NOON + at, at)]));
    }
    assert_eq!(counts(&history).len(), STEPS);
    assert_eq!(counts(&history)[0].0, NOON + 3600);
    history.take(&picture(NOON + 7200 + 3599, Vec::new()));
    assert_eq!(history.rows().count(), 1);
    history.take(&picture(NOON + 7200 + 3600, Vec::new()));
    assert_eq!(history.rows().count(), 0);
}

#[test]
fn no_more_processes_than_allowed_and_the_living_stay() {
    let mut history = History::new("boot", 3, Vec::new());
    history.take(&picture(NOON, vec![process(1, NOON, 1)]));
    for pid in 2..100 {
        history.take(&picture(NOON + 60, vec![process(1, NOON, 1), process(pid, NOON + 60, 1)]));
    }
    let pids: Vec<u32> = history.rows().map(|(_, series)| series.pid).collect();
    assert_eq!(pids.len(), 3);
    assert!(pids.contains(&1) && pids.contains(&99), "{pids:?}");
}

fn config(file: &Path) -> config::Store {
    config::Store { file: Some(file.into()), max_processes: 100 }
}

fn filled(file: &Path) -> Store {
    let mut store = Store::open(&config(file)).unwrap();
    for at in (0..3600).step_by(100) {
        let processes = (1..20).map(|pid| process(pid, NOON + at, at)).collect();
        store.take(&picture(NOON + at, processes)).unwrap();
    }
    store.commit().unwrap();
    store.keep_alerts(&alerts(1..100)).unwrap();
    store
}

#[test]
fn what_was_committed_is_there_after_a_restart_without_an_orderly_end() {
    let directory = tempfile::tempdir().unwrap();
    let (file, copy) = (directory.path().join("history"), directory.path().join("copy"));
    let store = filled(&file);
    // What is on the disk at this moment, as a killed process leaves it.
    fs::copy(&file, &copy).unwrap();
    let again = Store::open(&config(&copy)).unwrap();
    let rows = |store: &Store| {
        let history = store.history();
        let history = history.read().unwrap();
        history.rows().map(|(_, series)| series.clone()).collect::<Vec<_>>()
    };
    assert_eq!(rows(&again), rows(&store));
    assert_eq!(rows(&again).len(), 19);
    // A process that still runs goes on in its row.
    let mut again = again;
    again.take(&picture(NOON + 3650, vec![process(1, NOON + 3650, 9)])).unwrap();
    assert_eq!(again.history().read().unwrap().of(&process(1, 0, 0)).unwrap().steps.len(), STEPS);
}

/// Alerts as another agent left them.
fn alerts(pids: std::ops::Range<u32>) -> Vec<Remembered> {
    let one = |pid| {
        serde_json::json!({
            "pid": pid, "start_ticks": 9, "exe": "/srv/shop", "group": "0f", "service": "shop", "class": "nil-channel",
            "verdict": "proven", "level": "intervene", "reason": "many", "since_unix_ns": 1,
            "timers": { "deserved_ms": [1, 1, 1, null], "below_ms": null, "below_best": null },
        })
    };
    pids.map(|pid| serde_json::from_value(one(pid)).unwrap()).collect()
}

#[test]
fn alerts_are_kept_at_once_and_only_those_of_this_boot() {
    let directory = tempfile::tempdir().unwrap();
    let (file, copy) = (directory.path().join("history"), directory.path().join("copy"));
    let store = filled(&file);
    // What a killed agent leaves, without a commit of the history after it.
    let left = |alerts: &[Remembered]| {
        store.keep_alerts(alerts).unwrap();
        fs::copy(&file, &copy).unwrap();
        Store::open(&config(&copy)).unwrap().take_alerts()
    };
    let mut wanted = alerts(1..20);
    wanted.sort_by_key(|alert| alert.pid.to_string());
    assert_eq!(left(&wanted), wanted);
    assert_eq!(left(&wanted[..3]), wanted[..3]);
    assert!(left(&[]).is_empty());
    let opened = File::open(&copy).unwrap().0;
    opened.write_alerts("another boot", &wanted).unwrap();
    drop(opened);
    let mut store = Store::open(&config(&copy)).unwrap();
    assert!(store.take_alerts().is_empty());
    // They are of no use any more, and go.
    store.keep_alerts(&[]).unwrap();
    drop(store);
    assert!(File::open(&copy).unwrap().0.read_alerts("another boot").unwrap().is_empty());
}

#[test]
fn what_is_the_same_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("history");
    let store = filled(&file);
    store.keep_alerts(&alerts(1..20)).unwrap();
    let before = fs::read(&file).unwrap();
    store.keep_alerts(&alerts(1..20)).unwrap();
    assert!(fs::read(&file).unwrap() == before);
}

#[test]
fn a_store_that_another_agent_uses_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("history");
    let _store = filled(&file);
    let error = Store::open(&config(&file)).err().unwrap().to_string();
    assert!(error.contains("another sfgi agent uses this store"), "{error}");
    assert!(file.exists());
}

#[test]
fn a_damaged_file_is_set_aside_and_the_agent_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("history");
    drop(filled(&file));
    let whole = fs::read(&file).unwrap();
    let random = |seed: usize| (seed.wrapping_mul(2_654_435_761) >> 7) % whole.len();
    for round in 0..60 {
        match round % 3 {
            0 => fs::write(&file, &whole[..random(round)]).unwrap(),
            1 => fs::write(&file, vec![round as u8; 5000]).unwrap(),
            _ => {
                fs::write(&file, &whole).unwrap();
                let damaged = fs::OpenOptions::new().write(true).open(&file).unwrap();
                for at in 0..200 {
                    damaged.write_all_at(&[0xa5; 16], random(round * 1000 + at) as u64).unwrap();
                }
            }
        }
        let mut store = Store::open(&config(&file)).unwrap();
        store.take(&picture(NOON, vec![process(1, NOON, 1)])).unwrap();
        store.commit().unwrap();
        assert!(store.history().read().unwrap().of(&process(1, 0, 0)).is_some());
    }
    let names = fs::read_dir(directory.path()).unwrap();
    let aside = names.filter(|name| name.as_ref().unwrap().file_name().to_string_lossy().contains("damaged"));
    assert!(aside.count() > 0);
}

#[test]
fn only_what_wrote_something_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(&config(&directory.path().join("history"))).unwrap();
    let of_now = picture(NOON, vec![process(1, NOON, 1)]);
    assert!(!store.take(&of_now).unwrap(), "it is not time yet");
    store.committed -= COMMIT;
    assert!(store.take(&of_now).unwrap());
    store.committed -= COMMIT;
    assert!(!store.take(&of_now).unwrap(), "nothing has changed");
}
