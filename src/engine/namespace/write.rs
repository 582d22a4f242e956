//! The write path: decide, append to the log, wait for the barrier, become visible.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::apply::Wait;
use super::frames::{Batches, Extras};
use super::making::{Making, made_bytes_max};
use super::open::{next_clock, whole};
use super::state::etag;
use super::{Decider, Namespace, Pending};
use crate::engine::analyzers::Analyzers;
use crate::engine::filter::bitmap;
use crate::engine::ids::{COUNTER_BITS, left_of_block};
use crate::engine::journal::{Journal, Writer};
use crate::engine::write::{Change, Current, Decision, apply_schema_update, decide, prepare};
use crate::error::{Error, Kind, Result};
use crate::format::answers::Answer;
use crate::format::record::IdempotencyEntry;
use crate::model::document::Document;
use crate::model::filter::{Expr, Filter};
use crate::model::ids::{DocId, Hlc, IdType, Version};
use crate::model::schema::Schema;
use crate::model::shown::Shown;
use crate::model::write::{Idempotency, SchemaUpdate, WriteOutcome, WriteRequest};
use crate::platform::allowance::{Allowance, End};
use crate::platform::mmap::lacks_room;

/// A request whose body is at most this long is decided by the thread that read it.
const INLINE_BYTES: u64 = 32 << 10;
/// A schema counts for so many bytes where the disk has little room: about one of a thousand attributes.
const SCHEMA_BYTES: u64 = 256 << 10;
/// What a commit of more changes makes of documents is not remembered beside them: the next write waits until it is done.
const OVERLAID_MAX: usize = 100_000;

impl Namespace {
    /// Carries out one write; it is durable and visible on return.
    pub async fn write(self: &Arc<Self>, request: &WriteRequest) -> Result<WriteOutcome> {
        let (mut is_short, until) = (false, self.patience_ends());
        let mut looking = None;
        loop {
            // Who has a turn and finds room goes on with it; who waits keeps none.
            if looking.is_none() || !self.has_room(request.disable_backpressure) {
                looking = None;
                self.wait_for_room_until(until, request.body_bytes, request.disable_backpressure).await?;
            }
            let base = self.decided_schema().await;
            let has_documents = self.shared().state.has_documents();
            // Its body says how long it takes, unless its filters do.
            let is_small = request.body_bytes <= INLINE_BYTES && !has_filters(request);
            let mut prepared = compute(is_small, || prepare(&base, has_documents, request));
            if request.idempotency.is_none() {
                prepared = Ok(prepared?);
            }
            let brought = match &prepared {
                Ok(prepared) if self.context.tier.reads_in_parts() => {
                    compute(false, || self.bring(prepared, request))
                }
                _ => Ok(()),
            };
            // Before it decides, so that nobody waits behind one that waits for its turn. Kept where it begins anew for another schema and
            // has room: who changes that often must not send it back to where it began to wait.
            if looking.is_none() && looks_long(request, &base) {
                let own = self.looking.lock().await;
                let (project, are_others) = (&self.name.project, self.context.projects.are_several());
                looking = Some((own, self.context.looking.take(project, are_others).await?));
            }
            let mut decider = self.decider.lock().await;
            self.make_ready(&mut decider).await?;
            // What was acknowledged is repeated, whatever became of the namespace since.
            if let Some(key) = request.idempotency
                && let Some(kept) = self.find_answer(&mut decider, &key)?
            {
                drop(decider);
                return self.repeat(kept, &key).await;
            }
            check_writable(&decider)?;
            if request.disable_backpressure {
                // Many may have come that far at once.
                self.check_room()?;
            }
            if request.idempotency.is_some() {
                self.check_keys(&mut decider)?;
            }
            if !Arc::ptr_eq(&decider.schema, &base) {
                // Another writer changed the schema meanwhile; types are decided anew against it.
                continue;
            }
            if let Some(expected) = &request.if_match {
                let current = etag(decider.data_seq, decider.hlc, decider.origin);
                if !matches(expected, &current) {
                    return Err(moved(expected, &format!("is at {current}")));
                }
            }
            if request.delete_by_filter.is_some() || request.patch_by_filter.is_some() {
                // Filters run on a snapshot; it must have everything that was decided before.
                self.drain(&mut decider).await?;
            }
            let hlc = next_clock(decider.hlc, self.context.clock.now_millis());
            let version = Version { hlc, origin: decider.origin };
            let prepared = prepared?;
            brought?;
            // Not before its turn: who waits for that must not take the room of others.
            let given = prepared.memory_bytes();
            let Some(making) = self.begin_to_make(given, is_short) else {
                looking = None;
                continue;
            };
            let now = Now { namespace: self, making: &making, allowance: self.allowance_to_look() };
            // Conditions read documents, which may be large.
            let is_short_work = is_small && conditions(request).next().is_none();
            let decision = compute(is_short_work, || decide(prepared, request, &now, version));
            looking = None;
            if decision.is_err() && making.is_short() {
                // The next time all that it may make is set aside before.
                is_short = true;
                continue;
            }
            let decision = decision?;
            let committed = compute(is_small, || self.commit(&mut decider, hlc, decision, request.idempotency));
            // It is counted with the tail now.
            drop(making);
            let (ticket, outcome) = self.note_write(request.body_bytes, committed)?;
            // What changes nothing may do so because of commits that are not durable yet, and is answered when they are.
            let ticket = ticket.or_else(|| self.newest_wait());
            drop(decider);
            self.carry_through(request.body_bytes, ticket).await?;
            return Ok(outcome);
        }
    }

