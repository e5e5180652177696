//! Ring-buffer bytes → [`Event`]. A pure function; it never panics, whatever the bytes are.

use super::{Event, Payload};
use bytes::Buf;
use tracer_common::{Birth, By, Header, Kind, MAX_FRAMES, NewProc, Stack, Switch};

/// Why a record could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than its kind needs.
    #[error("record of {have} bytes is shorter than the {need} its kind needs")]
    Truncated {
        /// Bytes there were.
        have: usize,
        /// Bytes there should have been.
        need: usize,
    },
    /// A kind no probe of this version sends.
    #[error("unknown record kind {0}")]
    UnknownKind(u8),
}

/// Decodes one record. Bytes behind it are ignored (the ring pads records to eight).
pub fn decode(mut raw: &[u8]) -> Result<Event, DecodeError> {
    let have = raw.len();
    let need = |payload: usize| DecodeError::Truncated { have, need: size_of::<Header>() + payload };
    if have < size_of::<Header>() {
        return Err(need(0));
    }
    let (ts, g, goid, tid) = (raw.get_u64_ne(), raw.get_u64_ne(), raw.get_u64_ne(), raw.get_u32_ne());
    let (kind, from, to, reason) = (raw.get_u8(), raw.get_u8(), raw.get_u8(), raw.get_u8());
    let kind = Kind::from_u8(kind).ok_or(DecodeError::UnknownKind(kind))?;
    let payload_len = payload_len(kind);
    if raw.len() < payload_len {
        return Err(need(payload_len));
    }
    let payload = match kind {
        Kind::StatusWake | Kind::Ready | Kind::Inject => Payload::By(By { by_goid: raw.get_u64_ne() }),
        Kind::StatusPark | Kind::Park | Kind::SyscallEnter | Kind::SyscallBlock => {
            let mut stack = Stack { len: raw.get_u64_ne().min(MAX_FRAMES as u64), ..Stack::default() };
            for pc in &mut stack.pcs {
                *pc = raw.get_u64_ne();
            }
            Payload::Stack(stack)
        }
        Kind::StatusCreate | Kind::FirstRun | Kind::Destroy => Payload::Birth(Birth {
            parent_goid: raw.get_u64_ne(),
            gopc: raw.get_u64_ne(),
            startpc: raw.get_u64_ne(),
            funcval: raw.get_u64_ne(),
        }),
        Kind::NewProc => Payload::NewProc(NewProc {
            callerpc: raw.get_u64_ne(),
            funcval: raw.get_u64_ne(),
            startpc: raw.get_u64_ne(),
        }),
        Kind::CoroSwitch => Payload::Switch(Switch {
            next_g: raw.get_u64_ne(),
            next_goid: raw.get_u64_ne(),
            exit: raw.get_u64_ne(),
        }),
        _ => Payload::None,
    };
    Ok(Event { ts, g, goid, tid, kind, from, to, reason, payload })
}

/// Bytes that follow the header of a record of this kind.
fn payload_len(kind: Kind) -> usize {
    match kind {
        Kind::StatusWake | Kind::Ready | Kind::Inject => size_of::<By>(),
        Kind::StatusPark | Kind::Park | Kind::SyscallEnter | Kind::SyscallBlock => size_of::<Stack>(),
        Kind::StatusCreate | Kind::FirstRun | Kind::Destroy => size_of::<Birth>(),
        Kind::NewProc => size_of::<NewProc>(),
        Kind::CoroSwitch => size_of::<Switch>(),
        _ => 0,
    }
}
