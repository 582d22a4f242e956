//! Says what states of the past really keep: the bytes that come free when they go, and not what they name.
//!
//! - A past state of a namespace keeps what the state after it does not name, a deleted namespace what it holds, and what bases of its
//!   merges hold: those go with it.
//! - What several of them hold comes free when the last of these has gone, and counts once, for all of them together.
//! - What anybody else holds, be it a newest state, a tag or a living branch, counts for nobody.
//!
//! Every manifest is read once a resolution. What cannot be read keeps what it names.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::due::{Freed, Kept, WHOLE};
use super::holdings::{Holdings, generations, read_manifest, read_stored};
use crate::engine::context::Context;
use crate::engine::merge::kept_by;
use crate::engine::namespace::head::{keys, objects};
use crate::error::Result;
use crate::format::manifest::Manifest;
use crate::meta::ObjectFact;
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

/// What comes free when states have gone, by their places. Those of one incarnation are in the order of their generations, but for
/// [`WHOLE`]. `targets`: the incarnations that may keep bases of merges with those of them that are deleted.
pub fn resolve(context: &Context, targets: &[Nsid], states: &[(Nsid, Kept)]) -> Vec<Freed> {
    let places = states.iter().enumerate().map(|(place, (nsid, state))| ((*nsid, state.generation), place)).collect();
    let mut held = Held { places, objects: HashMap::new(), unread: Vec::new() };
    let deleted: BTreeSet<Nsid> =
        states.iter().filter(|(_, state)| state.generation == WHOLE).map(|(nsid, _)| *nsid).collect();
    held.add_past(context, states, &deleted);
    for nsid in &deleted {
        held.add_deleted(context, *nsid, states);
    }
    for target in targets.iter().filter(|target| !deleted.is_empty() && !deleted.contains(target)) {
        held.add_bases(context, *target);
    }
    held.freed(context)
}

/// An object that states of the past hold.
#[derive(Default)]
struct Object {
    bytes: u64,
    /// How often they hold it.
    count: u64,
    /// Of each incarnation that holds it, which of its states is the last.
    last: Vec<(Nsid, usize)>,
}

/// What is held by the states that may go.
struct Held {
    places: HashMap<(Nsid, u64), usize>,
    objects: HashMap<String, Object>,
    /// States that cannot be read, by their places, and what they name.
    unread: Vec<Freed>,
}

impl Held {
    /// Counts what past states of living namespaces hold.
    fn add_past(&mut self, context: &Context, states: &[(Nsid, Kept)], deleted: &BTreeSet<Nsid>) {
        // The chain of whom the last one was of, what its first state holds for good, and the manifest that was read last.
        let mut chain: Option<(Nsid, Vec<u64>, BTreeSet<String>)> = None;
        let mut last: Option<Manifest> = None;
        for (place, (nsid, state)) in states.iter().enumerate() {
            if state.object_bytes == 0 || deleted.contains(nsid) {
                continue;
            }
            if chain.as_ref().is_none_or(|(of, ..)| of != nsid) {
                chain = generations(context, *nsid).ok().map(|found| {
                    let first = read_manifest(context, *nsid, 0).ok().filter(|first| first.lineage.is_some());
                    (*nsid, found, first.map(|first| keys(&first).into_iter().collect()).unwrap_or_default())
                });
            }
            let next = chain.as_ref().and_then(|(_, generations, first)| {
                Some((generations.iter().copied().filter(|next| *next > state.generation).min()?, first))
            });
            let before = last.take().filter(|last| last.nsid == *nsid && last.generation == state.generation);
            let Some((next, first)) = next else {
                self.unread.push(Freed { holders: vec![place], bytes: state.object_bytes });
                continue;
            };
            match kept_until(context, (*nsid, state.generation), before, next) {
                Ok((kept, next)) => {
                    for object in kept.into_iter().filter(|object| !first.contains(&object.key)) {
                        self.hold(object.key, (object.bytes, 1), (*nsid, place));
                    }
                    last = Some(next);
                }
                Err(error) => {
                    tracing::debug!(%nsid, %error, "a past state that cannot be read counts as what it names");
                    self.unread.push(Freed { holders: vec![place], bytes: state.object_bytes });
                }
            }
        }
    }

