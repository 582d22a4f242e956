//! The binary.

use std::process::ExitCode;

/// Nodes are small: memory that an import took must go back to the system.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    shoal::cli::run()
}
