//! Which refusals the log has: one a minute of each kind, which says how many others there were. A client that asks again and again for
//! what cannot be given would write its disk full otherwise.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the log has nothing more of a kind.
const PAUSE: Duration = Duration::from_secs(60);

/// Route and code of what was refused; closed sets, so there are not many.
type Kind = (&'static str, &'static str);

#[derive(Debug, Default)]
pub struct Refusals(Mutex<BTreeMap<Kind, Said>>);

#[derive(Debug)]
struct Said {
    at: Instant,
    /// How many there were since.
    more: u64,
}

impl Refusals {
    /// How many of the kind the log does not have, where it is to have this one.
    pub fn to_say(&self, route: &'static str, code: &'static str, now: Instant) -> Option<u64> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match kinds.get_mut(&(route, code)) {
            Some(said) if now.saturating_duration_since(said.at) < PAUSE => {
                said.more += 1;
                None
            }
            Some(said) => {
                said.at = now;
                Some(std::mem::take(&mut said.more))
            }
            None => {
                kinds.insert((route, code), Said { at: now, more: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_said_once_a_minute_with_the_number_of_the_others() {
        let (refusals, began) = (Refusals::default(), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(refusals.to_say("write", "disk_full", at(0)), Some(0));
        assert_eq!(refusals.to_say("query", "disk_full", at(1)), Some(0));
        for second in 1..60 {
            assert_eq!(refusals.to_say("write", "disk_full", at(second)), None);
        }
        assert_eq!(refusals.to_say("write", "disk_full", at(60)), Some(59));
        assert_eq!(refusals.to_say("write", "disk_full", at(61)), None);
        assert_eq!(refusals.to_say("write", "disk_full", at(200)), Some(1));
    }
}
