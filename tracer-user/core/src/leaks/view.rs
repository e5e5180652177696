//! [`LeakView`]: what there is to show of goroutines that are leaked in the same way.

use crate::{
    detect::{
        Age, ContextSite, ContextTrouble, FdSite, FdTrouble, Fingerprint, Group, Growth, Lookup as _,
        PoolSite, PoolTrouble, Report, Rule, Verdict,
    },
    goruntime::State,
    heap::{Edge, Observed, Sign, TimerKind},
    names::{Names, Site},
    snapshot::{Goroutine, Object, Snapshot, Wants},
};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};
use std::{collections::HashSet, mem, sync::Arc};

/// Waits of a cycle that are kept, and that sentences tell.
const MAX_TURNS: usize = 1000;
const TOLD_TURNS: usize = 6;
/// Holders of a lock that sentences tell.
const TOLD_HOLDERS: usize = 3;

/// A group of leaked goroutines, of timers, contexts or descriptors, with names in place of addresses. Text, JSON, SARIF, `top`, the agent's
/// pages, metrics and records each show a part of it; as JSON it is a group of `sfgi.leaks/1`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeakView {
    /// The same in another run and another build.
    pub id: Fingerprint,
    pub verdict: Verdict,
    /// The rule that says so, with its class, severity, explanation and fix.
    pub rule: Arc<Rule>,
    /// What it is, in a line.
    pub title: String,
    /// How many goroutines or timers.
    pub count: u64,
    /// The shortest and the longest time that one of them is known to have been waiting.
    pub age: Option<(Age, Age)>,
    /// How fast the creation site grows; `None`: it does not for certain.
    pub growth: Option<Growth>,
    /// The heap that only these reach: an estimate; 0: not known.
    pub pinned_bytes: u64,
    /// By index into [`Snapshot::goroutines`], in the order of their ids; none for timers.
    pub members: Vec<u32>,
    /// The ids of the members.
    pub goids: Vec<u64>,
    /// State of the first member; `None` for timers.
    pub state: Option<State>,
    /// Why the first member waits, in the runtime's words; empty where it does not.
    pub reason: String,
    /// The stack of the first member as a traceback has it, innermost first; of timers the function that they run.
    pub stack: Vec<Site>,
    /// Where the first member waits, behind what only passes the wait on; `None` for timers.
    pub wait_site: Option<Site>,
    /// The `go` statement that made the first member; `None` for the main goroutine and for timers.
    pub created_by: Option<Site>,
    /// That `go` statement as a traceback has it: the physical function, and the offset of the return address in it.
    pub created_at: Option<(Arc<str>, u64)>,
    pub awaited: Option<Awaited>,
    /// Index into [`Observed::sets`], if they wait for each other.
    pub set: Option<u32>,
    pub timers: Option<Timers>,
    /// Of contexts that nobody can cancel.
    pub contexts: Option<ContextSite>,
    /// Of a pool that something is wrong with.
    pub pools: Option<PoolSite>,
    /// Of descriptors.
    pub fds: Option<FdSite>,
    /// The cycle that the first member waits in, from its own wait on; empty: none, or it is not told of cycles.
    pub ring: Vec<Turn>,
    /// What keeps alive what the first member waits for: a way on one line; `None`: nothing does, or it is not known.
    pub kept_by: Option<String>,
    /// Why, in sentences without a full stop, the strongest first.
    pub evidence: Vec<String>,
    /// When it was first found, nanoseconds since 1970; 0: not known.
    pub first_seen_unix_ns: u64,
}

/// What a group waits for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Awaited {
    /// What the first member wants of the first object that it waits for.
    pub wants: Wants,
    /// That object, without its waiters.
    pub object: Object,
    /// How many different ones the group waits for.
    pub different: usize,
    /// How many the first member alone waits for: the cases of its select.
    pub cases: usize,
}

