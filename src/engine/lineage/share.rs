//! Says what states of the past really keep: the bytes that come free when they go, and not what they name.
//!
//! - A past state of a namespace keeps what the state after it does not name, and nobody else holds.
//! - Deleted namespaces of a project go one after another, so what they share with each other only comes free with the one that goes
//!   last, and counts for that one. What anybody else holds, be it a past state or a tag, counts for none of them.
//!
//! Every manifest is read once a resolution. What cannot be read keeps what it names.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::due::{Kept, WHOLE};
use super::holdings::{Holdings, generations, read_stored};
use crate::engine::context::Context;
use crate::engine::namespace::head::{keys, objects};
use crate::error::Result;
use crate::format::manifest::Manifest;
use crate::model::ids::Nsid;

/// After so many states were resolved, one look at what is due goes by in which nothing goes for the budget: what thousands of them
/// keep is not read every time.
const STATES_A_LOOK: usize = 256;
/// The most looks in a row that go by so. At one in 30 seconds what takes too much is there for four minutes at most.
const LOOKS_WITHOUT_MAX: u32 = 8;

/// How many of the next looks go by after so many states were resolved.
pub fn looks_without(resolved: usize) -> u32 {
    u32::try_from(resolved / STATES_A_LOOK).unwrap_or(LOOKS_WITHOUT_MAX).min(LOOKS_WITHOUT_MAX)
}

/// Sets the object bytes of states to what they really keep. They are of one namespace in the order of their generations, or those of
/// a project's deleted ones in the order in which they go.
pub fn resolve(context: &Context, states: &mut [(Nsid, Kept)]) {
    if states.iter().any(|(_, state)| state.generation == WHOLE) {
        resolve_deleted(context, states);
    } else {
        resolve_past(context, states);
    }
}

fn resolve_past(context: &Context, states: &mut [(Nsid, Kept)]) {
    // The chain of whom the last one was of, and the manifest that was read last.
    let mut chain: Option<(Nsid, Vec<u64>)> = None;
    let mut last: Option<Manifest> = None;
    for (nsid, state) in states.iter_mut().filter(|(_, state)| state.object_bytes > 0) {
        if chain.as_ref().is_none_or(|(of, _)| of != nsid) {
            chain = generations(context, *nsid).ok().map(|found| (*nsid, found));
        }
        let Some((_, generations)) = &chain else { continue };
        let Some(next) = generations.iter().copied().filter(|next| *next > state.generation).min() else { continue };
        let before = last.take().filter(|last| last.nsid == *nsid && last.generation == state.generation);
        match kept_until(context, (*nsid, state.generation), before, next) {
            Ok((bytes, next)) => {
                state.object_bytes = bytes;
                last = Some(next);
            }
            Err(error) => tracing::debug!(%nsid, %error, "a past state that cannot be read counts as what it names"),
        }
    }
}

/// How many bytes a state, which may have been read already, keeps that generation `next` does not name. Gives the latter, too.
fn kept_until(
    context: &Context,
    (nsid, generation): (Nsid, u64),
    read: Option<Manifest>,
    next: u64,
) -> Result<(u64, Manifest)> {
    let manifest = read.map_or_else(|| read_stored(context, nsid, generation).map(|(manifest, _)| manifest), Ok)?;
    let (next, _) = read_stored(context, nsid, next)?;
    let kept: BTreeSet<String> = keys(&next).into_iter().collect();
    let mut bytes = 0;
    for object in objects(&manifest).iter().filter(|object| !kept.contains(&object.key)) {
        if context.meta.references(&object.key)? <= 1 {
            bytes += object.bytes;
        }
    }
    Ok((bytes, next))
}

/// An object that deleted namespaces hold.
#[derive(Default)]
struct Shared {
    bytes: u64,
    /// How often they hold it.
    count: u64,
    /// Which of the states is the last that holds it.
    last: Option<usize>,
}

fn resolve_deleted(context: &Context, states: &mut [(Nsid, Kept)]) {
    let places: BTreeMap<(Nsid, u64), usize> =
        states.iter().enumerate().map(|(place, (nsid, state))| ((*nsid, state.generation), place)).collect();
    let (mut shared, mut read) = (HashMap::<String, Shared>::new(), BTreeSet::new());
    for nsid in states.iter().map(|(nsid, _)| *nsid).collect::<BTreeSet<Nsid>>() {
        let held = match Holdings::read(context, nsid) {
            Ok(Some(held)) if held.missed.is_none() => held,
            _ => continue,
        };
        read.insert(nsid);
        for object in objects(&held.head.manifest).into_iter().chain(held.beside_head.into_values()) {
            shared.entry(object.key).or_default().bytes = object.bytes;
        }
        let whole = places.get(&(nsid, WHOLE)).copied();
        for (key, count) in held.keys {
            // With everything of it goes what is still there of its past. Where there is no place it goes for its age.
            let place = match held.until.get(&key) {
                Some(until) => {
                    places.get(&(nsid, *until)).map(|place| whole.map_or(*place, |whole| whole.min(*place)))
                }
                None => whole,
            };
            let object = shared.entry(key).or_default();
            object.count += count;
            object.last = object.last.max(place);
        }
    }
    states.iter_mut().filter(|(nsid, _)| read.contains(nsid)).for_each(|(_, state)| state.object_bytes = 0);
    for (key, object) in shared {
        let is_held_by_others = context.meta.references(&key).is_ok_and(|references| references > object.count);
        if !is_held_by_others && let Some((_, state)) = object.last.and_then(|place| states.get_mut(place)) {
            state.object_bytes = state.object_bytes.saturating_add(object.bytes);
        }
    }
}
