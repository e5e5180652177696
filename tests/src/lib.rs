//! What the live tests share: Go toolchains and fixtures, guarded processes, the sfgi binary under
//! test, and the oracle that holds sfgi's account of a program against Go's own.
//!
//! The tests need root, a kernel with BTF, a built sfgi and Go toolchains. Where something is
//! missing they are skipped with the reason; with `CI` set they fail instead. They share the
//! machine's CPUs and its list of BPF programs: run them with `--test-threads=1`.

pub mod agent;
pub mod agent_http;
pub mod confined;
pub mod crowd;
pub mod deploy;
pub mod dump;
pub mod filter;
pub mod fixture;
pub mod gotrace;
pub mod leaks;
pub mod machine;
pub mod oracle;
pub mod pprof;
pub mod process;
pub mod screen;
pub mod sfgi;
pub mod source;
pub mod state;
pub mod toolchain;
pub mod traceback;
