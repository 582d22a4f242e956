//! What one piece of work may use: time, until nobody waits for it any longer, and memory.
//!
//! Work that may take long asks in its loops; what it then gets is an error to return. Where it waits, deep below, for what others bring,
//! that is asked by the thread that waits: it knows whose work it does.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::{Error, Result};

/// How often loops over cheap rows ask.
pub const ROWS_PER_CHECK: u32 = 4_096;
/// How often loops over documents ask.
pub const DOCUMENTS_PER_CHECK: u32 = 8;
/// How often loops over the bytes of texts and other values ask, in bytes: with one of them a large pattern may be busy for a millisecond.
const TEXT_BYTES_PER_CHECK: u64 = 256;

/// Why work must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Nobody waits for the result.
    Abandoned,
    TimeIsUp,
    /// The same for a write, which may look for so many milliseconds.
    WriteTimeIsUp(u64),
}

/// The code of the error that ends work nobody waits for.
pub const ABANDONED: &str = "abandoned";

/// How often who waits asks.
pub const LOOK_EVERY: Duration = Duration::from_millis(50);

type Ends = Option<Arc<dyn Fn() -> Option<End> + Send + Sync>>;

thread_local! {
    /// When the work of this thread ends.
    static ENDS: RefCell<Ends> = const { RefCell::new(None) };
}

/// An error once the work that this thread does must end.
pub fn check_work() -> Result<()> {
    checked(&Limit::of_this_thread().0)
}

/// When some work ends, for those threads that do a part of it.
#[derive(Clone)]
pub struct Limit(Ends);

impl Limit {
    pub fn of_this_thread() -> Self {
        Limit(ENDS.with_borrow(Ends::clone))
    }

    /// Does a part of the work on this thread: what it waits for below is waited for no longer than the work may take.
    pub fn doing<T>(&self, part: impl FnOnce() -> T) -> T {
        let _before = Before(ENDS.replace(self.0.clone()));
        part()
    }
}

/// Puts back when the work of this thread ended before.
struct Before(Ends);

impl Drop for Before {
    fn drop(&mut self) {
        ENDS.set(self.0.take());
    }
}

/// One piece of work's time and memory. Shared by its threads.
pub struct Allowance {
    end: Ends,
    bytes_max: u64,
    bytes: AtomicU64,
    /// Of texts and other values, looked at so far.
    text_bytes: AtomicU64,
}

impl Allowance {
    /// As much as there is.
    pub fn unlimited() -> Self {
        Allowance { end: None, bytes_max: u64::MAX, bytes: AtomicU64::new(0), text_bytes: AtomicU64::new(0) }
    }

    /// So much memory, and until `end` says why it is over.
    pub fn new(bytes_max: u64, end: impl Fn() -> Option<End> + Send + Sync + 'static) -> Self {
        Allowance { end: Some(Arc::new(end)), bytes_max, bytes: AtomicU64::new(0), text_bytes: AtomicU64::new(0) }
    }

    /// The same end, and so much memory of its own.
    pub fn with_bytes(&self, bytes_max: u64) -> Self {
        Allowance { end: self.end.clone(), bytes_max, bytes: AtomicU64::new(0), text_bytes: AtomicU64::new(0) }
    }

    /// When the work that this is for ends.
    pub fn limit(&self) -> Limit {
        Limit(self.end.clone())
    }

    /// An error once the work must end.
    pub fn check(&self) -> Result<()> {
        checked(&self.end)
    }

    /// [`Self::check`] so often that little is looked at in between, in one text or in many. `bytes` are to come: few, or what is
    /// gone through at once, so that no two such follow each other without it.
    #[inline]
    pub fn look_at(&self, bytes: usize) -> Result<()> {
        // Empty texts count, too.
        let bytes = bytes as u64 + 1;
        let before = self.text_bytes.fetch_add(bytes, Ordering::Relaxed);
        let after = before.wrapping_add(bytes);
        if before / TEXT_BYTES_PER_CHECK == after / TEXT_BYTES_PER_CHECK { Ok(()) } else { self.check() }
    }

    /// [`Self::check`] each time a count comes to a multiple of `every`.
    #[inline]
    pub fn check_at(&self, count: u32, every: u32) -> Result<()> {
        if count.is_multiple_of(every) { self.check() } else { Ok(()) }
    }

    /// Takes memory until the result is dropped; an error when there is not so much left.
    pub fn take(&self, bytes: usize) -> Result<Taken<'_>> {
        let mut taken = Taken { allowance: self, bytes: 0 };
        taken.grow(bytes)?;
        Ok(taken)
    }

    /// Takes memory until the work is done.
    pub fn keep(&self, bytes: usize) -> Result<()> {
        self.take(bytes).map(std::mem::forget)
    }
}

/// What work gets that ends so.
fn checked(ends: &Ends) -> Result<()> {
    match ends.as_ref().and_then(|end| end()) {
        None => Ok(()),
        Some(End::Abandoned) => {
            Err(Error::unavailable("given up: nobody waits for the answer").with_code(ABANDONED))
        }
        Some(End::TimeIsUp) => Err(Error::invalid("the query was not done in the time it has")
            .with_code("query_timeout")
            .with_hint("narrow it by filters, ask for less at once, or raise server.query_timeout_ms")),
        Some(End::WriteTimeIsUp(ms)) => Err(Error::invalid(format!(
            "the filters and conditions of the write were not done in the {ms} ms they have; nothing is written"
        ))
        .with_code("query_timeout")
        .with_hint(
            "narrow them by ids or filterable attributes, write their patterns shorter, write to fewer documents at once, \
             or raise server.query_timeout_ms",
        )),
    }
}

/// Memory of an allowance, given back when this is dropped.
pub struct Taken<'a> {
    allowance: &'a Allowance,
    bytes: u64,
}

impl Taken<'_> {
    /// Takes more.
    pub fn grow(&mut self, bytes: usize) -> Result<()> {
        let (bytes, max) = (bytes as u64, self.allowance.bytes_max);
        self.bytes += bytes;
        if self.allowance.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= max {
            return Ok(());
        }
        Err(Error::invalid(format!("the query needs more than the {max} bytes of memory it has"))
            .with_code("query_too_large")
            .with_hint(
                "use fewer clauses, make the attributes it orders or scores by filterable, or raise server.query_bytes_max",
            ))
    }

    /// Gives back some of what was taken.
    pub fn give_back(&mut self, bytes: usize) {
        let bytes = (bytes as u64).min(self.bytes);
        self.bytes -= bytes;
        self.allowance.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.allowance.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{Allowance, End};

    #[test]
    fn memory_is_taken_and_given_back() {
        let allowance = Allowance::new(10, || None);
        allowance.keep(2).unwrap();
        let mut taken = allowance.take(5).unwrap();
        taken.grow(3).unwrap();
        assert_eq!(allowance.take(1).map(drop).unwrap_err().code(), "query_too_large");
        drop(taken);
        assert!(allowance.take(8).is_ok() && allowance.keep(9).is_err() && allowance.keep(8).is_ok());
        assert!(Allowance::unlimited().keep(usize::MAX).is_ok());
    }

    #[test]
    fn counts_ask_at_multiples_only() {
        let over = Allowance::new(0, || Some(End::TimeIsUp));
        assert_eq!(over.check_at(8, 8).unwrap_err().code(), "query_timeout");
        assert!(over.check_at(9, 8).is_ok());
    }
}