/// A wait in a cycle, and who could end it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Turn {
    /// The goroutine that waits, by goid.
    pub waiter: u64,
    pub wants: Wants,
    /// The object that it waits for, without its waiters.
    pub object: Object,
    /// Where it waits.
    pub at: Option<Site>,
    /// The goroutine that could end the wait, by goid.
    pub holder: u64,
    /// How that is known.
    pub sign: Sign,
    /// The place in the holder's code that says so.
    pub held_at: Option<Site>,
}

impl Turn {
    /// `None`: the edge is none of this snapshot.
    pub fn of(edge: &Edge, snapshot: &Snapshot, names: &mut Names) -> Option<Turn> {
        let goroutine = |index: u32| snapshot.goroutines.get(index as usize);
        let (waiter, holder) = (goroutine(edge.waiter)?, goroutine(edge.holder)?);
        Some(Turn {
            waiter: waiter.goid,
            wants: waiter.waits.iter().find(|wait| wait.object == edge.object)?.wants,
            object: snapshot.objects.get(edge.object as usize)?.alone(),
            at: names.wait_site(snapshot.stacks.get(waiter.stack)),
            holder: holder.goid,
            sign: edge.sign,
            held_at: edge.place.and_then(|pc| names.wait_site(&[pc])),
        })
    }

    /// As a sentence without a full stop.
    pub fn sentence(&self) -> String {
        let Turn { waiter, wants, object, holder, .. } = self;
        let place = |site: &Option<Site>| match site {
            Some(Site { func, line: 0, .. }) => format!(" at {func}"),
            Some(Site { func, line, .. }) => format!(" at {func}:{line}"),
            None => String::new(),
        };
        let (at, held_at) = (place(&self.at), place(&self.held_at));
        let waits = format!("goroutine {waiter} waits {} {object}{at}", wants.verb());
        match self.phrase() {
            _ if self.sign == Sign::Unlock && waiter == holder => {
                format!("{waits}, and holds it itself: its Unlock is deferred{held_at}")
            }
            Phrase { before, after, .. } if self.sign.is_hint() => {
                format!("{waits}, {before} goroutine {holder}{after}{held_at} (inferred)")
            }
            Phrase { before, after, .. } => format!("{waits}, {before} goroutine {holder}{after}{held_at}"),
        }
    }

    /// How it is known who could end the wait, in a few words behind "by": for an arrow from one to the other.
    pub fn by(&self) -> String {
        let inferred = if self.sign.is_hint() { " (inferred)" } else { "" };
        format!("{}{inferred}", self.phrase().by)
    }

    /// The one place where a sign has words.
    fn phrase(&self) -> Phrase {
        let (before, after, by) = match self.sign {
            Sign::Unlock => ("and", " holds it: its Unlock is deferred", "its deferred Unlock"),
            Sign::Queue => ("behind", ", which waits to write to it", "its place in the queue"),
            Sign::History => ("which", " ended for others before", "its history"),
            Sign::Code if self.object.kind.is_lock() => ("which", " has locked by its code", "its code"),
            Sign::Code => ("which", " uses later by its code", "its code"),
            Sign::Stack => ("which", " has on its stack", "its stack"),
        };
        Phrase { before, after, by }
    }
}

/// The words of a [`Sign`]: what stands before and behind the goroutine that could end a wait, and in short.
struct Phrase {
    before: &'static str,
    after: &'static str,
    by: &'static str,
}

/// What the timers of a group run, and of which kind they are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Timers {
    /// The function that they run; `?` where it has no name.
    pub func: Arc<str>,
    pub kind: TimerKind,
}

/// The groups of a report; `pinned`: the bytes that each pins, empty where that was not measured.
pub fn views(report: Report, observed: &Observed, pinned: &[u64], names: &mut Names) -> Vec<LeakView> {
    let pinned = pinned.iter().copied().chain(std::iter::repeat(0));
    report
        .groups
        .into_iter()
        .zip(pinned)
        .map(|(group, pinned)| view(group, observed, pinned, names))
        .collect()
}

