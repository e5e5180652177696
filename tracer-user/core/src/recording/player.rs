//! Plays a recording: its inputs go through the same model and to the same observers as when they were live.

use super::{
    bytes::{Senseless, Take},
    frame::{self, Damage, Frames, Head, Kind, Next, Tail},
    items::{self, Item},
    names,
};
use crate::{
    budget::{self, Exhausted},
    files::{self, FileError},
    model::Whats,
    names::Symbols,
    session::{End, Input, Observer, Round, Target},
};
use std::{
    io::{self, BufReader, Read},
    path::Path,
};

/// Why a file cannot be played at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot be read")]
    Read(#[from] io::Error),
    /// It is no regular file.
    #[error("{0}")]
    File(FileError),
    #[error("names more programs than any trace: it is damaged")]
    TooMany,
    #[error("is no recording of sfgi: `sfgi record -o FILE` makes one")]
    NotOurs,
    #[error("is a recording of version {0}, and this sfgi reads up to version {max}: use a newer one", max = frame::VERSION)]
    TooYoung(u32),
    /// It ends before it says what was traced.
    #[error("has no beginning: nothing was recorded")]
    NoHead,
}

impl From<FileError> for OpenError {
    fn from(error: FileError) -> OpenError {
        match error {
            FileError::Io(error) => OpenError::Read(error),
            other => OpenError::File(other),
        }
    }
}

/// Programs of one recording, and bytes of what it says of all of them. A trace of a whole host has some hundred.
const MAX_TARGETS: usize = 1 << 12;
const MAX_HEAD: usize = 4 << 20;
/// Steps after which a round is over, whatever the recording says: a drain of full ring buffers brings fewer.
const MAX_STEPS: usize = 1 << 20;
/// Bytes that one input may make the model and the observers keep: some for each of its 4,096 events.
const ASK: usize = 8 << 20;