    /// Writes documents as they are given and deletes others, as one commit on top of the state `etag`. False, and nothing
    /// is done, when that is not the newest state any more.
    pub async fn put_back(
        self: &Arc<Self>,
        etag_expected: &str,
        documents: Vec<Arc<Document>>,
        deletes: Vec<DocId>,
    ) -> Result<bool> {
        let bytes = documents.iter().map(|document| document.logical_bytes()).sum();
        let makes = documents.iter().map(|document| document.memory_bytes()).sum();
        self.wait_for_room(bytes, false).await?;
        let mut decider = self.decider.lock().await;
        self.make_ready(&mut decider).await?;
        check_writable(&decider)?;
        if etag(decider.data_seq, decider.hlc, decider.origin) != *etag_expected {
            return Ok(false);
        }
        let hlc = next_clock(decider.hlc, self.context.clock.now_millis());
        let version = Version { hlc, origin: decider.origin };
        let making = self.begin_to_make(makes, false).ok_or_else(|| self.full(1))?;
        let schema = decider.schema.clone();
        let changes = tokio::task::block_in_place(|| {
            let (mut analysis, shown) = (Analyzers::new(), Shown::new(&schema));
            let renewed = documents.into_iter().map(|document| {
                let fields = document.fields.iter().filter(|(uid, _)| shown.shows(*uid)).cloned();
                let document = Document { id: document.id.clone(), version, fields: fields.collect(), patch: None };
                whole(&schema, &mut analysis, document)
            });
            renewed.chain(deletes.into_iter().map(|id| Change::Delete { id })).collect()
        });
        let wait = self.note_write(bytes, self.append(&mut decider, hlc, changes, Extras::default()))?;
        drop((decider, making));
        self.carry_through(bytes, Some(wait)).await?;
        Ok(true)
    }

    /// Changes the schema only.
    pub async fn update_schema(self: &Arc<Self>, update: &SchemaUpdate) -> Result<Arc<Schema>> {
        self.wait_for_room(SCHEMA_BYTES, false).await?;
        let mut decider = self.decider.lock().await;
        self.make_ready(&mut decider).await?;
        check_writable(&decider)?;
        let has_documents = self.shared().state.has_documents();
        let schema = Arc::new(apply_schema_update(&decider.schema, update, has_documents)?);
        if *schema == *decider.schema {
            // The commit that made it so may not be durable yet.
            let wait = self.newest_wait();
            drop(decider);
            self.carry_through(SCHEMA_BYTES, wait).await?;
            return Ok(schema);
        }
        let hlc = next_clock(decider.hlc, self.context.clock.now_millis());
        let extras = Extras { schema: Some(schema.clone()), ..Extras::default() };
        let wait = self.note_write(SCHEMA_BYTES, self.append(&mut decider, hlc, Vec::new(), extras))?;
        drop(decider);
        self.carry_through(SCHEMA_BYTES, Some(wait)).await?;
        Ok(schema)
    }

