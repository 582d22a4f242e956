//! What a bucket has to hold, and nothing else: said from its bytes, without asking the code that reclaims.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shoal::engine::Engine;
use shoal::engine::remote::{objects_of, owner_of};
use shoal::format::manifest::{Manifest, decode_manifest};
use shoal::format::marks::decode_tag;
use shoal::format::reclaim::{decode_hold, decode_sweep};
use shoal::model::ids::Nsid;
use shoal::store::{Bucket, Patience};
use shoal::sync::{Reclaim, Reclaiming, Selection, Sync};

use crate::fleet::options;
use crate::node::{DAY_MS, Node};

const P: &Patience = &Patience::ASKED;

/// What is in a bucket, read whole.
pub struct Contents {
    pub keys: BTreeSet<String>,
    /// Of each incarnation its manifests by generation.
    pub chains: BTreeMap<Nsid, BTreeMap<u64, Manifest>>,
    /// Objects held, by holder and owner.
    pub holds: BTreeMap<(Nsid, Nsid), BTreeSet<String>>,
    /// Of each incarnation the tags that hold, by the key of their newest revision.
    pub tags: BTreeMap<Nsid, BTreeMap<String, Manifest>>,
}

fn names(manifest: &Manifest) -> impl Iterator<Item = String> {
    objects_of(manifest).into_iter().map(|object| object.key)
}

pub async fn contents(bucket: &Bucket) -> Contents {
    let listed = bucket.list_all("", None, 1_000_000, P).await.unwrap();
    let keys: BTreeSet<String> =
        listed.into_iter().map(|listed| listed.key).filter(|key| !key.starts_with("_probe/")).collect();
    let (mut chains, mut holds) = (BTreeMap::<Nsid, BTreeMap<u64, Manifest>>::new(), BTreeMap::new());
    let mut tags = BTreeMap::<Nsid, BTreeMap<String, Manifest>>::new();
    let newest: BTreeMap<&str, &String> = keys
        .iter()
        .filter(|key| key.contains("/tags/"))
        .filter_map(|key| Some((key.rsplit_once('/')?.0, key)))
        .collect();
    for key in newest.into_values() {
        let file = decode_tag(&bucket.get(key, P).await.unwrap().unwrap(), key).unwrap();
        let of = tags.entry(owner_of(key).unwrap()).or_default();
        of.extend(file.manifest.map(|manifest| (key.clone(), manifest)));
    }
    for key in &keys {
        let Some(nsid) = owner_of(key) else { continue };
        if key.contains("/manifests/") {
            let manifest = decode_manifest(&bucket.get(key, P).await.unwrap().unwrap(), key).unwrap().0;
            chains.entry(nsid).or_default().insert(manifest.generation, manifest);
        } else if key.contains("/holds/") {
            let hold = decode_hold(&bucket.get(key, P).await.unwrap().unwrap(), key).unwrap();
            let held: &mut BTreeSet<String> = holds.entry((hold.holder, nsid)).or_default();
            held.extend(hold.objects);
        }
    }
    Contents { keys, chains, holds, tags }
}

impl Contents {
    /// The manifests of a chain and of its tags whose objects are to be there.
    fn needed(&self, nsid: Nsid) -> impl Iterator<Item = &Manifest> {
        let newest = self.chains.get(&nsid).and_then(|chain| chain.values().next_back());
        let tags = self.tags.get(&nsid).filter(|_| newest.is_some_and(|newest| !newest.is_end()));
        self.retained(nsid).chain(tags.into_iter().flat_map(BTreeMap::values))
    }

    /// The manifests of a chain whose objects are to be there.
    fn retained(&self, nsid: Nsid) -> impl Iterator<Item = &Manifest> {
        let chain = self.chains.get(&nsid);
        let newest = chain.and_then(|chain| chain.values().next_back());
        let oldest = newest.and_then(|newest| newest.fence.as_ref()).map_or(0, |fence| fence.retained);
        chain
            .into_iter()
            .flatten()
            .filter(move |(generation, _)| **generation >= oldest)
            .map(|(_, manifest)| manifest)
    }

    /// Fails unless everything that a retained manifest, a tag or a hold names is there.
    pub fn assert_whole(&self) {
        for nsid in self.chains.keys() {
            for manifest in self.needed(*nsid) {
                for key in names(manifest) {
                    assert!(self.keys.contains(&key), "{} of {nsid} needs {key}", manifest.generation);
                    let owner = owner_of(&key).unwrap();
                    let held = self.holds.get(&(*nsid, owner));
                    assert!(owner == *nsid || held.is_some_and(|held| held.contains(&key)), "nobody holds {key}");
                }
            }
        }
    }

