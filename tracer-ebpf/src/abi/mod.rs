//! Go's internal register ABI (`src/cmd/compile/abi-internal.md`, Go 1.18+), one file an architecture. Aya's
//! `ctx.arg()` follows the C ABI and would read the wrong registers.

#[cfg(bpf_target_arch = "x86_64")]
mod x86_64;
#[cfg(bpf_target_arch = "x86_64")]
pub use x86_64::*;

#[cfg(not(bpf_target_arch = "x86_64"))]
compile_error!("the Go register ABI of this architecture is not written yet: add src/abi/<arch>.rs");