    /// Hands out ids that nobody else is given: UUIDv7, or integers of blocks that are this incarnation's alone.
    pub async fn allocate_ids(self: &Arc<Self>, count: u32) -> Result<Vec<DocId>> {
        self.wait_for_room(0, false).await?;
        let mut decider = self.decider.lock().await;
        self.make_ready(&mut decider).await?;
        let (ids, reserved) = self.give_ids(&decider, u64::from(count))?;
        if let Some(reserved) = reserved {
            let hlc = next_clock(decider.hlc, self.context.clock.now_millis());
            let extras = Extras { ids_reserved: Some(reserved), ..Extras::default() };
            let wait = self.note_write(0, self.append(&mut decider, hlc, Vec::new(), extras))?;
            drop(decider);
            self.carry_through(0, Some(wait)).await?;
        }
        Ok(ids)
    }

    /// Ids that nobody else is given, once what the second value says is durable: integers below it are handed out.
    pub(super) fn give_ids(&self, decider: &Decider, count: u64) -> Result<(Vec<DocId>, Option<u64>)> {
        let now = self.context.clock.now_millis();
        let uuid = || self.context.uuids.next(&*self.context.random, now);
        match decider.schema.id_type {
            Some(IdType::Uuid) => Ok(((0..count).map(|_| DocId::Uuid(uuid())).collect(), None)),
            Some(IdType::String) => {
                Ok(((0..count).map(|_| DocId::String(uuid().to_string().into())).collect(), None))
            }
            Some(IdType::Uint) | None => {
                let mut next = decider.ids_reserved;
                // One that another node has claimed since is given up.
                let is_own = self.context.node.owns_block((next >> COUNTER_BITS) as u32);
                let left = if is_own { left_of_block(next) } else { 0 };
                let rest = next..next + left.min(count);
                let mut ids: Vec<DocId> = rest.clone().map(DocId::Uint).collect();
                next = rest.end;
                if (ids.len() as u64) < count {
                    let block = tokio::task::block_in_place(|| self.context.take_id_block())?;
                    let first = u64::from(block) << COUNTER_BITS;
                    next = first + count - ids.len() as u64;
                    ids.extend((first..next).map(DocId::Uint));
                }
                Ok((ids, Some(next)))
            }
        }
    }

    /// The state after everything decided so far, for `If-Match`.
    async fn decided_schema(&self) -> Arc<Schema> {
        self.decider.lock().await.schema.clone()
    }

    /// Opens everything anew when the log failed before, and seals what opening found.
    pub(super) async fn make_ready(&self, decider: &mut Decider) -> Result<()> {
        self.check_alive()?;
        let drained = if decider.is_blind { self.drain(decider).await } else { Ok(()) };
        decider.is_blind = false;
        let failed = decider.journal.as_ref().is_some_and(Journal::is_failed);
        if !failed {
            self.check_applied()?;
        }
        if failed || decider.broken {
            if let Some(journal) = decider.journal.take() {
                decider.distrust = Some(journal.distrust());
            }
            decider.broken = true;
            self.reopen(decider).await?;
        } else {
            drained?;
        }
        self.settle_logs(decider)
    }

    /// What the filters and conditions of a write that is decided now may use: time, and no more once the node stops.
    fn allowance_to_look(&self) -> Allowance {
        let context = Arc::clone(&self.context);
        let ms = context.config.write_filter_ms;
        let until = context.clock.steady_millis().saturating_add(ms);
        Allowance::new(u64::MAX, move || {
            if context.is_stopping() {
                return Some(End::Abandoned);
            }
            (context.clock.steady_millis() >= until).then_some(End::WriteTimeIsUp(ms))
        })
    }

