//! How many files the process may have open.

use std::io;

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the limit on open files as far as the process itself may, and gives what it is then: `None` where there is none.
pub fn raise_limit() -> io::Result<Option<u64>> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit)?;
    }
    Ok(limit.current)
}
