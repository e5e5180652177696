//! The eBPF programs. Each is a thin entry point; its doc comment gives the Go prototype of the function
//! that it is attached to and the releases that have it. The work is in a `try_` function, which returns
//! early where no event is due. User space decides which programs to attach, and at which instruction.
#![no_std]
#![no_main]

mod abi;
mod config;
mod emit;
mod goroutine;
mod scheduler;
mod status;
mod syscall;
mod thread;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lends `bpf_probe_read_user`, `bpf_probe_read_kernel` and others to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