    /// Puts a decision into the log. Nothing is appended when nothing changes and no key has to be remembered.
    fn commit(
        &self,
        decider: &mut Decider,
        hlc: Hlc,
        decision: Decision,
        key: Option<Idempotency>,
    ) -> Result<(Option<Wait>, WriteOutcome)> {
        let mut outcome = decision.outcome;
        if decision.changes.is_empty() && decision.schema.is_none() && key.is_none() {
            outcome.etag = etag(decider.data_seq, decider.hlc, decider.origin);
            return Ok((None, outcome));
        }
        let idempotency = key.map(|key| IdempotencyEntry {
            key_hash: key.key_hash,
            body_hash: key.body_hash,
            upserted: outcome.upserted,
            patched: outcome.patched,
            deleted: outcome.deleted,
            rows_remaining: outcome.rows_remaining,
            filter_matched: outcome.filter_matched,
            bytes_written: outcome.bytes_written,
        });
        let extras = Extras { schema: decision.schema, idempotency, ids_reserved: None };
        let counts = !decision.changes.is_empty() || extras.schema.is_some();
        let ticket = self.append(decider, hlc, decision.changes, extras)?;
        // An answer alone is for this node: there is no commit that a bucket would have to have.
        outcome.commit = counts.then_some((self.nsid, Version { hlc, origin: decider.origin }));
        outcome.etag = etag(decider.data_seq, decider.hlc, decider.origin);
        Ok((Some(ticket), outcome))
    }

    /// Everything that comes into the log does so here: after [`Namespace::wait_for_room`], and before
    /// [`Namespace::carry_through`], which keep the log within its bounds. Nothing is in the log when this fails.
    pub(super) fn append(
        &self,
        decider: &mut Decider,
        hlc: Hlc,
        mut changes: Vec<Change>,
        extras: Extras,
    ) -> Result<Wait> {
        let places = self.shared().state.places_of(&changes)?;
        if decider.journal.is_none() {
            let writer = Writer { nsid: self.nsid, origin: decider.origin };
            let paths = self.context.layout.logs(&self.name.project, self.nsid);
            let previous = decider.sealed.last();
            let disk = self.context.disk.clone();
            let random = &*self.context.random;
            // It waits for barriers.
            let create = || Journal::create(disk, paths, writer, decider.next_seq, previous, random);
            decider.journal = Some(tokio::task::block_in_place(create)?.counted(&self.context.made));
        }
        let Some(journal) = &mut decider.journal else { return Err(Error::internal("the log is not open")) };
        let counts = !changes.is_empty() || extras.schema.is_some();
        let (group, ticket) = journal.append(hlc, Batches::new(&mut changes, &extras))?;
        decider.next_seq = journal.next_seq();
        self.log_bytes.store(decider.log_bytes(), Ordering::Relaxed);
        decider.hlc = hlc;
        decider.data_seq += u64::from(counts);
        decider.number += 1;
        if let Some(schema) = &extras.schema {
            decider.schema = schema.clone();
        }
        if let Some(reserved) = extras.ids_reserved {
            decider.ids_reserved = reserved;
        }
        let is_keyed = extras.idempotency.is_some();
        if let Some(entry) = extras.idempotency {
            let at_ms = self.context.passed_ms();
            decider.answers.insert(Answer { entry, at_ms }, hlc, Some((group.clone(), ticket)));
        }
        let mut shared = self.shared();
        let before = shared.bytes();
        decider.is_blind |= changes.len() > OVERLAID_MAX;
        for change in changes.iter().filter(|_| !decider.is_blind) {
            let state = match change {
                Change::Put { document, .. } => Some(document.clone()),
                Change::Delete { .. } => None,
            };
            shared.overlay.insert(change.id().clone(), (decider.number, state));
        }
        let bytes = changes.iter().map(Change::memory_bytes).sum();
        shared.pending_bytes += bytes;
        self.follow_tail(&shared, before);
        shared.pending.push_back(Pending {
            number: decider.number,
            group: group.clone(),
            ticket,
            changes,
            places,
            bytes,
            version: Version { hlc, origin: decider.origin },
            schema: extras.schema,
            ids_reserved: extras.ids_reserved,
            counts,
            is_keyed,
        });
        Ok((group, ticket))
    }
}