/// Why playing stopped before the end.
#[derive(Debug, thiserror::Error)]
pub enum PlayError {
    /// The file could be opened but cannot be read on.
    #[error("cannot be read")]
    Read(#[source] io::Error),
    #[error(transparent)]
    Observer(io::Error),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Played {
    pub ends: Vec<End>,
    /// Why the file ends before the recording does, and after how many bytes.
    pub damage: Option<(u64, Damage)>,
    /// Whether the recording was stopped in order and has a [`Tail`].
    pub whole: bool,
}

/// Bytes of a recording, in order.
type Source = Box<dyn Read + Send>;

/// A recording that is about to be played, once.
pub struct Player {
    head: Head,
    frames: Frames<Source>,
    bytes: u64,
    targets: Vec<Target>,
}

pub(super) fn begin(input: &mut impl Read) -> Result<(), OpenError> {
    let mut header = [0; 16];
    let len = frame::fill(input, &mut header)?;
    if len < 16 || header[..8] != frame::MAGIC {
        return Err(OpenError::NotOurs);
    }
    match u32::from_le_bytes([header[8], header[9], header[10], header[11]]) {
        0 => Err(OpenError::NotOurs),
        1..=frame::VERSION => Ok(()),
        version => Err(OpenError::TooYoung(version)),
    }
}

impl Player {
    /// Reads what the recording in this file says of itself.
    ///
    /// # Errors
    /// The file cannot be played at all.
    pub fn open(path: &Path) -> Result<Player, OpenError> {
        let file = files::open(path)?;
        let bytes = file.metadata()?.len();
        Player::new(Box::new(BufReader::with_capacity(1 << 18, file)), bytes)
    }

    /// As [`Player::open`], of an input that has so many bytes; they are only told to `progress`.
    ///
    /// # Errors
    /// It cannot be played at all.
    pub fn new(mut input: Source, bytes: u64) -> Result<Player, OpenError> {
        begin(&mut input)?;
        let mut frames = Frames::new(input)?;
        let head: Head = match frames.next()? {
            Next::Frame(Kind::Head, raw) if raw.len() > MAX_HEAD => return Err(OpenError::TooMany),
            Next::Frame(Kind::Head, raw) => serde_json::from_slice(raw).map_err(|_| OpenError::NoHead)?,
            _ => return Err(OpenError::NoHead),
        };
        if head.targets.len() > MAX_TARGETS {
            return Err(OpenError::TooMany);
        }
        let target = |about: &crate::session::About| Target::new(about.clone(), Symbols::told());
        Ok(Player { targets: head.targets.iter().map(target).collect(), head, frames, bytes })
    }

    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Plays it to the end, or to the first round that was over after `until_ts` (nanoseconds of the recording's
    /// clock). `progress` is told how many bytes of how many have been read.
    ///
    /// # Errors
    /// The file cannot be read, or an observer cannot go on. Damage is no error: everything before it is played, and
    /// the result tells of it.
    pub fn play(
        self,
        observers: &mut [&mut dyn Observer],
        until_ts: u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Played, PlayError> {
        let Player { mut frames, bytes, targets, .. } = self;
        let mut playing = Playing::new(targets, observers, until_ts);
        playing.begin()?;
        let mut names = names::Reader::default();
        let (mut tail, mut damage): (Option<Tail>, _) = (None, None);
        let mut over = false;
        while damage.is_none() && !over {
            progress(frames.offset, bytes);
            let offset = frames.offset;
            let (kind, raw) = match frames.next().map_err(PlayError::Read)? {
                Next::End => break,
                Next::Frame(kind, raw) => (kind, raw),
                Next::Damaged(why) => {
                    damage = Some((offset, why));
                    break;
                }
            };
            let result = match kind {
                Kind::Names => budget::check(raw.len() * names::SITE_RATIO)
                    .map_err(Stop::from)
                    .and_then(|()| names.read(Take(raw), &mut playing.targets).map_err(Stop::from)),
                Kind::Data => playing.data(raw),
                Kind::Tail => {
                    // A tail that cannot be read is as good as none: the recording counts as cut off.
                    tail = serde_json::from_slice(raw).ok();
                    Ok(())
                }
                Kind::Head | Kind::Document | Kind::Other(_) => Ok(()),
            };
            match result {
                Ok(()) => {}
                Err(Stop::Over) => over = true,
                Err(Stop::Senseless) => damage = Some((offset, Damage::Senseless)),
                Err(Stop::Exhausted) => damage = Some((offset, Damage::TooLarge)),
                Err(Stop::Failed(error)) => return Err(error),
            }
        }
        // The tail is about the end of the recording, not about the time that was asked for.
        playing.finish(tail.filter(|_| !over), over, damage)
    }
}

/// Why a frame is not played to its end.
enum Stop {
    /// The time that was asked for is over.
    Over,
    Senseless,
    /// There is no room for it.
    Exhausted,
    Failed(PlayError),
}

impl From<Senseless> for Stop {
    fn from(_: Senseless) -> Stop {
        Stop::Senseless
    }
}

impl From<Exhausted> for Stop {
    fn from(_: Exhausted) -> Stop {
        Stop::Exhausted
    }
}

impl From<PlayError> for Stop {
    fn from(error: PlayError) -> Stop {
        Stop::Failed(error)
    }
}

/// A recording that is being played.
struct Playing<'a, 'o> {
    targets: Vec<Target>,
    observers: &'a mut [&'o mut dyn Observer],
    items: items::Reader,
    round: Round,
    until_ts: u64,
    now_ts: u64,
    lost: Vec<u64>,
}

impl<'a, 'o> Playing<'a, 'o> {
    fn new(targets: Vec<Target>, observers: &'a mut [&'o mut dyn Observer], until_ts: u64) -> Self {
        let (items, lost) = (items::Reader::new(targets.len()), vec![0; targets.len()]);
        let mut round = Round::default();
        round.clear(targets.len());
        Playing { targets, observers, items, round, until_ts, now_ts: 0, lost }
    }

    fn begin(&mut self) -> Result<(), PlayError> {
        let wanted = self.observers.iter().fold(Whats::default(), |all, observer| all.or(observer.wants()));
        self.targets.iter_mut().for_each(|target| target.want(wanted));
        for observer in &mut *self.observers {
            observer.begin(&mut self.targets).map_err(PlayError::Observer)?;
        }
        Ok(())
    }

    fn data(&mut self, raw: &[u8]) -> Result<(), Stop> {
        let mut take = Take(raw);
        self.items.begin();
        while !take.is_empty() {
            match self.items.item(&mut take)? {
                None => {}
                Some(Item::Input(target, input)) => {
                    budget::check(ASK)?;
                    self.input(target, input)?;
                    if self.round.news.iter().any(|news| news.steps.len() > MAX_STEPS) {
                        self.end_round()?;
                    }
                }
                Some(Item::Round) => {
                    self.end_round()?;
                    if self.now_ts > self.until_ts {
                        return Err(Stop::Over);
                    }
                }
            }
        }
        Ok(())
    }

    fn input(&mut self, index: usize, input: Input) -> Result<(), PlayError> {
        let (target, news) = (&mut self.targets[index], &mut self.round.news[index]);
        target.take(&input, news);
        for observer in &mut *self.observers {
            observer.input(index, &input, target).map_err(PlayError::Observer)?;
        }
        if let Input::Events(batch) = input {
            self.items.spare = batch.events;
        }
        Ok(())
    }

    fn end_round(&mut self) -> Result<(), PlayError> {
        for (lost, news) in self.lost.iter_mut().zip(&self.round.news) {
            *lost += news.lost;
            self.now_ts = self.now_ts.max(news.ts);
        }
        for observer in &mut *self.observers {
            observer.round(&mut self.targets, &self.round).map_err(PlayError::Observer)?;
        }
        self.round.clear(self.targets.len());
        Ok(())
    }

    fn finish(
        mut self,
        tail: Option<Tail>,
        over: bool,
        damage: Option<(u64, Damage)>,
    ) -> Result<Played, PlayError> {
        // A recording that was cut off may end within a round.
        if self.round.news.iter().any(|news| news.ts != 0) {
            self.end_round()?;
        }
        let whole = tail.is_some();
        let mut ends = tail.map(|tail| tail.ends).unwrap_or_default();
        let known = ends.len().min(self.targets.len());
        ends.truncate(known);
        for (target, lost) in self.targets.iter().zip(&self.lost).skip(known) {
            let (pid, lost) = (target.about().pid, *lost);
            let how = if over { "shown up to the time asked for" } else { "the recording was not ended" };
            let closing = format!("PID {pid}: {how}; {lost} events lost until then");
            let why = target.ended().map(str::to_owned);
            ends.push(End { until_ts: self.now_ts.min(self.until_ts), lost, why, closing });
        }
        for observer in &mut *self.observers {
            observer.end(&mut self.targets, &ends).map_err(PlayError::Observer)?;
        }
        Ok(Played { ends, damage, whole })
    }
}
