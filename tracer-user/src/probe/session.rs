//! The probes of one target: its programs, its rings, its counters.

use super::{
    calibrate::{Counted, Programs},
    host::{self, TaskLayout},
    object::{self, Options, ProbeError},
    ring::{Left, Merger, Ring},
};
use aya::{
    Btf, Ebpf,
    maps::{HashMap, MapData, PerCpuArray},
    programs::uprobe::UProbeScope,
};
use aya_log::EbpfLogger;
use sfgi_core::{
    binary::GoBinary,
    clock::now,
    event::{Batch, DecodeError, decode},
    plan::{Plan, ProbeSite},
};
use std::{
    collections::BTreeMap, fs::File, num::NonZeroU32, os::fd::AsRawFd as _, path::PathBuf, thread,
    time::Duration,
};
use tracer_common::{Config, Counters, Kind};

/// Counts since the start of the session, by [`Kind`].
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Hits in the target, by the kind that the probe usually sends, whether an event was sent or not.
    pub hits: BTreeMap<Kind, u64>,
    /// Events that found their ring full and were dropped.
    pub lost: BTreeMap<Kind, u64>,
    /// Reads of the target's memory that failed; the events were sent without these fields.
    pub blurred: BTreeMap<Kind, u64>,
    /// Records that could not be decoded. Anything but 0 is a bug in sfgi.
    pub undecodable: u64,
}

/// The most events that one drain takes from one ring. Without a bound a busy target could keep the reader from
/// handing on what it has, and from noticing that it is to stop.
const BATCH: usize = 1 << 13;

/// After the probes were removed, a program may still be running with a reserved record. `stop` looks every `MOMENT`,
/// at most for `LAST_WORD_NS`, whether the record has been submitted.
const LAST_WORD_NS: u64 = 1_000_000_000;
const MOMENT: Duration = Duration::from_millis(1);

/// A target with its probes. Dropping it removes every probe; so does the death of this process.
pub struct Session {
    ebpf: Option<Counted>,
    rings: Vec<Ring>,
    /// Forwards the programs' own log messages to this process's log.
    log: EbpfLogger<&'static dyn log::Log>,
    counters: PerCpuArray<MapData, Counters>,
    merger: Merger,
    attached_ts: u64,
    /// Events outside of this span are dropped, because not all probes stood; `start_ts` is 0 for a launched command.
    start_ts: u64,
    stop_ts: u64,
    /// The sums of lost and of blurred at the last drain; the counters themselves only rise.
    before: (u64, u64),
    undecodable: u64,
    /// How the last drain left the rings: the greatest [`Left`] of all.
    left: Left,
    /// The time up to which no event will come any more; it never goes back.
    complete: u64,
}

impl Session {
    /// Loads the programs of `plan` and attaches them to process `pid`, which runs `binary` out of the file `exe`.
    /// Attaching takes 10–20 ms a probe. The process is not stopped, and its memory is not written to but for the
    /// kernel's own breakpoints.
    pub fn start(
        pid: NonZeroU32,
        exe: &File,
        binary: &GoBinary,
        plan: &Plan,
        options: &Options,
    ) -> Result<Session, ProbeError> {
        let task = TaskLayout::of_this_kernel().map_err(|err| ProbeError::Btf(err.to_string()))?;
        let config = object::configure(pid, binary, plan, options, task, host::cpus())?;
        let (mut ebpf, mut session) = Self::load(&config, options)?;
        for probe in &plan.probes {
            attach(&mut ebpf, probe, pid, exe)?;
        }
        // Tracepoints see the whole host: without an id that the kernel knows they could not tell whose thread it is.
        if config.tgid != 0 {
            let btf = Btf::from_sys_fs().map_err(|err| ProbeError::Btf(err.to_string()))?;
            object::attach_tracepoint(&mut ebpf, "sched_process_exec", &btf)?;
            if options.threads {
                object::attach_tracepoint(&mut ebpf, "sched_switch", &btf)?;
                object::attach_tracepoint(&mut ebpf, "sched_wakeup", &btf)?;
            }
        }
        session.ebpf = Some(Counted::new(ebpf));
        // Events from before the last probe stood are not the whole story and would look like illegal transitions.
        session.attached_ts = now();
        session.start_ts = if options.from_birth { 0 } else { session.attached_ts };
        Ok(session)
    }

    /// Creates maps and rings and attaches nothing. The caller attaches to the returned object and puts it into the
    /// session.
    pub(super) fn load(config: &Config, options: &Options) -> Result<(Ebpf, Session), ProbeError> {
        let mut ebpf = object::load(config)?;
        let rings = object::create_rings(&mut ebpf, config.rings, options.ring_bytes)?;
        if !options.goids.is_empty() {
            let map = ebpf.map_mut("GOIDS").ok_or(ProbeError::Object("map GOIDS"))?;
            let mut goids: HashMap<_, u64, u8> = HashMap::try_from(map).map_err(ProbeError::Counters)?;
            for goid in &options.goids {
                goids.insert(goid, 1, 0).map_err(ProbeError::Counters)?;
            }
        }
        let map = ebpf.take_map("COUNTERS").ok_or(ProbeError::Object("map COUNTERS"))?;
        let counters = PerCpuArray::try_from(map).map_err(ProbeError::Counters)?;
        let log = EbpfLogger::init(&mut ebpf).map_err(|err| ProbeError::Load(err.into()))?;
        let session = Session {
            ebpf: None,
            rings,
            log,
            counters,
            merger: Merger::default(),
            attached_ts: 0,
            start_ts: 0,
            stop_ts: u64::MAX,
            before: (0, 0),
            undecodable: 0,
            left: Left::Empty,
            complete: 0,
        };
        Ok((ebpf, session))
    }

