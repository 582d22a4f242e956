//! When namespaces that this node follows are looked at again: soon after news, and the longer there is none the later.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::ids::NamespaceName;

/// The wait after news, and what it doubles up to while there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollWaits {
    pub first: Duration,
    pub max: Duration,
}

#[derive(Debug)]
struct Poll {
    /// The bucket's generation that was found.
    generation: Option<u64>,
    wait: Duration,
    due: Instant,
}

/// What is known of each namespace that is followed.
#[derive(Debug)]
pub struct Polls {
    waits: PollWaits,
    known: BTreeMap<NamespaceName, Poll>,
}

impl Polls {
    pub fn new(waits: PollWaits) -> Self {
        Polls { waits, known: BTreeMap::new() }
    }

    /// Follows the look at a namespace, which found this generation of the bucket's, or failed. `draw` gives a time evenly drawn
    /// from nothing to its bound: nodes that follow one namespace drift apart.
    pub fn looked(
        &mut self,
        name: &NamespaceName,
        found: Option<u64>,
        now: Instant,
        draw: impl FnOnce(Duration) -> Duration,
    ) {
        let before = self.known.get(name);
        let is_news = match (before, found) {
            (Some(before), Some(generation)) => before.generation != Some(generation),
            (None, _) => true,
            (Some(_), None) => false,
        };
        let wait = match before {
            Some(before) if !is_news => before.wait.saturating_mul(2).min(self.waits.max),
            _ => self.waits.first,
        };
        let generation = found.or(before.and_then(|before| before.generation));
        let due = now + wait.mul_f64(0.75) + draw(wait / 2);
        self.known.insert(name.clone(), Poll { generation, wait, due });
    }

    /// Forgets the namespaces that are not there any more.
    pub fn retain(&mut self, is_there: impl Fn(&NamespaceName) -> bool) {
        self.known.retain(|name, _| is_there(name));
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Instant> {
        self.known.values().map(|poll| poll.due).min()
    }

    pub fn due(&self, now: Instant) -> BTreeSet<NamespaceName> {
        self.known.iter().filter(|(_, poll)| poll.due <= now).map(|(name, _)| name.clone()).collect()
    }

    /// Those that are not due yet.
    pub fn resting(&self, now: Instant) -> BTreeSet<NamespaceName> {
        self.known.iter().filter(|(_, poll)| poll.due > now).map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{PollWaits, Polls};
    use crate::model::ids::Project;

    #[test]
    fn the_wait_doubles_without_news_up_to_its_bound_and_begins_anew_with_news() {
        let (first, max) = (Duration::from_secs(8), Duration::from_secs(60));
        let mut polls = Polls::new(PollWaits { first, max });
        let name = Project::default_project().namespace("docs").unwrap();
        let mut now = Instant::now();
        assert!(polls.next().is_none() && polls.resting(now).is_empty());
        // The fourth look fails, the sixth finds a new generation.
        for (found, seconds) in
            [(Some(3), 8), (Some(3), 16), (Some(3), 32), (None, 60), (Some(3), 60), (Some(4), 8), (Some(4), 16)]
        {
            polls.looked(&name, found, now, |most| most / 2);
            let wait = polls.next().unwrap() - now;
            assert_eq!(wait.as_secs(), seconds, "{found:?}");
            assert!(polls.due(now).is_empty() && polls.resting(now).contains(&name));
            now += wait;
            assert!(polls.due(now).contains(&name) && polls.resting(now).is_empty());
        }
        polls.retain(|_| false);
        assert!(polls.next().is_none());
    }
}
