//! The eBPF programs: each probe is a thin entry point with the Go prototype it stands on and
//! the versions that have it; the work is a `try_` function that ends early where there is
//! nothing to tell. Which of them are attached, and where, is user space's choice.
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

/// Some of the helpers used are GPL-only for the kernel.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
