//! The objects that have descriptors: what Go's library keeps of an open file or connection, who has that, and whether
//! anything but a finalizer leads to it.
//!
//! All of the library's descriptors are in a `poll.FD` (`src/internal/poll/fd_unix.go`) within a `net.netFD` or an `os.file`, which
//! a `net.TCPConn` or an `os.File` points to. Both have a finalizer that closes the descriptor (`newFile` in `src/os/file_unix.go`,
//! `netFD.setAddr` in `src/net/fd_posix.go`; 1.19 to 1.27), whose record tells the type of one that nothing leads to any more.
//! Offsets come from the descriptors of these types.

use super::edges::To;
use super::form::Shape;
use super::typing::number;
use super::{Objects, ObjectsError};
use crate::binary::bytes::u64_at;
use crate::binary::{Kind, TypeId, Types};
use crate::budget;
use crate::heap::{Depths, References, Wanted};
use crate::memory::{Fault, Range, read_each};
use crate::snapshot::View;
use hashbrown::{HashMap, HashSet};

/// Readings in a row that must change nothing, and most readings.
const QUIET: u32 = 2;
const MAX_READINGS: u32 = 8;
/// Objects that are read together.
const BATCH: usize = 1024;
/// Most objects with a descriptor, and of objects that have those.
const MAX_FILES: usize = 1 << 20;
const MAX_HOLDERS: usize = 1 << 22;
/// How many have an object, of those that are told apart, and steps from an object to who has it in the end.
const MAX_OF_ONE: usize = 4;
const MAX_STEPS: usize = 6;
/// How deep structs in structs are looked at for what has a connection.
const MAX_DEPTH: u32 = 4;
/// `mutexClosed` in `poll.fdMutex.state` (`src/internal/poll/fd_mutex.go`).
const CLOSED: u64 = 1;
/// Interfaces that a connection or file is kept in.
const INTERFACES: [&str; 9] = [
    "net.Conn",
    "net.Listener",
    "net.PacketConn",
    "io.ReadWriteCloser",
    "io.ReadCloser",
    "io.WriteCloser",
    "io.Closer",
    "io.Reader",
    "io.Writer",
];
/// Packages whose structs only pass on what they have.
const PLUMBING: [&str; 8] =
    ["bufio", "io", "net", "os", "internal/poll", "compress/flate", "compress/gzip", "crypto/tls"];

/// An object that has an open descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileObject {
    /// Address and type of the `net.netFD` or `os.file`.
    pub addr: u64,
    pub of: TypeId,
    /// The descriptor.
    pub number: u32,
    /// Its `pollDesc`; 0: the runtime does not wait for such (a regular file).
    pub poll: u64,
    /// Whether anything but finalizers and cleanups leads to it. Otherwise only a finalizer closes it, after a collection.
    pub kept: bool,
    /// Who has it, the nearest first: a `net.TCPConn`, the `tls.Conn` that has that, and so on. Address and type.
    pub holders: Vec<(u64, TypeId)>,
}

impl FileObject {
    /// What the program calls it: the `net.TCPConn` or `os.File`, or itself where nothing has it. Address and type.
    pub fn object(&self) -> (u64, TypeId) {
        self.holders.first().copied().unwrap_or((self.addr, self.of))
    }

    /// The one in the end that is more than a wrapper: an `http.persistConn` that has a `tls.Conn`. `None`: there is none.
    pub fn holder(&self, types: &Types) -> Option<(u64, TypeId)> {
        let above = self.holders.get(1..).unwrap_or_default();
        let own = above.iter().find(|(_, of)| !PLUMBING.contains(&types.package(*of)));
        own.or(above.last()).copied()
    }
}

/// The objects that have open descriptors.
#[derive(Debug, Default)]
pub struct Files {
    pub list: Vec<FileObject>,
    /// Why some may be missing, as a clause.
    pub doubt: Option<String>,
    plans: HashMap<TypeId, Plan>,
}

impl Files {
    /// How many there are that nothing seems to lead to.
    fn dropped(&self) -> usize {
        self.list.iter().filter(|file| !file.kept).count()
    }