    /// Counts what a deleted namespace and its past hold.
    fn add_deleted(&mut self, context: &Context, nsid: Nsid, states: &[(Nsid, Kept)]) {
        let held = match Holdings::read(context, nsid) {
            Ok(Some(held)) if held.missed.is_none() => held,
            _ => {
                let own = states.iter().enumerate().filter(|(_, (of, _))| *of == nsid);
                self.unread
                    .extend(own.map(|(place, (_, state))| Freed { holders: vec![place], bytes: state.object_bytes }));
                return;
            }
        };
        let Some(whole) = self.places.get(&(nsid, WHOLE)).copied() else { return };
        let named = objects(&held.head.manifest).into_iter().chain(held.beside_head.into_values());
        let bytes: HashMap<String, u64> = named.map(|object| (object.key, object.bytes)).collect();
        for (key, count) in held.keys {
            let until = held.until.get(&key).and_then(|until| self.places.get(&(nsid, *until)).copied());
            let bytes = bytes.get(&key).copied().unwrap_or(0);
            self.hold(key, (bytes, count), (nsid, until.unwrap_or(whole)));
        }
    }

    /// Counts the bases that a living namespace keeps of merges with deleted ones.
    fn add_bases(&mut self, context: &Context, target: Nsid) {
        for (source, base) in kept_by(context, target).unwrap_or_default() {
            let Some(whole) = self.places.get(&(source, WHOLE)).copied() else { continue };
            for object in base.map(|base| objects(&base)).unwrap_or_default() {
                self.hold(object.key, (object.bytes, 1), (source, whole));
            }
        }
    }

    /// An incarnation holds an object so often, and one of its states is the last.
    fn hold(&mut self, key: String, (bytes, count): (u64, u64), (nsid, place): (Nsid, usize)) {
        let whole = self.places.get(&(nsid, WHOLE)).copied();
        let object = self.objects.entry(key).or_default();
        object.bytes = object.bytes.max(bytes);
        object.count += count;
        match object.last.iter_mut().find(|(of, _)| *of == nsid) {
            // With everything of it goes what is still there of its past.
            Some((_, last)) => {
                *last = whole.filter(|whole| [place, *last].contains(whole)).unwrap_or(place.max(*last))
            }
            None => object.last.push((nsid, place)),
        }
    }

    fn freed(self, context: &Context) -> Vec<Freed> {
        let mut found = BTreeMap::<Vec<usize>, u64>::new();
        for (key, object) in self.objects {
            if object.bytes > 0 && context.meta.references(&key).is_ok_and(|held| held <= object.count) {
                let mut holders: Vec<usize> = object.last.into_iter().map(|(_, place)| place).collect();
                holders.sort_unstable();
                *found.entry(holders).or_default() += object.bytes;
            }
        }
        let found = found.into_iter().map(|(holders, bytes)| Freed { holders, bytes });
        found.chain(self.unread).collect()
    }
}

/// What a state, which may have been read already, names that generation `next` does not. Gives the latter, too.
fn kept_until(
    context: &Context,
    (nsid, generation): (Nsid, u64),
    read: Option<Manifest>,
    next: u64,
) -> Result<(Vec<ObjectFact>, Manifest)> {
    let manifest = read.map_or_else(|| read_stored(context, nsid, generation).map(|(manifest, _)| manifest), Ok)?;
    let (next, _) = read_stored(context, nsid, next)?;
    let named: BTreeSet<String> = keys(&next).into_iter().collect();
    // A key may be in a manifest twice, and is held once.
    let kept = objects(&manifest).into_iter().filter(|object| !named.contains(&object.key));
    let kept: BTreeMap<String, ObjectFact> = kept.map(|object| (object.key.clone(), object)).collect();
    Ok((kept.into_values().collect(), next))
}