fn view(mut group: Group, observed: &Observed, pinned_bytes: u64, names: &mut Names) -> LeakView {
    let snapshot = &observed.snapshot;
    let goroutine = |index: &u32| snapshot.goroutines.get(*index as usize);
    let first = group.members.first().and_then(goroutine);
    let facts = group.members.first().and_then(|first| observed.facts.get(*first as usize));
    let timers = group.timers.and_then(|timers| observed.timers.get(timers as usize));
    let ring: Vec<Turn> =
        group.ring.iter().take(MAX_TURNS).filter_map(|edge| Turn::of(edge, snapshot, names)).collect();
    let mut evidence = mem::take(&mut group.evidence);
    // Who only waits behind somebody is told behind whom, where that is certain.
    let first_waits = group.members.first().filter(|_| ring.is_empty());
    let behind: Vec<Turn> = (observed.waits.edges.iter())
        .filter(|edge| Some(&edge.waiter) == first_waits && !edge.sign.is_hint())
        .take(TOLD_HOLDERS)
        .filter_map(|edge| Turn::of(edge, snapshot, names))
        .collect();
    // Behind what proves it, or does not.
    let told = ring.iter().take(TOLD_TURNS).chain(&behind).map(Turn::sentence);
    let more = group.ring.len().saturating_sub(TOLD_TURNS);
    let more = (more > 0).then(|| format!("{more} more waits lie between the last of these and the first"));
    let at = evidence.len().min(1);
    evidence.splice(at..at, told.chain(more));
    let stack = match (first, timers) {
        (Some(first), _) => {
            names.stack(snapshot.stacks.get(first.stack)).into_iter().map(|line| line.site).collect()
        }
        (None, Some(timers)) => names.function_at(timers.func).into_iter().collect(),
        (None, None) => Vec::new(),
    };
    LeakView {
        id: group.id,
        verdict: group.verdict,
        title: group.title(),
        count: group.count,
        age: group.age,
        growth: group.growth,
        pinned_bytes: group.pools.as_ref().map_or(pinned_bytes, |pool| pool.bytes),
        goids: group.members.iter().filter_map(goroutine).map(|one| one.goid).collect(),
        state: first.map(|first| first.state),
        reason: first.map(|first| names.reason(first).to_owned()).unwrap_or_default(),
        stack,
        wait_site: first.and_then(|first| names.wait_site(snapshot.stacks.get(first.stack))),
        created_by: first.and_then(|first| names.creator(first)),
        created_at: first.and_then(|first| created_at(first, names)),
        awaited: awaited(snapshot, &group.members),
        set: facts.and_then(|facts| facts.set),
        timers: timers.map(|timers| Timers {
            func: names.function(timers.func).unwrap_or_else(|| "?".into()),
            kind: timers.kind,
        }),
        contexts: group.contexts,
        pools: group.pools,
        fds: group.fds,
        kept_by: None,
        ring,
        evidence,
        first_seen_unix_ns: 0,
        rule: group.rule,
        members: group.members,
    }
}

fn created_at(goroutine: &Goroutine, names: &Names) -> Option<(Arc<str>, u64)> {
    if goroutine.goid == 1 || goroutine.gopc == 0 {
        return None;
    }
    let pc = goroutine.gopc.wrapping_sub(names.bias());
    let function = names.binary().functions().function_at(pc)?;
    Some((function.name.into(), pc - function.entry))
}

/// `None` where the group waits for nothing that was found.
fn awaited(snapshot: &Snapshot, members: &[u32]) -> Option<Awaited> {
    let waits = |index: &u32| snapshot.goroutines.get(*index as usize).map_or(&[][..], |one| &one.waits);
    let first = waits(members.first()?);
    let wait = *first.first()?;
    let different: HashSet<u32> = members.iter().flat_map(waits).map(|wait| wait.object).collect();
    let object = snapshot.objects.get(wait.object as usize)?.alone();
    Some(Awaited { wants: wait.wants, object, different: different.len(), cases: first.len() })
}

