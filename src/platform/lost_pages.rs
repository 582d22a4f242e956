//! What becomes of a mapped page that cannot be read: zeros in its place, and a mark on its map, instead of the end of the process.
//!
//! A page that the disk does not give (EIO), or that lies behind the end of a file that somebody cut, is answered with SIGBUS when it
//! is touched, and what that does by default is to end the process: one bad block of one namespace would take all others with it, at
//! every request that touches it. There is no other way to be told: whether a page can be read is known when it is read.
//!
//! Invariants:
//! - The mark of a map is set before the zeros are there, and stays for as long as the map lives: who reads bytes, then looks at the
//!   mark and finds none, has read what is in the file. So who gives an answer, or writes bytes down, that were made of a map looks
//!   at its mark **afterwards**. Before is not enough: a page may go while it is read, and a checksum may have been found right
//!   before the page went.
//! - All of a marked map is zeros. It is of no use any more; who maps the file anew reads the file.
//! - A registered range is mapped, and belongs to its map alone: it is registered after it was mapped, and struck off before it is
//!   unmapped. Who touches a map holds it. So the entry that has the address of a fault is that of the map which is being read, and
//!   stays as it is while the handler uses it.
//! - The handler takes no lock and allocates nothing: it reads atomics, and calls `mmap`, `sigaction` and `raise`.
//! - A fault anywhere else gets what it would have got without this: a defect ends the process.

use std::io;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The place of one map in the registry. Never freed: the handler may look at it at any time. Those of maps that are gone are used again.
struct Slot {
    /// Odd while the range changes.
    changes: AtomicUsize,
    start: AtomicUsize,
    /// 0: no map.
    bytes: AtomicUsize,
    is_lost: AtomicBool,
    /// The one that was made before.
    next: Option<&'static Slot>,
}

/// The slot that was made last; null before the first.
static NEWEST: AtomicPtr<Slot> = AtomicPtr::new(null_mut());
/// Slots of no map.
static FREE: Mutex<Vec<&'static Slot>> = Mutex::new(Vec::new());
/// What was done on SIGBUS before, or the error of asking for it.
static BEFORE: OnceLock<std::result::Result<libc::sigaction, i32>> = OnceLock::new();

/// A map's entry in the registry. To be dropped before the map.
pub(super) struct Watch(&'static Slot);

impl Watch {
    /// Begins to watch over a map, which ends after the watch.
    pub(super) fn over(map: &memmap2::Mmap) -> io::Result<Watch> {
        BEFORE.get_or_init(install).as_ref().map_err(|errno| io::Error::from_raw_os_error(*errno))?;
        let slot = {
            let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
            free.pop().unwrap_or_else(Slot::make)
        };
        slot.is_lost.store(false, Ordering::SeqCst);
        slot.set(map.as_ptr() as usize, map.len());
        Ok(Watch(slot))
    }

    /// Whether a page could not be read. Nothing that was read from the map before this is to be believed then.
    pub(super) fn is_lost(&self) -> bool {
        // The mark is looked at after the bytes were read.
        fence(Ordering::Acquire);
        self.0.is_lost.load(Ordering::Acquire)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.set(0, 0);
        FREE.lock().unwrap_or_else(PoisonError::into_inner).push(self.0);
    }
}

impl Slot {
    /// A slot more, at the head of the list. Called by who holds the free ones, so one at a time.
    fn make() -> &'static Slot {
        // SAFETY: null, or a slot that was leaked below.
        let next = unsafe { NEWEST.load(Ordering::SeqCst).as_ref() };
        let slot: &'static Slot = Box::leak(Box::new(Slot {
            changes: AtomicUsize::new(0),
            start: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            is_lost: AtomicBool::new(false),
            next,
        }));
        NEWEST.store(std::ptr::from_ref(slot).cast_mut(), Ordering::SeqCst);
        slot
    }

    fn set(&self, start: usize, bytes: usize) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.start.store(start, Ordering::SeqCst);
        self.bytes.store(bytes, Ordering::SeqCst);
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// Start and length of its map, if that has an address. None while the range changes: then it is not being read.
    fn range_with(&self, address: usize) -> Option<(usize, usize)> {
        let changes = self.changes.load(Ordering::SeqCst);
        let (start, bytes) = (self.start.load(Ordering::SeqCst), self.bytes.load(Ordering::SeqCst));
        let is_steady = changes.is_multiple_of(2) && self.changes.load(Ordering::SeqCst) == changes;
        (is_steady && address.checked_sub(start)? < bytes).then_some((start, bytes))
    }
}

/// Has [`on_sigbus`] called, and gives what was called before.
fn install() -> std::result::Result<libc::sigaction, i32> {
    let errno = || io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
    // SAFETY: all-zero bytes are a valid `sigaction`.
    let (mut before, mut action): (libc::sigaction, libc::sigaction) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    action.sa_sigaction = on_sigbus as extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) as usize;
    // On the stack for signals where a thread has one, as the runtime's own handler is.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: both are valid and outlive the calls; the handler is of the type that SA_SIGINFO says.
    let done = unsafe {
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &action, &mut before)
    };
    if done == 0 { Ok(before) } else { Err(errno()) }
}

/// Called by the kernel in the thread that touched a page.
extern "C" fn on_sigbus(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid one with SA_SIGINFO, and for SIGBUS it has an address.
    let (is_fault, address) = unsafe { ((*info).si_code > 0, (*info).si_addr() as usize) };
    if is_fault && give_zeros(address) {
        return;
    }
    let before = BEFORE.get().and_then(|before| before.as_ref().ok()).filter(|_| is_fault);
    // SAFETY: all-zero bytes are a valid `sigaction`, and say SIG_DFL. The calls may be made by a handler.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGBUS, before.unwrap_or(&default), null_mut());
        if !is_fault {
            // Somebody sent it; what faults does so again by itself.
            libc::raise(libc::SIGBUS);
        }
    }
}

/// Puts zeros in the place of the map that has an address, and marks it. Whether one has it, and that went well.
fn give_zeros(address: usize) -> bool {
    let mut slot: *const Slot = NEWEST.load(Ordering::SeqCst);
    // SAFETY: null, or a slot, which lives for ever.
    while let Some(here) = unsafe { slot.as_ref() } {
        if let Some((start, bytes)) = here.range_with(address) {
            here.is_lost.store(true, Ordering::SeqCst);
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
            // SAFETY: the range is mapped and belongs to the map that the interrupted thread reads and holds. Others who read
            // it find zeros, which are as valid as what was there.
            let mapped = unsafe { libc::mmap(start as *mut libc::c_void, bytes, libc::PROT_READ, flags, -1, 0) };
            return mapped != libc::MAP_FAILED;
        }
        slot = here.next.map_or(null(), std::ptr::from_ref);
    }
    false
}
