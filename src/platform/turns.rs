//! Turns: so many at a time in all, shared fairly by keys, as projects are.
//!
//! Invariants:
//! - Where there are several keys, who has some turns is given another only while more than that are free. So one key has half of them
//!   at most, each further one that is greedy has half of the rest, and what is left is there at once for a key that has none.
//! - As long as fewer keys take part than there are turns, one comes to be free for a key that has none, and stays so. Beyond that each
//!   key has one, and a key that comes waits for the next turn to be over, behind others that have none and came before only.
//! - A turn that is free goes to the key that has the fewest, among these to the one that is longest without a change; within a key
//!   to who came first.
//! - Who goes away leaves the line, or gives its turn back, wherever it was.
//!
//! The first is the rule of dynamic thresholds, by which queues share the memory of a switch: A. K. Choudhury and E. L. Hahne,
//! "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches", IEEE/ACM Transactions on Networking 6(2), 1998.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// So many wait at most, of all keys. One more sends the last one away of the key of which most wait.
const WAITING_MAX: usize = 1_024;

/// Turns of what is done for keys.
pub struct Turns<K: Ord> {
    /// What is done, for errors.
    what: &'static str,
    state: Arc<Mutex<State<K>>>,
}

/// A turn, or a place in the line for one; over when dropped.
pub struct Turn<K: Ord> {
    state: Arc<Mutex<State<K>>>,
    key: K,
    ticket: u64,
}

struct State<K> {
    free: usize,
    waiting: usize,
    is_shared: bool,
    /// Counts what happens, which puts it in order.
    now: u64,
    /// Of keys that have turns or wait for some.
    lines: BTreeMap<K, Line>,
}

#[derive(Default)]
struct Line {
    /// Tickets that have a turn.
    has: Vec<u64>,
    waiting: VecDeque<(u64, oneshot::Sender<()>)>,
    /// When it last was given a turn or had one over, or when the first that waits came.
    since: u64,
}

impl<K: Ord + Clone> Turns<K> {
    /// So many turns, at least one. `what` is in the plural.
    pub fn new(what: &'static str, turns: usize) -> Self {
        let state = State { free: turns.max(1), waiting: 0, is_shared: false, now: 0, lines: BTreeMap::new() };
        Turns { what, state: Arc::new(Mutex::new(state)) }
    }

    /// Waits for a turn of this key. `are_others`: there are further keys, whether they wait now or not. `Busy` when too many wait.
    pub async fn take(&self, key: &K, are_others: bool) -> Result<Turn<K>> {
        // Dropped in the midst it leaves the line.
        let (turn, given) = self.join(key, are_others);
        if given.await.is_err() {
            return Err(Error::busy(format!("{WAITING_MAX} {} wait for their turn, as many as may", self.what))
                .with_hint("send the same again a little later, fewer at once"));
        }
        Ok(turn)
    }

    fn join(&self, key: &K, are_others: bool) -> (Turn<K>, oneshot::Receiver<()>) {
        let (sender, given) = oneshot::channel();
        let mut state = lock(&self.state);
        state.now += 1;
        state.waiting += 1;
        state.is_shared |= are_others;
        let now = state.now;
        let line = state.lines.entry(key.clone()).or_default();
        if line.waiting.is_empty() {
            line.since = now;
        }
        line.waiting.push_back((now, sender));
        state.give();
        state.keep_bound();
        drop(state);
        (Turn { state: self.state.clone(), key: key.clone(), ticket: now }, given)
    }
}

impl<K: Ord> State<K> {
    /// Gives away what is free, as far as it may be.
    fn give(&mut self) {
        while self.free > 0 {
            let waiting = self.lines.values_mut().filter(|line| !line.waiting.is_empty());
            let Some(line) = waiting.min_by_key(|line| (line.has.len(), line.since)) else { return };
            if self.is_shared && line.has.len() >= self.free {
                return;
            }
            let Some((ticket, sender)) = line.waiting.pop_front() else { return };
            self.free -= 1;
            self.waiting -= 1;
            self.now += 1;
            line.since = self.now;
            line.has.push(ticket);
            // Who is on its way out gives it back.
            let _ = sender.send(());
        }
    }

    fn keep_bound(&mut self) {
        while self.waiting > WAITING_MAX {
            // Who waits there learns of it when the sender is dropped.
            let longest = self.lines.values_mut().max_by_key(|line| line.waiting.len());
            if longest.and_then(|line| line.waiting.pop_back()).is_none() {
                return;
            }
            self.waiting -= 1;
        }
    }
}

impl<K: Ord> Drop for Turn<K> {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        let state = &mut *state;
        let Some(line) = state.lines.get_mut(&self.key) else { return };
        if let Some(at) = line.has.iter().position(|ticket| *ticket == self.ticket) {
            line.has.swap_remove(at);
            state.now += 1;
            line.since = state.now;
            state.free += 1;
        } else if let Some(at) = line.waiting.iter().position(|(ticket, _)| *ticket == self.ticket) {
            line.waiting.remove(at);
            state.waiting -= 1;
        }
        if line.has.is_empty() && line.waiting.is_empty() {
            state.lines.remove(&self.key);
        }
        state.give();
    }
}

