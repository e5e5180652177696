//! The compiled eBPF object, and loading one copy of it for one target.

use super::{error::ProbeError, ring::Ring};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{ArrayOfMaps, Map, MapData, MapError, RingBuf},
    programs::{BtfTracePoint, UProbe},
};
use tracer_common::Config;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tracer-ebpf"));

/// `BPF_MAP_TYPE_RINGBUF` (`include/uapi/linux/bpf.h`).
const RINGBUF: u32 = 27;

/// Creates the maps with `config` in the object's read-only data. No program is loaded yet.
pub(super) fn load(config: &Config) -> Result<Ebpf, ProbeError> {
    EbpfLoader::new()
        .override_global("CONFIG", config, true)
        .load(OBJECT)
        .map_err(|source| ProbeError::Load(source.into()))
}

/// Creates `count` event rings of `bytes` each and hands them to the programs.
pub(super) fn create_rings(ebpf: &mut Ebpf, count: u32, bytes: u32) -> Result<Vec<Ring>, ProbeError> {
    let fail = |source: MapError| ProbeError::Ring { bytes, source };
    let map = ebpf.map_mut("RINGS").ok_or(ProbeError::Object("map RINGS"))?;
    let mut rings: ArrayOfMaps<&mut MapData, MapData> = ArrayOfMaps::try_from(map).map_err(fail)?;
    (0..count)
        .map(|index| {
            let object = aya_obj::Map::new_from_params(RINGBUF, 0, 0, bytes, 0);
            let ring = MapData::create(object, "events", None)?;
            rings.set(index, &ring, 0)?;
            let ring = RingBuf::try_from(Map::RingBuf(ring))?;
            Ring::new(ring).map_err(|source| MapError::IoError(source.into()))
        })
        .collect::<Result<_, _>>()
        .map_err(fail)
}

/// A uprobe program, loaded.
pub(super) fn uprobe<'e>(ebpf: &'e mut Ebpf, name: &'static str) -> Result<&'e mut UProbe, ProbeError> {
    let program: &mut UProbe = ebpf
        .program_mut(name)
        .ok_or(ProbeError::Object(name))?
        .try_into()
        .map_err(|source| ProbeError::Program { name, source })?;
    if program.fd().is_err() {
        program.load().map_err(|source| ProbeError::Program { name, source })?;
    }
    Ok(program)
}

/// Loads and attaches a BTF tracepoint program; program and tracepoint have the same name.
pub(super) fn attach_tracepoint(ebpf: &mut Ebpf, name: &'static str, btf: &Btf) -> Result<(), ProbeError> {
    let fail = |source| ProbeError::Program { name, source };
    let program: &mut BtfTracePoint =
        ebpf.program_mut(name).ok_or(ProbeError::Object(name))?.try_into().map_err(fail)?;
    program.load(name, btf).map_err(fail)?;
    program.attach().map_err(fail)?;
    Ok(())
}