    /// Fails unless the bucket has exactly what retained manifests, tags, names and holds need, and holds name what their holders need.
    pub fn assert_exact(&self) {
        self.assert_whole();
        let mut needed: BTreeSet<String> =
            self.keys.iter().filter(|key| *key == "_format.json" || key.contains("/names/")).cloned().collect();
        let mut wanted: BTreeMap<(Nsid, Nsid), BTreeSet<String>> = BTreeMap::new();
        for nsid in self.chains.keys() {
            needed.extend(self.tags.get(nsid).into_iter().flat_map(BTreeMap::keys).cloned());
            for manifest in self.needed(*nsid) {
                for key in names(manifest) {
                    let owner = owner_of(&key).unwrap();
                    if owner != *nsid {
                        wanted.entry((*nsid, owner)).or_default().insert(key.clone());
                    }
                    needed.insert(key);
                }
            }
            // The end of a deleted namespace is there until it is buried.
            let newest = self.chains[nsid].values().next_back().filter(|newest| newest.is_end());
            for manifest in self.retained(*nsid).chain(newest) {
                let fence = manifest.fence.as_ref().filter(|fence| fence.generation > 0);
                needed.extend(fence.map(|fence| fence.sweep.clone()));
                needed.insert(self.key_of(*nsid, &format!("/manifests/{:020}.json", manifest.generation)));
            }
            needed.insert(self.key_of(*nsid, "/CURRENT"));
        }
        // Who has no state may be about to make one.
        let is_coming = |holder: &Nsid| self.retained(*holder).next().is_none();
        for (hold, objects) in &self.holds {
            let wanted = wanted.get(hold);
            assert!(
                wanted == Some(objects) || is_coming(&hold.0) && objects.is_subset(&needed),
                "{hold:?}: {objects:?}"
            );
        }
        assert!(wanted.keys().all(|hold| self.holds.contains_key(hold)));
        needed.extend(self.keys.iter().filter(|key| key.contains("/holds/")).cloned());
        // Uploads of who never committed anything are nobody's to judge.
        let is_known = |key: &&String| owner_of(key).is_none_or(|nsid| self.chains.contains_key(&nsid));
        // Claims of ids stay for ever.
        let is_kept = |key: &&String| !key.starts_with("_ids/");
        let left: Vec<&String> = self.keys.difference(&needed).filter(is_known).filter(is_kept).collect();
        assert!(left.is_empty(), "nobody needs {left:#?}");
        let missing: Vec<&String> = needed.difference(&self.keys).filter(|key| !key.ends_with("/CURRENT")).collect();
        assert!(missing.is_empty(), "missing are {missing:#?}");
    }

    /// The key below an incarnation's prefix that ends so.
    fn key_of(&self, nsid: Nsid, end: &str) -> String {
        let known = self.keys.iter().find(|key| owner_of(key) == Some(nsid)).unwrap();
        let prefix: Vec<&str> = known.split('/').take(4).collect();
        format!("{}{end}", prefix.join("/"))
    }
}

/// Deletes all that any fence condemned and nobody holds, as a collector may at any time that began long ago.
pub async fn delete_late(bucket: &Bucket) {
    let found = contents(bucket).await;
    let held: BTreeSet<&String> = found.holds.values().flatten().collect();
    for manifest in found.chains.values().flat_map(BTreeMap::values) {
        let Some(fence) = &manifest.fence else { continue };
        let Some(bytes) = bucket.get(&fence.sweep, P).await.unwrap() else { continue };
        for key in decode_sweep(&bytes, &fence.sweep).unwrap().condemned {
            // Lists are read for as long as a manifest that is kept names them.
            if !held.contains(&key) && !key.contains("/sweeps/") {
                bucket.delete(&key, P).await.unwrap();
            }
        }
    }
}

/// One run by one node.
pub async fn reclaim(node: &Node, engine: &Arc<Engine>, bucket: &Bucket, retention_ms: u64) -> Reclaiming {
    let options = options(shoal::engine::merge::decide::Policy::Lww);
    let ask = Reclaim { retention_ms, ..Reclaim::default() };
    Sync::new(engine.clone(), bucket.clone(), options, node.clock.clone()).reclaim(&Selection::default(), &ask).await
}

/// Runs until nothing is left to do, a day later than anybody did anything, and fails unless the bucket has what it needs and
/// nothing else.
pub async fn reclaim_to_the_end(node: &Node, engine: &Arc<Engine>, bucket: &Bucket) {
    node.clock.advance(DAY_MS);
    for _ in 0..3 {
        let run = reclaim(node, engine, bucket, 0).await;
        assert!(run.failed.is_none(), "{:?}", run.failed);
    }
    contents(bucket).await.assert_exact();
}
