//! Counts what goes to the bucket and comes from it: requests by kind and outcome, bytes, and the bucket's clock.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::platform::wall::StoreClock;

/// What a request asks of the bucket; closed, so that metrics can be labelled by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    Get,
    Head,
    Put,
    Create,
    Part,
    List,
    Delete,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// Done, or answered with what was asked for: that an object is not there is an answer.
    Done,
    /// The bucket was not reached, or did not answer in time.
    Lost,
    /// The bucket had no room for the request, or failed (429, 5xx).
    Overloaded,
    /// The bucket refused it for good.
    Refused,
}

pub const REQUESTS: [Request; 7] =
    [Request::Get, Request::Head, Request::Put, Request::Create, Request::Part, Request::List, Request::Delete];
pub const ENDINGS: [Ending; 4] = [Ending::Done, Ending::Lost, Ending::Overloaded, Ending::Refused];

impl Request {
    /// The label of a metric.
    pub fn name(self) -> &'static str {
        match self {
            Request::Get => "get",
            Request::Head => "head",
            Request::Put => "put",
            Request::Create => "create",
            Request::Part => "part",
            Request::List => "list",
            Request::Delete => "delete",
        }
    }
}

impl Ending {
    /// The label of a metric.
    pub fn name(self) -> &'static str {
        match self {
            Ending::Done => "done",
            Ending::Lost => "lost",
            Ending::Overloaded => "overloaded",
            Ending::Refused => "refused",
        }
    }
}

/// What `skew` holds before the first answer.
const NO_SKEW: i64 = i64::MIN;

/// The counters of one bucket.
pub struct Traffic {
    requests: [[AtomicU64; ENDINGS.len()]; REQUESTS.len()],
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
    skew_seconds: AtomicI64,
    /// How often an answer told the time.
    told: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrafficSnapshot {
    /// How many attempts of each kind ended in each way, in the order of [`REQUESTS`] and [`ENDINGS`].
    pub requests: Vec<(Request, Ending, u64)>,
    /// Bytes of bodies, those of failed attempts included.
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub skew_seconds: Option<i64>,
}

impl Default for Traffic {
    fn default() -> Self {
        Traffic {
            requests: Default::default(),
            bytes_up: AtomicU64::new(0),
            bytes_down: AtomicU64::new(0),
            skew_seconds: AtomicI64::new(NO_SKEW),
            told: AtomicU64::new(0),
        }
    }
}

impl Traffic {
    pub(super) fn count(&self, request: Request, ending: Ending) {
        self.requests[request as usize][ending as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn sent(&self, bytes: u64) {
        self.bytes_up.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: u64) {
        self.bytes_down.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn set_skew_seconds(&self, seconds: i64) {
        self.skew_seconds.store(seconds, Ordering::Relaxed);
        self.told.fetch_add(1, Ordering::Release);
    }

    /// What the bucket says of this machine's clock; nothing before the first answer that told the time.
    pub fn clock(&self) -> Option<StoreClock> {
        let said = self.told.load(Ordering::Acquire);
        self.skew_seconds().map(|ahead_seconds| StoreClock { ahead_seconds, said })
    }

    /// By how many seconds this machine's clock is ahead of the bucket's, as of the last answer that told the time.
    pub fn skew_seconds(&self) -> Option<i64> {
        Some(self.skew_seconds.load(Ordering::Relaxed)).filter(|seconds| *seconds != NO_SKEW)
    }

    pub fn snapshot(&self) -> TrafficSnapshot {
        let mut requests = Vec::with_capacity(REQUESTS.len() * ENDINGS.len());
        for request in REQUESTS {
            for ending in ENDINGS {
                let count = self.requests[request as usize][ending as usize].load(Ordering::Relaxed);
                requests.push((request, ending, count));
            }
        }
        TrafficSnapshot {
            requests,
            bytes_up: self.bytes_up.load(Ordering::Relaxed),
            bytes_down: self.bytes_down.load(Ordering::Relaxed),
            skew_seconds: self.skew_seconds(),
        }
    }
}

impl TrafficSnapshot {
    /// How many attempts of this kind ended in this way.
    pub fn count(&self, request: Request, ending: Ending) -> u64 {
        self.requests.iter().filter(|row| (row.0, row.1) == (request, ending)).map(|row| row.2).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::{ENDINGS, Ending, REQUESTS, Request, Traffic};

    #[test]
    fn every_request_and_ending_has_a_counter_of_its_own() {
        let traffic = Traffic::default();
        for (i, request) in REQUESTS.into_iter().enumerate() {
            for (j, ending) in ENDINGS.into_iter().enumerate() {
                assert_eq!((request as usize, ending as usize), (i, j));
                for _ in 0..i * ENDINGS.len() + j {
                    traffic.count(request, ending);
                }
            }
        }
        let counts: Vec<u64> = traffic.snapshot().requests.iter().map(|row| row.2).collect();
        assert_eq!(counts, (0..28).collect::<Vec<_>>());
        assert_eq!(traffic.snapshot().count(Request::Delete, Ending::Refused), 27);
    }

    #[test]
    fn the_skew_is_not_known_before_the_first_answer() {
        let traffic = Traffic::default();
        assert_eq!(traffic.skew_seconds(), None);
        traffic.set_skew_seconds(-3);
        assert_eq!(traffic.skew_seconds(), Some(-3));
    }
}