    /// Takes only those for dropped that seemed so before, too.
    fn confirm(&mut self, before: &Files) {
        let dropped = before.list.iter().filter(|file| !file.kept);
        let dropped: HashSet<(u64, u32)> = dropped.map(|file| (file.addr, file.number)).collect();
        for file in &mut self.list {
            file.kept |= !dropped.contains(&(file.addr, file.number));
        }
    }

    /// Looks once more which of them have their descriptor, and leaves out the others: they were closed since.
    ///
    /// # Errors
    /// The target has ended or may not be read.
    pub fn refresh(&mut self, view: &View<'_>) -> Result<(), Fault> {
        let mut open = vec![false; self.list.len()];
        for (files, open) in self.list.chunks(BATCH).zip(open.chunks_mut(BATCH)) {
            let plan = |file: &FileObject| self.plans.get(&file.of).copied();
            let word = |addr: Option<u64>| Range { addr: addr.unwrap_or(0), len: 8 };
            let ranges: Vec<Range> = (files.iter())
                .flat_map(|file| {
                    let plan = plan(file);
                    let at = |offset: Option<u64>| word(offset.and_then(|at| file.addr.checked_add(at)));
                    [at(plan.map(|plan| plan.state)), at(plan.map(|plan| plan.number))]
                })
                .collect();
            read_each(view.memory, &ranges, |index, bytes| {
                let (Some(word), Some(file)) = (u64_at(bytes, 0), files.get(index / 2)) else { return };
                if let Some(open) = open.get_mut(index / 2) {
                    *open = match index % 2 {
                        0 => word & CLOSED == 0,
                        _ => *open && word == u64::from(file.number),
                    };
                }
            })?;
        }
        let mut open = open.into_iter();
        self.list.retain(|_| open.next() == Some(true));
        Ok(())
    }
}

/// What several readings found together.
///
/// # Dropped for certain
/// What is handed to and fro while all is read (a file in a pool) may be missed by a reading, though each looks at all stacks once
/// more. What nothing leads to stays so. So an object is dropped if no reading found a way to it: there are readings until two in a
/// row have found none to any that is left.
#[derive(Debug, Default)]
pub struct Settling {
    files: Files,
    readings: u32,
    /// Readings in a row that changed nothing.
    quiet: u32,
}

impl Settling {
    /// Takes in what a reading found.
    pub fn add(&mut self, mut files: Files) {
        let before = self.files.dropped();
        if self.readings > 0 {
            files.confirm(&self.files);
        }
        self.quiet = if self.readings > 0 && files.dropped() == before { self.quiet + 1 } else { 0 };
        (self.files, self.readings) = (files, self.readings + 1);
    }

    /// Whether another reading may change what is said.
    pub fn wants_more(&self) -> bool {
        self.files.dropped() > 0 && self.quiet < QUIET && self.readings < MAX_READINGS
    }

    /// What all readings found together.
    pub fn files(self) -> Files {
        self.files
    }
}

/// Reads all objects by `read`, and those among them that have descriptors; again as long as that may change which are dropped.
///
/// # Errors
/// As `read`, and as [`Objects::files`].
pub fn settled_files<'a>(
    stopped: bool,
    read: &mut dyn FnMut() -> Result<Objects<'a>, ObjectsError>,
) -> Result<(Objects<'a>, Files), ObjectsError> {
    let mut settling = Settling::default();
    loop {
        let mut objects = read()?;
        settling.add(objects.files(stopped)?);
        if stopped || !settling.wants_more() {
            return Ok((objects, settling.files()));
        }
    }
}

/// Where a struct has what of a `poll.FD`; offsets in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    state: u64,
    number: u64,
    poll: u64,
}

/// Which types have to do with descriptors.
#[derive(Debug, Default)]
struct Plans {
    /// Structs with a `poll.FD`.
    files: HashMap<TypeId, Plan>,
    /// Structs with a pointer to such, and where: `net.TCPConn`, `os.File`.
    conns: HashMap<TypeId, Vec<u32>>,
    /// Structs with an interface that may hold one of these, and where its data is.
    holders: HashMap<TypeId, Vec<u32>>,
}

/// Where a field is, by its name.
fn field(types: &Types, of: TypeId, name: &str) -> Option<(u64, TypeId)> {
    let field = types.fields(of).iter().find(|field| types.field_name(field) == name)?;
    Some((field.offset, field.of?))
}

