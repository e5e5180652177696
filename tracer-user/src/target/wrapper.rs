//! The function that a `go` statement names, behind the wrapper that the compiler makes to hold its
//! arguments: `outer.gowrapN` (Go 1.22+, `src/cmd/compile/internal/walk/order.go: wrapGoDefer`).

use super::binary::GoBinary;
use super::pclntab::Function;
use iced_x86::{Decoder, DecoderOptions, Mnemonic};

/// The largest wrapper that is looked into; it holds a call and its arguments, or what was inlined.
const MAX_CODE: u64 = 1 << 16;

/// The function that the wrapper at `entry` calls, or that was inlined into it. `None`: there is no
/// wrapper, or it calls through a pointer.
pub(super) fn wrapped(binary: &GoBinary, entry: u64) -> Option<Function<'_>> {
    let wrapper = binary.functions().function_at(entry)?;
    if !wrapper.name.rsplit('.').next()?.starts_with("gowrap") {
        return None;
    }
    let code = binary.image().read(wrapper.entry, (wrapper.end - wrapper.entry).min(MAX_CODE))?;
    for instruction in Decoder::with_ip(64, code, wrapper.entry, DecoderOptions::NONE) {
        let frames = binary.symbolize(instruction.ip());
        if let [.., inlined, _] = frames.as_slice() {
            return binary.functions().find(inlined.func);
        }
        if instruction.mnemonic() == Mnemonic::Call && instruction.near_branch_target() != 0 {
            let callee = binary.functions().function_at(instruction.near_branch_target())?;
            if !callee.name.starts_with("runtime.") {
                return Some(callee);
            }
        }
    }
    None
}
