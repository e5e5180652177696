//! Names, as detection asks for them.

use crate::output::dump::Names;
use sfgi_core::{
    detect::Lookup,
    goruntime::{Release, WaitReason},
    snapshot::{Goroutine, Pc},
};
use std::sync::Arc;

impl Lookup for Names {
    fn functions(&mut self, stack: &[Pc]) -> Vec<Arc<str>> {
        self.frames(stack).into_iter().flatten().map(|line| line.site.func).collect()
    }

    fn wait_site(&mut self, stack: &[Pc]) -> Option<(Arc<str>, u32)> {
        Names::wait_site(self, stack).map(|site| (site.func, site.line))
    }

    fn creator(&mut self, goroutine: &Goroutine) -> Option<Arc<str>> {
        Names::creator(self, goroutine).map(|site| site.func)
    }

    fn function(&mut self, addr: u64) -> Option<Arc<str>> {
        self.lines(Pc::exact(addr)).last().map(|line| Arc::clone(&line.site.func))
    }

    fn release(&self) -> Release {
        self.binary().version().release
    }

    fn reason(&self, goroutine: &Goroutine) -> &str {
        Names::reason(self, goroutine)
    }

    fn wait_reason(&self, goroutine: &Goroutine) -> WaitReason {
        let number = if goroutine.state.waits() { goroutine.reason } else { 0 };
        self.binary().wait_reasons().get(number)
    }
}