impl Plan {
    fn of(types: &Types, fd: TypeId) -> Option<Plan> {
        let (mutex, of_mutex) = field(types, fd, "fdmu")?;
        let (state, _) = field(types, of_mutex, "state")?;
        let (number, _) = field(types, fd, "Sysfd")?;
        let (desc, of_desc) = field(types, fd, "pd")?;
        let (poll, _) = field(types, of_desc, "runtimeCtx")?;
        Some(Plan { state: mutex.checked_add(state)?, number, poll: desc.checked_add(poll)? })
    }

    fn behind(self, offset: u64) -> Option<Plan> {
        let at = |own: u64| own.checked_add(offset);
        Some(Plan { state: at(self.state)?, number: at(self.number)?, poll: at(self.poll)? })
    }
}

impl Objects<'_> {
    /// The objects that have open descriptors, reachable or not. `stopped`: the target stands still.
    ///
    /// # Errors
    /// The target has ended, or the budget is used up.
    pub fn files(&mut self, stopped: bool) -> Result<Files, ObjectsError> {
        let plans = self.file_plans();
        let mut files = Files { doubt: self.files_doubt(&plans), ..Files::default() };
        let (mut found, mut conns, mut holders) = (Vec::new(), Vec::new(), Vec::new());
        for (object, of) in self.typed_objects() {
            let list = match of {
                of if plans.files.contains_key(&of) => {
                    if found.len() >= MAX_FILES {
                        files.doubt.get_or_insert_with(|| "there are too many of them".to_owned());
                        continue;
                    }
                    &mut found
                }
                of if plans.conns.contains_key(&of) => &mut conns,
                of if plans.holders.contains_key(&of) && holders.len() < MAX_HOLDERS => &mut holders,
                _ => continue,
            };
            budget::reserve(list, 1)?;
            list.push((object, of));
        }
        let mut numbers = self.read_files(&plans, &found, &mut files)?;
        self.hold_files(stopped, &mut files, &mut numbers)?;
        let mut above = HashMap::new();
        self.find_holders(&plans.conns, &conns, &mut above)?;
        self.find_holders(&plans.holders, &holders, &mut above)?;
        for (file, object) in files.list.iter_mut().zip(&numbers) {
            file.holders = self.chain(*object, &above);
        }
        files.plans = plans.files;
        Ok(files)
    }

    fn files_doubt(&self, plans: &Plans) -> Option<String> {
        if let Some(untyped) = &self.untyped {
            return Some(format!("types are not known: {untyped}"));
        }
        if plans.files.is_empty() {
            return Some("the type internal/poll.FD is not in the program".to_owned());
        }
        (self.graph.unread > 0).then(|| format!("{} bytes of its heap could not be read", self.graph.unread))
    }

    fn file_plans(&self) -> Plans {
        let types = &self.typing.types;
        let mut plans = Plans::default();
        let structs = || types.iter().filter(|id| types.get(*id).kind == Kind::Struct);
        let fd = types.find("internal/poll", "poll.FD");
        let Some((fd, plan)) = fd.and_then(|fd| Some((fd, Plan::of(types, fd)?))) else { return plans };
        plans.files.insert(fd, plan);
        for id in structs() {
            let has = types.fields(id).iter().find(|field| field.of == Some(fd));
            if let Some(plan) = has.and_then(|field| plan.behind(field.offset)) {
                plans.files.insert(id, plan);
            }
        }
        for id in structs().filter(|id| !plans.files.contains_key(id)) {
            let edges = self.typing.edges(id);
            let to_file = edges
                .list
                .iter()
                .filter(|edge| matches!(edge.to, To::One(of) if of != fd && plans.files.contains_key(&of)));
            let to_file: Vec<u32> = to_file.map(|edge| edge.offset).collect();
            if !to_file.is_empty() && !types.is_closure(id) {
                plans.conns.insert(id, to_file);
            }
        }
        for id in structs() {
            let known = plans.files.contains_key(&id) || plans.conns.contains_key(&id);
            if known || types.is_closure(id) || types.package(id).is_empty() {
                continue;
            }
            let mut offsets = Vec::new();
            interfaces(types, &plans.conns, id, (0, 0), &mut offsets);
            if !offsets.is_empty() {
                plans.holders.insert(id, offsets);
            }
        }
        plans
    }

    /// Every object of one value whose type is known, reachable or not: its number, and the type.
    fn typed_objects(&self) -> impl Iterator<Item = (u32, TypeId)> {
        let numbers = self.graph.spans.iter().flat_map(|span| {
            let first = u32::try_from(span.bits).unwrap_or(u32::MAX);
            first..first.saturating_add(span.count)
        });
        numbers.filter_map(|object| {
            let form = self.typing.form(object).filter(|form| form.shape == Shape::One)?;
            Some((object, form.of))
        })
    }

    /// Reads these objects; returns the number of each that has an open descriptor.
    fn read_files(
        &self,
        plans: &Plans,
        found: &[(u32, TypeId)],
        files: &mut Files,
    ) -> Result<Vec<u32>, ObjectsError> {
        let objects: Vec<u32> = found.iter().map(|(object, _)| *object).collect();
        budget::check(found.len() * size_of::<FileObject>())?;
        let mut numbers = Vec::new();
        self.read_objects(&objects, &mut |index, addr, bytes| {
            let Some((object, of)) = found.get(index).copied() else { return };
            let Some(plan) = plans.files.get(&of) else { return };
            let header = self.graph.place(object).map_or(0, |(_, span, _)| self.typing.header(&span));
            let word = |at: u64| {
                let at = usize::try_from(at.checked_add(header)?).ok()?;
                u64_at(bytes, at)
            };
            let (Some(state), Some(number)) = (word(plan.state), word(plan.number)) else { return };
            let Ok(number) = u32::try_from(number) else { return };
            if state & CLOSED != 0 {
                return;
            }
            files.list.push(FileObject {
                addr: addr + header,
                of,
                number,
                poll: word(plan.poll).unwrap_or(0),
                kept: self.graph.is_kept(object),
                holders: Vec::new(),
            });
            numbers.push(object);
        })?;
        // What nothing leads to may have been freed since, and its slot is not cleared before it is used again.
        let there: Vec<bool> = (files.list.iter().zip(&numbers))
            .map(|(file, object)| file.kept || self.is_still_allocated(*object))
            .collect();
        let mut keep = there.iter();
        files.list.retain(|_| keep.next() == Some(&true));
        let mut keep = there.iter();
        numbers.retain(|_| keep.next() == Some(&true));
        Ok(numbers)
    }

    fn is_still_allocated(&self, object: u32) -> bool {
        self.graph.place(object).is_some_and(|(id, ..)| self.graph.spans.is_used(&self.view, id))
    }

    /// Looks again at all stacks, also of goroutines that were no roots, if there are objects that nothing seems to lead to: while
    /// the heap was read something may have come onto a stack that had been read before.
    fn hold_files(&self, stopped: bool, files: &mut Files, numbers: &mut [u32]) -> Result<(), ObjectsError> {
        let all_are_roots = self.without_roots == 0;
        if files.list.iter().all(|file| file.kept) || stopped && all_are_roots {
            return Ok(());
        }
        let Some(mut references) = References::new(&self.view, Depths::default()) else { return Ok(()) };
        let wanted: Vec<_> = (self.snapshot.goroutines.iter().zip(0_u32..))
            .map(|(goroutine, index)| Wanted { index, g: goroutine.g, moved: false })
            .collect();
        let (mut seeds, mut exhausted) = (Vec::new(), None);
        references.each(&wanted, &mut |_, word, sure| {
            let id =
                self.graph.spans.object(word).filter(|id| sure || self.graph.spans.is_used(&self.view, *id));
            let object = id.and_then(|id| number(self.graph.spans.get(id.span)?, id));
            if let Some(object) = object.filter(|object| !self.graph.is_kept(*object)) {
                match budget::reserve(&mut seeds, 1) {
                    Ok(()) => seeds.push(object),
                    Err(error) => exhausted = Some(error),
                }
            }
        })?;
        if let Some(error) = exhausted {
            return Err(error.into());
        }
        let held = self.graph.also_kept(seeds)?;
        for (file, object) in files.list.iter_mut().zip(numbers) {
            file.kept |= held(*object);
        }
        Ok(())
    }

    /// Notes who has which object, by what these have at these offsets.
    fn find_holders(
        &self,
        offsets: &HashMap<TypeId, Vec<u32>>,
        found: &[(u32, TypeId)],
        above: &mut HashMap<u32, Vec<(u32, TypeId)>>,
    ) -> Result<(), ObjectsError> {
        let objects: Vec<u32> = found.iter().map(|(object, _)| *object).collect();
        budget::check(found.len() * 64)?;
        self.read_objects(&objects, &mut |index, _, bytes| {
            let Some((holder, of)) = found.get(index).copied() else { return };
            let header = self.graph.place(holder).map_or(0, |(_, span, _)| self.typing.header(&span));
            for at in offsets.get(&of).into_iter().flatten() {
                let at = (u64::from(*at) + header) as usize;
                let Some(object) = u64_at(bytes, at).and_then(|word| self.graph.at(word)) else { continue };
                if object == holder || self.typing.form(object).is_none() {
                    continue;
                }
                let of_one = above.entry(object).or_default();
                if of_one.len() < MAX_OF_ONE {
                    of_one.push((holder, of));
                }
            }
        })
    }

    /// Who has an object, who has that, and so on: through what has a package of its own, where there are several.
    fn chain(&self, object: u32, above: &HashMap<u32, Vec<(u32, TypeId)>>) -> Vec<(u64, TypeId)> {
        let types = &self.typing.types;
        let (mut chain, mut seen, mut at) = (Vec::new(), vec![object], object);
        while chain.len() < MAX_STEPS {
            let new = above.get(&at).into_iter().flatten().filter(|(holder, _)| !seen.contains(holder));
            let rank = |of: TypeId| match types.package(of) {
                "net" | "os" => 2,
                "crypto/tls" => 3,
                "bufio" | "io" => 0,
                package if PLUMBING.contains(&package) => 1,
                _ => 4,
            };
            let Some((holder, of)) = new.copied().max_by_key(|(_, of)| rank(*of)) else { break };
            let Some((_, span, addr)) = self.graph.place(holder) else { break };
            chain.push((addr + self.typing.header(&span), of));
            seen.push(holder);
            at = holder;
        }
        chain
    }
}

