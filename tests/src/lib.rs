//! What the live tests (`live/`) share: Go toolchains and fixtures, guarded processes, the sfgi binary under test, and the oracle
//! that holds sfgi's account of a program against Go's own.

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
pub mod tree;
pub mod why;