impl LeakView {
    /// Whether its members are goroutines.
    pub fn is_of_goroutines(&self) -> bool {
        self.things() == "goroutines"
    }

    /// What its members are.
    pub fn things(&self) -> &'static str {
        match self {
            LeakView { timers: Some(_), .. } => "timers",
            LeakView { contexts: Some(_), .. } => "contexts",
            LeakView { fds: Some(_), .. } => "descriptors",
            LeakView { pools: Some(_), .. } => "pooled objects",
            _ => "goroutines",
        }
    }

    /// How many more goroutines the creation site makes than end, a second.
    pub fn growth_per_s(&self) -> Option<f64> {
        self.growth.map(|growth| growth.per_s)
    }

    /// Cuts the lists whose size is the target's, for a holder of many views: so many `goids` and `lines` of the
    /// stack stay. The members go, since they are indices into a snapshot that is gone then.
    pub fn shorten(&mut self, goids: usize, lines: usize) {
        self.members = Vec::new();
        self.goids.truncate(goids);
        self.goids.shrink_to_fit();
        self.ring.truncate(TOLD_TURNS);
        self.stack.truncate(lines);
        self.stack.shrink_to_fit();
    }
}

/// A view as JSON: a group of `sfgi.leaks/1`, whose other lists (`leaks`, `sets`) are made of the observation. A view itself
/// serialises as it is, for another process of sfgi.
pub struct AsJson<'a>(pub &'a LeakView);

impl Serialize for AsJson<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let AsJson(this) = self;
        let rule = &this.rule;
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("id", &this.id)?;
        map.serialize_entry("verdict", &this.verdict)?;
        map.serialize_entry("class", &rule.class)?;
        map.serialize_entry("rule", &rule.id)?;
        map.serialize_entry("title", &this.title)?;
        map.serialize_entry("severity", &rule.severity)?;
        map.serialize_entry("count", &this.count)?;
        if let Some((min, max)) = this.age {
            map.serialize_entry("age_ms", &[min.ns / 1_000_000, max.ns / 1_000_000])?;
        }
        if let Some(growth) = this.growth {
            map.serialize_entry("growth_per_s", &growth.per_s)?;
            map.serialize_entry("growth_confidence", &growth.confidence)?;
        }
        map.serialize_entry("pinned_bytes", &this.pinned_bytes)?;
        if let Some(site) = &this.created_by {
            map.serialize_entry("created_by", &Place::of(site))?;
        }
        if let Some(site) = &this.wait_site {
            map.serialize_entry("wait_site", &Place::of(site))?;
        }
        map.serialize_entry("goids", &this.goids)?;
        if let Some(awaited) = &this.awaited {
            map.serialize_entry("object", &format_args!("{:#x}", awaited.object.addr))?;
        }
        if let Some(timers) = &this.timers {
            map.serialize_entry("timers", &TimersJson { func: &timers.func, kind: timers.kind })?;
        }
        if let Some(contexts) = &this.contexts {
            map.serialize_entry("contexts", &ContextsJson::of(contexts))?;
        }
        if let Some(pool) = &this.pools {
            map.serialize_entry("pool", &PoolJson::of(pool))?;
        }
        if let Some(fds) = &this.fds {
            map.serialize_entry("descriptors", &FdsJson::of(fds))?;
        }
        if !this.ring.is_empty() {
            let turns: Vec<TurnJson<'_>> = this.ring.iter().map(TurnJson::of).collect();
            map.serialize_entry("ring", &turns)?;
        }
        if let Some(way) = &this.kept_by {
            map.serialize_entry("kept_by", way)?;
        }
        map.serialize_entry("evidence", &this.evidence)?;
        map.serialize_entry("explanation", &rule.explanation)?;
        map.serialize_entry("fix", &rule.fix)?;
        map.serialize_entry("formal", &rule.formal)?;
        map.end()
    }
}

/// A place in the program's source, without what is not known of it.
#[derive(Serialize)]
pub struct Place<'a> {
    func: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    file: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
}