    /// Drains the rings and replaces the contents of `batch` by the events that no older event can follow any more.
    /// Returns whether a ring still holds records; the caller then drains again at once.
    pub fn drain(&mut self, batch: &mut Batch) -> Result<bool, ProbeError> {
        // Before the first ring is looked at: a ring that is then found empty is complete up to here.
        let began = now();
        let (mut complete, mut left) = (began, Left::Empty);
        self.log.flush();
        for ring in &mut self.rings {
            let (ring_left, ring_complete) = ring.drain(began, BATCH, |record| match decode(record) {
                Ok(event) => {
                    let ts = event.ts;
                    if (self.start_ts..=self.stop_ts).contains(&ts) {
                        self.merger.push(event);
                    }
                    Some(ts)
                }
                Err(DecodeError::Truncated { .. } | DecodeError::UnknownKind(_)) => {
                    self.undecodable += 1;
                    None
                }
            });
            complete = complete.min(ring_complete);
            left = left.max(ring_left);
        }
        self.left = left;
        self.complete = self.complete.max(complete);
        self.hand_over(self.complete, batch)?;
        Ok(left == Left::More)
    }

    /// Removes the probes, then delivers every event that is left. Detaching takes up to two seconds with many
    /// probes; what finds its ring full meanwhile counts as lost.
    pub fn stop(&mut self, batch: &mut Batch) -> Result<(), ProbeError> {
        // Before the first probe goes: afterwards not all of them stand.
        self.stop_ts = now();
        self.ebpf = None;
        let mut all = Batch::default();
        loop {
            self.drain(batch)?;
            all.append(batch);
            match self.left {
                Left::More => {}
                // A program was at work when its probe was removed.
                Left::Busy if now().saturating_sub(self.stop_ts) < LAST_WORD_NS => thread::sleep(MOMENT),
                Left::Busy | Left::Empty => break,
            }
        }
        self.hand_over(u64::MAX, batch)?;
        all.append(batch);
        *batch = all;
        Ok(())
    }

    /// When the last probe was attached (`CLOCK_MONOTONIC`, ns). No older event is delivered, except of a launched
    /// command ([`Options::from_birth`]).
    pub fn since(&self) -> u64 {
        self.attached_ts
    }

    /// How long all probes have stood, seconds; after [`Session::stop`] how long they stood.
    pub fn seconds(&self) -> f64 {
        self.until().saturating_sub(self.attached_ts) as f64 / 1e9
    }

    /// The time up to which events count: now, or the start of [`Session::stop`] (`CLOCK_MONOTONIC`, ns).
    pub fn until(&self) -> u64 {
        self.stop_ts.min(now())
    }

    /// The counters of all CPUs added up; kinds with 0 are left out.
    pub fn totals(&self) -> Result<Totals, ProbeError> {
        let mut totals = Totals { undecodable: self.undecodable, ..Totals::default() };
        for cpu in self.read_counters()?.iter() {
            for kind in Kind::ALL {
                *totals.hits.entry(kind).or_default() += cpu.hits[kind as usize];
                *totals.lost.entry(kind).or_default() += cpu.lost[kind as usize];
                *totals.blurred.entry(kind).or_default() += cpu.blurred[kind as usize];
            }
        }
        totals.hits.retain(|_, n| *n > 0);
        totals.lost.retain(|_, n| *n > 0);
        totals.blurred.retain(|_, n| *n > 0);
        Ok(totals)
    }

    /// Runs of the programs; `None`: the kernel does not count ([`count_runs`](super::count_runs)), or the probes are
    /// removed.
    pub fn programs(&self) -> Option<Programs> {
        self.ebpf.as_ref()?.programs()
    }

    fn read_counters(&self) -> Result<aya::maps::PerCpuValues<Counters>, ProbeError> {
        self.counters.get(&0, 0).map_err(ProbeError::Counters)
    }

    fn hand_over(&mut self, complete: u64, batch: &mut Batch) -> Result<(), ProbeError> {
        let (mut lost, mut blurred) = (0, 0);
        for cpu in self.read_counters()?.iter() {
            lost += cpu.lost.iter().sum::<u64>();
            blurred += cpu.blurred.iter().sum::<u64>();
        }
        batch.lost = lost - self.before.0;
        batch.blurred = blurred - self.before.1;
        self.before = (lost, blurred);
        // Read after the counters: whatever was lost so far happened before this moment.
        batch.doubt_until = now();
        batch.complete_until = complete;
        batch.events.clear();
        self.merger.release(complete, &mut batch.events);
        Ok(())
    }
}

fn attach(ebpf: &mut Ebpf, probe: &ProbeSite, pid: NonZeroU32, exe: &File) -> Result<(), ProbeError> {
    let program = object::uprobe(
        ebpf,
        object::program(probe.function).ok_or(ProbeError::Object("program for this function"))?,
    )?;
    // Through the open file, not by its name: the file may have been deleted or replaced, or lie in another mount
    // namespace.
    let path = PathBuf::from(format!("/proc/self/fd/{}", exe.as_raw_fd()));
    program
        .attach(probe.file_offset, path, UProbeScope::OneProcess(pid))
        .map_err(|source| ProbeError::of_attaching(probe.function, probe.file_offset, source))?;
    Ok(())
}
