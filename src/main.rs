//! The binary.

use std::process::ExitCode;

/// Nodes are small: memory that an import took must go back to the system.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_arena_eager_commit`, which the crate has no name for.
const ARENA_EAGER_COMMIT: libmimalloc_sys::mi_option_t = 4;

/// Memory is data of the process once something is in it, and not 128 MiB of it from the start and a piece of a GiB later: a limit on
/// data (`RLIMIT_DATA`) is for what is used. `MIMALLOC_ARENA_EAGER_COMMIT` holds where it is set.
extern "C" fn reserve_only() {
    // SAFETY: it sets a number of the allocator's, which is there from the start and which nobody reads before it allocates.
    unsafe { libmimalloc_sys::mi_option_set_default(ARENA_EAGER_COMMIT, 0) }
}

/// Called by the loader: the standard library allocates before `main`.
#[used]
#[cfg_attr(any(target_os = "linux", target_os = "android"), unsafe(link_section = ".init_array"))]
static BEFORE_MAIN: extern "C" fn() = reserve_only;

fn main() -> ExitCode {
    shoal::cli::run()
}
