//! What the probes need of a layout.

use super::{Layout, LayoutError};
use tracer_common::ProbeOffsets;

impl Layout {
    /// What the probes need. The distances between fields that they rely on have been checked.
    ///
    /// # Errors
    /// [`LayoutError::NoField`] and [`LayoutError::Apart`] say which field is at fault.
    pub fn probe_offsets(&self) -> Result<ProbeOffsets, LayoutError> {
        let at = |name: &'static str| {
            self.offsets.get(name).copied().ok_or_else(|| LayoutError::NoField(name, self.source.to_string()))
        };
        let near = |name, distance, base| {
            let apart = LayoutError::Apart(name, distance, base, self.source.to_string());
            (at(name)?.checked_sub(at(base)?) == Some(distance)).then_some(()).ok_or(apart)
        };
        near("g.goid", 8, "g.atomicstatus")?;
        near("g.waitreason", 32, "g.atomicstatus")?;
        near("g.sched.g", 8, "g.sched.pc")?;
        near("g.sched.ctxt", 16, "g.sched.pc")?;
        near("g.startpc", 16, "g.gopc")?;
        // All of `sched.pc` … `startpc` is read at once (`PARKED` in tracer-ebpf).
        if at("g.startpc")?.checked_sub(at("g.sched.pc")?).is_none_or(|distance| distance > 31 * 8) {
            return Err(LayoutError::Apart("g.startpc", 31 * 8, "g.sched.pc", self.source.to_string()));
        }
        near("p.goidcacheend", 8, "p.goidcache")?;
        // Up to 1.24 `sched.ret` lies in between.
        near("g.sched.bp", 32, "g.sched.pc").or_else(|_| near("g.sched.bp", 40, "g.sched.pc"))?;
        if at("g.parentGoid").is_ok() {
            near("g.gopc", 8, "g.parentGoid")?;
        }
        Ok(ProbeOffsets {
            g_status: at("g.atomicstatus")?,
            g_m: at("g.m")?,
            g_sched_pc: at("g.sched.pc")?,
            g_sched_bp: at("g.sched.bp")?,
            g_schedlink: at("g.schedlink")?,
            g_parent_goid: at("g.parentGoid").unwrap_or(0),
            g_gopc: at("g.gopc")?,
            g_coroarg: at("g.coroarg").unwrap_or(0),
            g_coroexit: at("g.coroexit").unwrap_or(0),
            m_curg: at("m.curg")?,
            m_p: at("m.p")?,
            p_goidcache: at("p.goidcache")?,
            coro_gp: at("coro.gp").unwrap_or(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::binary::elf::Arch;
    use crate::binary::layout::{Layout, NEWEST, OLDEST, Source, table};

    #[test]
    fn every_row_has_what_the_probes_need() {
        for minor in OLDEST..=NEWEST {
            for (arch, patch) in [(Arch::Amd64, 0), (Arch::Arm64, 0), (Arch::Amd64, 99), (Arch::Arm64, 99)] {
                let row = table::lookup(arch, minor, patch).remove(0);
                let layout = Layout { source: Source::Table(row.name), offsets: row.offsets };
                let offsets = layout.probe_offsets().unwrap();
                assert_eq!(offsets.g_parent_goid != 0, minor >= 21, "{}", layout.source);
                assert_eq!(offsets.g_coroarg != 0, minor >= 22, "{}", layout.source);
            }
        }
    }
}