impl Place<'_> {
    /// That of a site.
    pub fn of(site: &Site) -> Place<'_> {
        Place { func: &site.func, file: &site.file, line: (site.line != 0).then_some(site.line) }
    }
}

/// A wait and who could end it, in JSON.
#[derive(Serialize)]
pub struct TurnJson<'a> {
    waiter: u64,
    /// As it stands between "waits" and the object.
    wants: &'static str,
    object: String,
    /// The object and its state in words.
    what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<Place<'a>>,
    holder: u64,
    by: Sign,
    inferred: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_at: Option<Place<'a>>,
}

impl TurnJson<'_> {
    /// That of a turn.
    pub fn of(turn: &Turn) -> TurnJson<'_> {
        TurnJson {
            waiter: turn.waiter,
            wants: turn.wants.verb(),
            object: format!("{:#x}", turn.object.addr),
            what: turn.object.to_string(),
            at: turn.at.as_ref().map(Place::of),
            holder: turn.holder,
            by: turn.sign,
            inferred: turn.sign.is_hint(),
            held_at: turn.held_at.as_ref().map(Place::of),
        }
    }
}

#[derive(Serialize)]
struct ContextsJson<'a> {
    trouble: ContextTrouble,
    r#type: &'a str,
    count: u64,
    address: String,
    parent: &'a str,
    parent_address: String,
    kept_by: &'a str,
}

impl ContextsJson<'_> {
    fn of(site: &ContextSite) -> ContextsJson<'_> {
        ContextsJson {
            trouble: site.trouble,
            r#type: &site.of,
            count: site.count,
            address: format!("{:#x}", site.address),
            parent: &site.parent,
            parent_address: format!("{:#x}", site.parent_address),
            kept_by: &site.kept_by,
        }
    }
}

#[derive(Serialize)]
struct PoolJson<'a> {
    trouble: PoolTrouble,
    name: &'a str,
    new: &'a str,
    r#type: &'a str,
    address: String,
    example: String,
    count: u64,
    objects: u64,
    fields: &'a [String],
    room_bytes: u64,
    median_room_bytes: u64,
}

impl PoolJson<'_> {
    fn of(site: &PoolSite) -> PoolJson<'_> {
        PoolJson {
            trouble: site.trouble,
            name: &site.name,
            new: &site.new,
            r#type: &site.of,
            address: format!("{:#x}", site.address),
            example: format!("{:#x}", site.example),
            count: site.count,
            objects: site.objects,
            fields: &site.fields,
            room_bytes: site.bytes,
            median_room_bytes: site.median,
        }
    }
}

#[derive(Serialize)]
struct FdsJson<'a> {
    trouble: FdTrouble,
    #[serde(skip_serializing_if = "str::is_empty")]
    kind: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    origin: &'a str,
    count: u64,
    /// One of them.
    fd: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    r#type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    kept_by: &'a str,
    unread_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_to_end: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
}

impl FdsJson<'_> {
    fn of(site: &FdSite) -> FdsJson<'_> {
        FdsJson {
            trouble: site.trouble,
            kind: &site.kind,
            origin: &site.origin,
            count: site.count,
            fd: site.number,
            name: &site.name,
            r#type: &site.of,
            address: (site.address != 0).then(|| format!("{:#x}", site.address)),
            kept_by: &site.kept_by,
            unread_bytes: site.unread,
            read_to_end: (site.trouble == FdTrouble::PeerClosed).then_some(site.read_to_end),
            limit: (site.limit != 0).then_some(site.limit),
        }
    }
}

#[derive(Serialize)]
struct TimersJson<'a> {
    func: &'a str,
    #[serde(serialize_with = "timer_kind")]
    kind: TimerKind,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes what it serializes by reference")]
fn timer_kind<S: Serializer>(kind: &TimerKind, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(match kind {
        TimerKind::Ticker => "ticker",
        TimerKind::Timer => "timer",
        TimerKind::AfterFunc => "afterfunc",
    })
}
