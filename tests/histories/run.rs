//! Carries out one random history on an engine and on the model.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use shoal::api::wire::query::parse_query;
use shoal::api::wire::write::{WriteBody, parse_write};
use shoal::engine::lineage::BranchRequest;
use shoal::engine::merge::{self, MergeRequest};
use shoal::engine::view::View;
use shoal::engine::{Engine, EngineConfig};
use shoal::error::{Error, Kind, Result};
use shoal::model::as_of::AsOf;
use shoal::model::ids::{DocId, NamespaceName, Project};
use shoal::model::query::Answer;
use shoal::model::value_render::to_json;
use shoal::platform::allowance::Allowance;
use shoal::platform::clock::{Clock, ManualClock};
use shoal::platform::disk::Disk;
use shoal::platform::memory_disk::{Fault, MemoryDisk};
use shoal::platform::random::{Random, SeededRandom};

use crate::model::{Bases, Documents, Fields, Life, Model, Policy};

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const TAGS: [&str; 3] = ["t", "u", "v"];
const IDS: u64 = 16;
/// So few that documents are often written again as they were.
const VALUES: u64 = 4;
const STEPS: u64 = 40;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
const RETENTION_MS: u64 = 7 * DAY_MS;

#[derive(Clone, Debug)]
enum Step {
    Put(&'static str, Vec<u64>, i64),
    Patch(&'static str, u64, i64),
    Delete(&'static str, Vec<u64>),
    Flush(&'static str),
    Compact(&'static str),
    Branch(&'static str, &'static str),
    /// A branch of the generation that lies so far back.
    BranchPast(&'static str, &'static str, usize),
    BranchTag(&'static str, &'static str, &'static str),
    Copy(&'static str, &'static str),
    Drop(&'static str),
    Undelete(&'static str),
    Tag(&'static str, &'static str),
    Untag(&'static str, &'static str),
    Merge(&'static str, &'static str, Policy),
    Hours(u64),
    Restart,
    Cut,
    Repair,
}

fn step(random: &SeededRandom) -> Step {
    let pick = |n: u64| random.next_u64() % n;
    let name = || NAMES[pick(NAMES.len() as u64) as usize];
    let tag = || TAGS[pick(TAGS.len() as u64) as usize];
    let ids = |most: u64| (0..1 + pick(most)).map(|_| pick(IDS)).collect::<Vec<u64>>();
    match pick(100) {
        0..18 => Step::Put(name(), ids(6), pick(VALUES) as i64),
        18..26 => Step::Patch(name(), pick(IDS), pick(VALUES) as i64),
        26..33 => Step::Delete(name(), ids(3)),
        33..41 => Step::Flush(name()),
        41..46 => Step::Compact(name()),
        46..56 => Step::Branch(name(), name()),
        56..59 => Step::BranchPast(name(), name(), pick(6) as usize),
        59..61 => Step::BranchTag(name(), name(), tag()),
        61..63 => Step::Copy(name(), name()),
        63..67 => Step::Drop(name()),
        67..70 => Step::Undelete(name()),
        70..82 => {
            let policies = [
                Policy::Fail,
                Policy::Lww,
                Policy::Fields,
                Policy::FieldsOrFail,
                Policy::Ours,
                Policy::Theirs,
                Policy::KeepBoth,
            ];
            Step::Merge(name(), name(), policies[pick(7) as usize])
        }
        82..85 => Step::Tag(name(), tag()),
        85..87 => Step::Untag(name(), tag()),
        87..92 => Step::Hours(1 + pick(72)),
        92..95 => Step::Restart,
        95..98 => Step::Cut,
        _ => Step::Repair,
    }
}

fn integer(id: &DocId) -> u64 {
    match id {
        DocId::Uint(id) => *id,
        other => panic!("expected an integer, got {other}"),
    }
}

fn request(policy: Policy, dry_run: bool) -> MergeRequest {
    let policy = match policy {
        Policy::Fail => merge::decide::Policy::Fail,
        Policy::Lww => merge::decide::Policy::Lww,
        Policy::Fields => merge::decide::Policy::Fields,
        Policy::FieldsOrFail => merge::decide::Policy::FieldsOrFail,
        Policy::Ours => merge::decide::Policy::Ours,
        Policy::Theirs => merge::decide::Policy::Theirs,
        Policy::KeepBoth => merge::decide::Policy::KeepBoth,
    };
    MergeRequest { policy, dry_run, ..MergeRequest::default() }
}

fn name(text: &str) -> NamespaceName {
    Project::default_project().namespace(text).unwrap()
}

struct Run {
    disk: MemoryDisk,
    clock: Arc<ManualClock>,
    random: Arc<SeededRandom>,
    engine: Option<Arc<Engine>>,
    model: Model,
    what: String,
}

/// Runs the history of a seed.
pub async fn history(seed: u64, says: bool) {
    let steps = SeededRandom::new(seed ^ 0x5eed);
    let mut run = Run {
        disk: MemoryDisk::default(),
        clock: Arc::new(ManualClock::at(1_700_000_000_000)),
        random: Arc::new(SeededRandom::new(seed)),
        engine: None,
        model: Model::default(),
        what: String::new(),
    };
    for number in 0..STEPS {
        let step = step(&steps);
        let crash = steps.next_u64().is_multiple_of(7).then(|| steps.next_u64() % 40);
        run.what = format!("seed {seed}, step {number}, {step:?}, crash {crash:?}");
        if says {
            println!("{}", run.what);
            for (known, life) in &run.model.names {
                println!("    {known} {} {:?}", life.state.data_seq, life.state.documents());
            }
        }
        match crash {
            Some(after) => run.crash(&step, after).await,
            None => run.carry_out(&step).await,
        }
        run.clock.advance(1 + steps.next_u64() % 1_000);
        run.check_present();
        if number % 8 == 7 {
            run.check_past();
        }
    }
    run.what = format!("seed {seed}, at the end");
    run.end().await;
}

impl Run {
    fn engine(&mut self) -> Arc<Engine> {
        if let Some(engine) = &self.engine {
            return engine.clone();
        }
        let config = EngineConfig {
            flush_bytes: 1 << 30,
            compaction_fan_in: 3,
            retention_ms: RETENTION_MS,
            retention_disk_percent: 100,
            ..EngineConfig::new("/data")
        };
        let disk: Arc<dyn Disk> = Arc::new(self.disk.mounted());
        let engine = Engine::open(config, disk, self.clock.clone(), self.random.clone());
        let engine = engine.unwrap_or_else(|error| panic!("{}: open: {error}", self.what));
        engine.rebuild_index().unwrap_or_else(|error| panic!("{}: rebuild: {error}", self.what));
        self.engine = Some(engine.clone());
        engine
    }

    fn cut(&mut self) {
        self.engine = None;
        self.disk.power_cut(&*self.random);
    }

    /// A step that must succeed or fail as the model says.
    async fn carry_out(&mut self, step: &Step) {
        let engine = self.engine();
        let mut next = self.model.clone();
        let bases = self.bases(step, &engine).await;
        let allowed = follow(&mut next, step, &engine, &bases, self.clock.now_millis());
        let done = self.perform(step).await;
        match (&done, allowed) {
            (Ok(()), true) => {
                self.model = next;
                self.count(step);
            }
            (Err(error), false) if !matches!(error.kind(), Kind::Corrupt | Kind::Internal | Kind::Unavailable) => {}
            _ => panic!("{}: {done:?}, the model says {allowed}", self.what),
        }
        self.settle(step).await;
    }

    /// A step in which every operation of the disk fails after so many; then the power goes.
    async fn crash(&mut self, step: &Step, after: u64) {
        let engine = self.engine();
        let mut next = self.model.clone();
        let bases = self.bases(step, &engine).await;
        let allowed = follow(&mut next, step, &engine, &bases, self.clock.now_millis());
        drop(engine);
        let at = self.disk.operations() + after;
        self.disk.set_fault(Some(Fault { at, forever: true, kind: io::ErrorKind::Other }));
        let done = self.perform(step).await;
        self.disk.set_fault(None);
        self.cut();
        // What is due and could not be let go of is no error.
        if done.is_ok() && allowed && !matches!(step, Step::Hours(_)) {
            self.model = next;
            self.count(step);
            return;
        }
        if let Step::Put(to, ..) | Step::Patch(to, ..) | Step::Delete(to, _) | Step::Merge(_, to, _) = step
            && let Some(before) = self.model.names.get(*to).map(|life| life.state.data_seq)
        {
            // What changed no document is still a change: the counter of changes tells.
            if allowed && self.data_seq(to) != before {
                self.model = next;
                self.count(step);
            } else if allowed && matches!(step, Step::Merge(..)) && self.model.entries(to) == next.entries(to) {
                // Only what was seen changes, and nobody can tell whether it did: done again it is what it would be.
                self.perform(step).await.unwrap_or_else(|error| panic!("{}: again: {error}", self.what));
                self.model = next;
                self.count(step);
            }
            return;
        }
        // It happened or it did not; nothing between.
        let found = self.present();
        if matches!(step, Step::Hours(_)) {
            self.take_deleted();
        } else if found != self.model.documents() && allowed {
            self.model = next;
        } else if matches!(step, Step::Undelete(_) | Step::Drop(_)) && allowed {
            // Names tell which of two equal states it is.
            let deleted = |model: &Model| model.names.keys().cloned().collect::<Vec<String>>();
            if found.keys().cloned().collect::<Vec<String>>() == deleted(&next) {
                self.model = next;
            }
        } else if allowed {
            self.take_tags(&next);
        }
    }

    /// What a merge will be based on: a dry run says it.
    async fn bases(&self, step: &Step, engine: &Arc<Engine>) -> Bases {
        let Step::Merge(from, to, policy) = step else { return Bases::default() };
        let Ok(report) = engine.merge(&name(from), &name(to), request(*policy, true)).await else {
            return Bases::default();
        };
        let base = |conflict: &merge::report::Conflict| {
            let base = conflict.base.as_ref()?;
            let field = |known: &'static str| base.get(known)?.as_i64().map(|n| (known, n));
            Some((integer(&conflict.id), [field("n"), field("m")].into_iter().flatten().collect()))
        };
        Bases {
            conflicts: report.listed.iter().map(|conflict| integer(&conflict.id)).collect(),
            of: report.listed.iter().filter_map(base).collect(),
            is_refused: report.refused,
        }
    }

    /// Follows the counter of changes, and what a merge left to the store: a merge that only learns what the other side saw counts, and a patch of nothing that
    /// brings a column.
    fn count(&mut self, step: &Step) {
        if let Step::Put(to, ..) | Step::Patch(to, ..) | Step::Delete(to, _) | Step::Merge(_, to, _) = step {
            let data_seq = self.data_seq(to);
            if matches!(step, Step::Merge(..)) {
                let found = self.present().remove(*to).unwrap_or_default();
                let open = self.model.open.clone();
                assert!(self.model.adopt(to, &found), "{}: found {found:?}, expected {open:?}", self.what);
            }
            if let Some(life) = self.model.names.get_mut(*to) {
                life.state.data_seq = data_seq;
                life.keep();
            }
        }
    }

    fn data_seq(&mut self, of: &str) -> u64 {
        let status = self.engine().status(&name(of));
        status.unwrap_or_else(|error| panic!("{}: status: {error}", self.what))["data_seq"].as_u64().unwrap()
    }

    /// After a crash while retention let go of what is deleted: what can still be had back.
    fn take_deleted(&mut self) {
        let listed = self.engine().deleted(&Project::default_project());
        let is_kept = |known: &str, at: u64| {
            listed.iter().any(|deleted| deleted.name == name(known).to_string() && deleted.deleted_ms == at)
        };
        self.model.deleted.retain(|(known, at, _)| is_kept(known, *at));
    }

    /// After a crash in a step about tags: what the store says.
    fn take_tags(&mut self, next: &Model) {
        let engine = self.engine();
        for (known, life) in &mut self.model.names {
            let tags = engine.tags(&name(known)).unwrap_or_else(|error| panic!("{}: tags: {error}", self.what));
            let after = &next.names[known].tags;
            let found: Vec<String> = tags.into_iter().map(|tag| tag.name).collect();
            if found.iter().eq(after.keys()) {
                life.tags = after.clone();
            }
        }
    }

    async fn perform(&mut self, step: &Step) -> Result<()> {
        let engine = match step {
            Step::Restart | Step::Cut => None,
            _ => Some(self.engine()),
        };
        let write = async |to: &str, body: Json| {
            let WriteBody::Write(request) = parse_write(body).unwrap() else { panic!("expected a write") };
            match &engine {
                Some(engine) => engine.write(&name(to), *request).await.map(drop),
                None => Ok(()),
            }
        };
        let past = |request: BranchRequest, from: &'static str, to: &'static str| {
            let engine = engine.clone();
            async move {
                match engine {
                    Some(engine) => engine.branch(&name(from), &name(to), request).await,
                    None => Ok(()),
                }
            }
        };
        match step {
            Step::Put(to, ids, n) => {
                let mut rows: BTreeMap<u64, Json> = BTreeMap::new();
                for id in ids {
                    rows.insert(*id, json!({"id": id, "n": n, "text": format!("fish {id}")}));
                }
                let schema = json!({"n": "int", "m": "int", "text": {"type": "string", "full_text_search": true}});
                let rows: Vec<Json> = rows.into_values().collect();
                write(to, json!({"upsert_rows": rows, "schema": schema})).await
            }
            Step::Patch(to, id, m) => write(to, json!({"patch_rows": [{"id": id, "m": m}]})).await,
            Step::Delete(to, ids) => {
                let mut ids = ids.clone();
                ids.sort_unstable();
                ids.dedup();
                write(to, json!({ "deletes": ids })).await
            }
            Step::Branch(from, to) => past(BranchRequest::default(), from, to).await,
            Step::BranchPast(from, to, back) => {
                let Some(engine) = &engine else { return Ok(()) };
                let history = engine.history(&name(from))?;
                let generation = history[(*back).min(history.len() - 1)].generation;
                let as_of = Some(AsOf::Generation(generation));
                past(BranchRequest { as_of, ..BranchRequest::default() }, from, to).await
            }
            Step::BranchTag(from, to, tag) => {
                let as_of = Some(AsOf::Tag((*tag).to_owned()));
                past(BranchRequest { as_of, ..BranchRequest::default() }, from, to).await
            }
            Step::Hours(hours) => {
                self.clock.advance(hours * HOUR_MS);
                match &engine {
                    Some(engine) => engine.tend().await,
                    None => Ok(()),
                }
            }
            Step::Restart => {
                let engine = self.engine.take();
                match engine {
                    Some(engine) => engine.shutdown().await,
                    None => Ok(()),
                }
            }
            Step::Cut => {
                self.cut();
                Ok(())
            }
            other => {
                let Some(engine) = &engine else { return Ok(()) };
                match other {
                    Step::Flush(at) => engine.checkpoint(&name(at)).await,
                    Step::Compact(at) => engine.compact(&name(at)).await,
                    Step::Copy(from, to) => engine.copy(&name(from), &name(to)).await.map(drop),
                    Step::Drop(at) => engine.delete(&name(at)).await,
                    Step::Undelete(at) => engine.undelete(&name(at), None).await,
                    Step::Merge(from, to, policy) => {
                        let report = engine.merge(&name(from), &name(to), request(*policy, false)).await?;
                        if report.refused { Err(Error::invalid("there are conflicts")) } else { Ok(()) }
                    }
                    Step::Tag(at, tag) => engine.tag(&name(at), tag, None).await.map(drop),
                    Step::Untag(at, tag) => engine.untag(&name(at), tag).await,
                    _ => tokio::task::block_in_place(|| engine.repair()).map(drop),
                }
            }
        }
    }

    /// Waits until no merge of segments runs by itself, so that a seed has one course.
    async fn settle(&mut self, step: &Step) {
        let Some(engine) = self.engine.clone() else { return };
        let may_flush = |known: &str| match step {
            Step::Put(at, ..) | Step::Patch(at, ..) | Step::Delete(at, _) | Step::Flush(at) | Step::Compact(at) => {
                *at == known
            }
            Step::Merge(from, to, _) => *from == known || *to == known,
            Step::Hours(_) => true,
            _ => false,
        };
        for known in self.model.names.keys().filter(|known| may_flush(known)) {
            while engine.status(&name(known)).is_ok_and(|status| status["index"]["compacting"] == true) {
                tokio::task::yield_now().await;
            }
        }
    }

    /// What the store holds now.
    fn present(&mut self) -> BTreeMap<String, Documents> {
        let engine = self.engine();
        let (names, more) = engine.list(&Project::default_project(), "", None, 100).unwrap();
        assert!(more.is_none());
        let documents = |known: &String| {
            let view = engine.view(&name(known)).unwrap_or_else(|error| panic!("{}: {known}: {error}", self.what));
            documents(&view)
        };
        names.iter().map(|known| (known.clone(), documents(known))).collect()
    }

    fn check_present(&mut self) {
        let (found, expected) = (self.present(), self.model.documents());
        assert!(found == expected, "{}: found {found:?}, expected {expected:?}", self.what);
    }

    /// Every state that can be asked for is as the model remembers it.
    fn check_past(&mut self) {
        let engine = self.engine();
        for (known, life) in &self.model.names {
            let at = |as_of: AsOf| {
                let view = engine.view_at(&name(known), Some(&as_of));
                view.unwrap_or_else(|error| panic!("{}: {known} as of {as_of:?}: {error}", self.what))
            };
            for state in engine.history(&name(known)).unwrap() {
                let expected = life.past.get(&state.data_seq).map(|state| state.documents());
                let found = documents(&at(AsOf::Generation(state.generation)));
                assert!(
                    expected.as_ref() == Some(&found),
                    "{}: {known} as of {state:?}: found {found:?}, expected {expected:?}",
                    self.what
                );
            }
            for (tag, state) in &life.tags {
                let found = documents(&at(AsOf::Tag(tag.clone())));
                assert!(found == state.documents(), "{}: tag {tag} of {known}: {found:?}", self.what);
            }
        }
    }

    /// Nothing is missing, and when all that is kept for a time is over nothing is left over.
    async fn end(&mut self) {
        self.check_past();
        let engine = self.engine();
        let report = engine.check(3).unwrap();
        assert!(report.is_whole(), "{}: {:?}", self.what, report.problems);
        self.clock.advance(2 * RETENTION_MS);
        engine.tend().await.unwrap();
        self.settle(&Step::Hours(0)).await;
        let before = left(&self.disk, "/data/store");
        let removed = engine.repair().unwrap();
        let after = left(&self.disk, "/data/store");
        let over: Vec<&String> = before.iter().filter(|file| !after.contains(file)).collect();
        assert_eq!(removed, (0, 0), "{}: {over:?} were left over", self.what);
        self.model.deleted.clear();
        self.check_present();
        self.check_past();
        let names: Vec<String> = self.model.names.keys().cloned().collect();
        for known in names {
            engine.delete(&name(&known)).await.unwrap();
        }
        self.clock.advance(2 * RETENTION_MS);
        engine.tend().await.unwrap();
        let left = left(&self.disk, "/data/store");
        assert!(left == ["/data/store/_format.json"], "{}: {left:?}", self.what);
        drop(engine);
        self.engine = None;
    }
}

fn left(disk: &MemoryDisk, dir: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in disk.list(std::path::Path::new(dir)).unwrap() {
        let path = format!("{dir}/{}", entry.name);
        if entry.is_dir { found.extend(left(disk, &path)) } else { found.push(path) }
    }
    found
}

/// Follows a step in the model; false when the store must refuse it.
fn follow(model: &mut Model, step: &Step, engine: &Engine, bases: &Bases, now: u64) -> bool {
    let has = |model: &Model, name: &str| model.names.contains_key(name);
    match step {
        Step::Put(to, ids, n) => {
            model.write(to, |_| ids.iter().map(|id| (*id, Some(Fields::from([("n", *n)])))).collect());
            true
        }
        Step::Patch(to, id, m) => {
            let known = has(model, to);
            if known {
                model.write(to, |documents| match documents.get(id) {
                    None => Vec::new(),
                    Some(fields) => {
                        let mut fields = fields.clone();
                        fields.insert("m", *m);
                        vec![(*id, Some(fields))]
                    }
                });
            }
            known
        }
        Step::Delete(to, ids) => {
            let known = has(model, to);
            if known {
                model.write(to, |_| ids.iter().map(|id| (*id, None)).collect());
            }
            known
        }
        Step::Flush(at) | Step::Compact(at) => has(model, at),
        // A copy has no lineage, and has seen the same.
        Step::Branch(from, to) | Step::Copy(from, to) => {
            let may = has(model, from) && !has(model, to);
            if may {
                let (state, tree) = (model.names[*from].state.clone(), model.names[*from].tree);
                model.names.insert((*to).to_owned(), Life::begin(state, tree));
            }
            may
        }
        Step::Merge(from, to, policy) => {
            let trees = (model.names.get(*from).map(|life| life.tree), model.names.get(*to).map(|life| life.tree));
            from != to && trees.0.is_some() && trees.0 == trees.1 && model.merge(from, to, *policy, bases)
        }
        Step::BranchPast(from, to, back) => {
            let may = has(model, from) && !has(model, to);
            if may {
                let history = engine.history(&name(from)).unwrap();
                let life = &model.names[*from];
                let state = &life.past[&history[(*back).min(history.len() - 1)].data_seq];
                let branch = Life::begin((**state).clone(), life.tree);
                model.names.insert((*to).to_owned(), branch);
            }
            may
        }
        Step::BranchTag(from, to, tag) => {
            let tagged = model.names.get(*from).and_then(|life| Some((life.tags.get(*tag)?.clone(), life.tree)));
            match tagged {
                Some((state, tree)) if !has(model, to) => {
                    model.names.insert((*to).to_owned(), Life::begin((*state).clone(), tree));
                    true
                }
                _ => false,
            }
        }
        Step::Drop(at) => match model.names.remove(*at) {
            None => false,
            Some(life) => {
                model.deleted.push(((*at).to_owned(), now, life));
                true
            }
        },
        Step::Undelete(at) => {
            let place = model.deleted.iter().rposition(|(name, ..)| name == at);
            match place {
                Some(place) if !has(model, at) => {
                    let (name, _, life) = model.deleted.remove(place);
                    model.names.insert(name, life);
                    true
                }
                _ => false,
            }
        }
        Step::Tag(at, tag) => match model.names.get_mut(*at) {
            Some(life) if !life.tags.contains_key(*tag) => {
                let state = Arc::new(life.state.clone());
                life.tags.insert((*tag).to_owned(), state);
                true
            }
            _ => false,
        },
        Step::Untag(at, tag) => model.names.get_mut(*at).is_some_and(|life| life.tags.remove(*tag).is_some()),
        Step::Hours(hours) => {
            let then = now + hours * HOUR_MS;
            model.deleted.retain(|(_, at, _)| then - at < RETENTION_MS);
            true
        }
        Step::Restart | Step::Cut | Step::Repair => true,
    }
}

fn documents(view: &View) -> Documents {
    let body = json!({"rank_by": ["id", "asc"], "limit": 10_000, "include_attributes": true});
    let mut outcome =
        shoal::engine::query::run(view, &parse_query(body).unwrap().request, &Allowance::unlimited()).unwrap();
    let Answer::Rows(rows) = outcome.answers.remove(0) else { panic!("expected rows") };
    rows.into_iter()
        .map(|row| {
            let field = |known: &'static str| {
                let (_, value) = row.fields.iter().find(|(name, _)| &**name == known)?;
                to_json(value, false).as_i64().map(|n| (known, n))
            };
            (integer(&row.id), [field("n"), field("m")].into_iter().flatten().collect())
        })
        .collect()
}