fn check_writable(decider: &Decider) -> Result<()> {
    if decider.read_only { Err(read_only()) } else { Ok(()) }
}

/// The refusal of what would change a namespace that takes no writes.
pub(in crate::engine) fn read_only() -> Error {
    Error::invalid("💔 Writes not permitted. This namespace is read-only.")
}

/// Runs what computes: at once when it is short, else beside the threads that wait for sockets.
fn compute<T>(is_short: bool, work: impl FnOnce() -> T) -> T {
    if is_short { work() } else { tokio::task::block_in_place(work) }
}

fn has_filters(request: &WriteRequest) -> bool {
    request.delete_by_filter.is_some() || request.patch_by_filter.is_some()
}

fn conditions(request: &WriteRequest) -> impl Iterator<Item = &Expr> {
    let conditions = [&request.upsert_condition, &request.patch_condition, &request.delete_condition];
    conditions.into_iter().flatten()
}

/// Whether what a write looks at may keep a processor busy for long.
fn looks_long(request: &WriteRequest, schema: &Schema) -> bool {
    has_filters(request) || conditions(request).any(|condition| condition.may_take_long(schema))
}

/// What deciding sees: durable documents, and what commits on their way make of them.
struct Now<'a> {
    namespace: &'a Namespace,
    making: &'a Making,
    allowance: Allowance,
}

impl Current for Now<'_> {
    fn documents(&self, ids: &[&DocId]) -> Result<Vec<Option<Arc<Document>>>> {
        let (overlaid, others) = {
            let shared = self.namespace.shared();
            let overlaid: Vec<Option<Option<Arc<Document>>>> =
                ids.iter().map(|id| shared.overlay.get(*id).map(|(_, state)| state.clone())).collect();
            let others = ids.iter().zip(&overlaid).filter(|(_, state)| state.is_none());
            let others = shared.state.look_up(&others.map(|(id, _)| *id).collect::<Vec<_>>())?;
            (overlaid, others)
        };
        let mut others = others.read()?.into_iter();
        Ok(overlaid.into_iter().map(|state| state.unwrap_or_else(|| others.next().flatten())).collect())
    }

    fn has_documents(&self) -> bool {
        let shared = self.namespace.shared();
        shared.state.has_documents() || shared.overlay.values().any(|(_, state)| state.is_some())
    }

    fn matching(&self, filter: &Filter, limit: usize) -> Result<(Vec<DocId>, bool)> {
        let view = self.namespace.view();
        let found = view.believed(bitmap::matching(&view, filter, limit, &self.allowance));
        if !found.as_ref().is_err_and(lacks_room) {
            return found;
        }
        let _turn = self.namespace.context.filtering.lock().unwrap_or_else(PoisonError::into_inner);
        view.believed(bitmap::matching(&view.past(), filter, limit, &self.allowance))
    }

    fn allowance(&self) -> &Allowance {
        &self.allowance
    }

    fn made_bytes_max(&self) -> u64 {
        made_bytes_max(&self.namespace.context)
    }

    fn set_aside(&self, bytes: u64) -> Result<()> {
        self.making.set_aside(bytes)
    }
}

/// `If-Match`: a list of entity tags, or `*`.
fn matches(expected: &str, current: &str) -> bool {
    expected.split(',').map(str::trim).any(|tag| tag == "*" || tag == current)
}

/// The answer when a namespace is not in the state that the caller expects.
pub fn moved(expected: &str, is: &str) -> Error {
    Error::new(Kind::Conflict, format!("If-Match is {expected}, but the namespace {is}"))
        .with_code("precondition_failed")
        .with_hint("read the namespace again and decide anew")
}