fn lock<K>(state: &Mutex<State<K>>) -> MutexGuard<'_, State<K>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::{Turn, Turns, WAITING_MAX};
    use crate::error::{Kind, Result};

    type Waiting<'a> = Pin<Box<dyn Future<Output = Result<Turn<char>>> + 'a>>;

    fn poll(waiting: &mut Waiting<'_>) -> Poll<Result<Turn<char>>> {
        waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    struct Desk<'a> {
        turns: &'a Turns<char>,
        are_others: bool,
        waiting: Vec<(char, Waiting<'a>)>,
        has: Vec<(char, Turn<char>)>,
    }

    impl<'a> Desk<'a> {
        fn of(turns: &'a Turns<char>, are_others: bool) -> Self {
            Desk { turns, are_others, waiting: Vec::new(), has: Vec::new() }
        }

        /// Each of these keys asks for a turn; who has one then.
        fn ask(&mut self, keys: &str) -> String {
            for key in keys.chars() {
                let (turns, are_others) = (self.turns, self.are_others);
                self.waiting.push((key, Box::pin(async move { turns.take(&key, are_others).await })));
                self.look();
            }
            self.who()
        }

        /// One turn of this key is over.
        fn end(&mut self, key: char) -> String {
            let at = self.has.iter().position(|(of, _)| *of == key).unwrap();
            drop(self.has.remove(at));
            self.look();
            self.who()
        }

        fn look(&mut self) {
            let mut still = Vec::new();
            for (key, mut waiting) in self.waiting.drain(..) {
                match poll(&mut waiting) {
                    Poll::Ready(turn) => self.has.push((key, turn.unwrap())),
                    Poll::Pending => still.push((key, waiting)),
                }
            }
            self.waiting = still;
        }

        fn who(&self) -> String {
            let mut keys: Vec<char> = self.has.iter().map(|(key, _)| *key).collect();
            keys.sort_unstable();
            keys.into_iter().collect()
        }
    }

    #[test]
    fn a_key_that_is_alone_has_all_turns() {
        let turns = Turns::new("writes", 4);
        let mut desk = Desk::of(&turns, false);
        assert_eq!(desk.ask("aaaaaa"), "aaaa");
        assert_eq!(desk.end('a'), "aaaa");
    }

    #[test]
    fn greedy_keys_leave_turns_for_others() {
        let turns = Turns::new("writes", 4);
        let mut desk = Desk::of(&turns, true);
        assert_eq!(desk.ask("aaaaaaaa"), "aa");
        assert_eq!(desk.ask("bbbbbbbb"), "aab");
        assert_eq!(desk.ask("c"), "aabc");
        // Only now somebody waits, and goes before who has one.
        assert_eq!(desk.ask("d"), "aabc");
        assert_eq!(desk.end('a'), "abcd");
        assert_eq!(desk.ask("ef"), "abcd");
        // Who has just had one comes after those that wait since before.
        assert_eq!(desk.end('a'), "bcde");
        assert_eq!(desk.end('b'), "cdef");
        assert_eq!(desk.end('c'), "adef");
        assert_eq!(desk.end('d'), "abef");
        // One stays free as long as there are fewer keys than turns.
        assert_eq!(desk.end('e'), "abf");
        assert_eq!(desk.end('f'), "aab");
        assert_eq!(desk.end('b'), "aab");
        assert_eq!(desk.ask("g"), "aabg");
    }

    #[test]
    fn who_goes_away_leaves_nothing_behind() {
        let turns = Turns::new("writes", 2);
        let mut desk = Desk::of(&turns, true);
        assert_eq!(desk.ask("abaac"), "ab");
        // In the line, and with a turn that it was given and has not seen.
        drop(desk.waiting.remove(0));
        desk.has.clear();
        desk.waiting.clear();
        assert_eq!(desk.ask("xyz"), "xy");
        drop(desk);
        let state = super::lock(&turns.state);
        assert_eq!((state.free, state.waiting, state.lines.len()), (2, 0, 0));
    }

    #[test]
    fn when_too_many_wait_the_key_with_most_of_them_loses_its_last() {
        let turns = Turns::new("writes", 1);
        let mut desk = Desk::of(&turns, true);
        assert_eq!(desk.ask("a"), "a");
        for _ in 0..WAITING_MAX {
            let turns = &turns;
            let mut waiting: Waiting<'_> = Box::pin(async move { turns.take(&'a', true).await });
            assert!(poll(&mut waiting).is_pending());
            desk.waiting.push(('a', waiting));
        }
        let mut other: Waiting<'_> = Box::pin(async { turns.take(&'b', true).await });
        assert!(poll(&mut other).is_pending());
        let (_, mut last) = desk.waiting.pop().unwrap();
        let Poll::Ready(Err(refused)) = poll(&mut last) else { panic!("it waits") };
        assert_eq!(refused.kind(), Kind::Busy);
        drop(last);
        desk.has.clear();
        assert!(matches!(poll(&mut other), Poll::Ready(Ok(_))));
    }
}