/// The data words of interfaces, and pointers, of a struct that may lead to a file or connection.
fn interfaces(
    types: &Types,
    conns: &HashMap<TypeId, Vec<u32>>,
    of: TypeId,
    (base, depth): (u64, u32),
    offsets: &mut Vec<u32>,
) {
    for field in types.fields(of) {
        let Some(inner) = field.of else { continue };
        let at = base.saturating_add(field.offset);
        let (found, mut add) = (types.get(inner), |at: u64| offsets.extend(u32::try_from(at)));
        match found.kind {
            Kind::Interface if INTERFACES.contains(&types.name(inner)) => add(at.saturating_add(8)),
            Kind::Pointer if types.elem(inner).is_some_and(|elem| conns.contains_key(&elem)) => add(at),
            Kind::Struct if depth < MAX_DEPTH => interfaces(types, conns, inner, (at, depth + 1), offsets),
            _ => {}
        }
        if offsets.len() >= MAX_OF_ONE * 4 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three descriptors, some of which a reading found no way to.
    fn reading(dropped: &[u32]) -> Files {
        let file = |number| FileObject {
            addr: u64::from(number) << 8,
            of: TypeId(0),
            number,
            poll: 0,
            kept: !dropped.contains(&number),
            holders: Vec::new(),
        };
        Files { list: (1..4).map(file).collect(), ..Files::default() }
    }

    /// What is dropped in the end, and after how many readings that is known.
    fn settled(readings: &[&[u32]]) -> (Vec<u32>, usize) {
        let mut settling = Settling::default();
        let mut made = 0;
        for dropped in readings {
            settling.add(reading(dropped));
            made += 1;
            if !settling.wants_more() {
                break;
            }
        }
        let files = settling.files().list.into_iter().filter(|file| !file.kept);
        (files.map(|file| file.number).collect(), made)
    }

    #[test]
    fn what_any_reading_found_a_way_to_is_not_dropped() {
        assert_eq!(settled(&[&[], &[1]]), (vec![], 1));
        assert_eq!(settled(&[&[1, 2], &[2, 3], &[2], &[2], &[2]]), (vec![2], 4));
        assert_eq!(settled(&[&[1], &[1], &[1], &[]]), (vec![1], 3));
        assert_eq!(settled(&[&[1], &[2], &[1]]), (vec![], 2));
    }
}
