//! What each route does: JSON in, a call of the engine, JSON out.

mod check;
mod documents;
mod lineage;
mod merge;
mod namespaces;
mod node;
pub mod sync;
pub mod transfer;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use hyper::http::request::Parts;
use serde_json::Value as Json;

use super::answer::Answer;
use super::body::Received;
use super::router::{Operation, Route};
use super::server::Server;
use super::wire::shape;
use crate::error::{Error, Result};

/// Bodies longer than this are taken apart away from the threads that wait for sockets.
const PARSE_BESIDE_BYTES: usize = 64 << 10;

/// A request that came through the door.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    pub server: &'a Arc<Server>,
    pub head: &'a Parts,
    pub began: Instant,
}

impl Call<'_> {
    /// Since the request's head was read.
    fn micros(&self) -> u64 {
        micros_since(self.began)
    }
}

fn micros_since(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Carries a request out.
pub async fn carry_out(call: Call<'_>, route: Route, body: Option<Received>) -> Result<Answer> {
    let body = body.unwrap_or_else(|| Received { bytes: Vec::new(), share: call.server.gates.share() });
    let (name, operation) = match route {
        Route::Live => return Ok(node::live()),
        Route::Ready => return node::ready(call),
        Route::Metrics => return node::metrics(call).await,
        Route::NodeStatus => return node::status(call).await,
        Route::List(project) => return node::list(call, &project),
        Route::Tree(project) => return lineage::tree(call, &project).await,
        Route::Deleted(project) => return lineage::deleted(call, &project).await,
        Route::Check => return check::check(call, &body),
        Route::Repair => return check::repair(call, &body),
        Route::SyncStatus => return sync::status(call).await,
        Route::Sync(project) => return sync::sync(call, &project, &body).await,
        Route::Namespace(name, operation) => (name, operation),
    };
    // Here, as many of them may wait, and take no thread.
    call.server.engine.make_way_for(&name).await;
    if operation.uses_what_is_there() {
        call.server.engine.open_for(&name).await;
    }
    let done = match operation {
        Operation::Write => documents::write(call, &name, body).await,
        Operation::StartCopy => documents::start_copy(call, &name, &body),
        Operation::PollCopy(token) => documents::poll_copy(call, &name, &token),
        Operation::Query => documents::query(call, &name, body).await,
        Operation::Explain => documents::explain(call, &name, &body).await,
        Operation::Recall => documents::recall(call, &name, &body).await,
        Operation::Create => namespaces::create(call, &name, &body).await,
        Operation::Metadata(first_version) => namespaces::metadata(call, &name, first_version),
        Operation::UpdateMetadata => namespaces::update_metadata(call, &name, &body).await,
        Operation::Schema => namespaces::schema(call, &name),
        Operation::UpdateSchema => namespaces::update_schema(call, &name, &body).await,
        Operation::HintCacheWarm => namespaces::hint_cache_warm(call, &name),
        Operation::WarmCache => namespaces::warm_cache(call, &name),
        Operation::PurgeCache => namespaces::purge_cache(call, &name),
        Operation::Status => namespaces::status(call, &name).await,
        Operation::Labels => namespaces::labels(call, &name, &body).await,
        Operation::Pin => namespaces::pin(call, &name, true).await,
        Operation::Unpin => namespaces::pin(call, &name, false).await,
        Operation::Checkpoint => namespaces::checkpoint(call, &name).await,
        Operation::Compact => namespaces::compact(call, &name).await,
        Operation::Ids => namespaces::ids(call, &name, &body).await,
        Operation::Delete => namespaces::delete(call, &name).await,
        Operation::Ttl => lineage::put_ttl(call, &name, &body).await,
        Operation::History => lineage::history(call, &name),
        Operation::Tags => lineage::tags(call, &name),
        Operation::Tag(tag) => lineage::tag(call, &name, &tag),
        Operation::PutTag(tag) => lineage::put_tag(call, &name, &tag, &body).await,
        Operation::DeleteTag(tag) => lineage::delete_tag(call, &name, &tag).await,
        Operation::Undelete => lineage::undelete(call, &name, &body).await,
        Operation::Revert => lineage::revert(call, &name, &body).await,
        Operation::Merging(what) => merge::carry_out(call, &name, what, &body).await,
        Operation::Sync => sync::sync_one(call, &name, &body).await,
        Operation::Transfer(transfer) => transfer::carry_out(call, &name, transfer, &body).await,
    };
    done.inspect_err(|error| call.server.engine.note_damage(&name, error))
}

/// A body as JSON; where none is needed an empty one is `{}`.
fn json(body: &Received, may_be_empty: bool) -> Result<Json> {
    if may_be_empty && body.bytes.is_empty() {
        return Ok(Json::Object(serde_json::Map::new()));
    }
    parse(&body.bytes, shape::parse)
}

/// Takes a body apart, beside the threads that wait for sockets when it is large.
fn parse<T>(bytes: &[u8], parser: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
    if bytes.len() > PARSE_BESIDE_BYTES {
        return tokio::task::block_in_place(|| parser(bytes));
    }
    parser(bytes)
}

/// Runs what computes or reads files, beside the threads that wait for sockets. A defect in it ends this request only.
fn beside<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    tokio::task::block_in_place(|| {
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
            Err(Error::internal("a defect ended this request; the daemon's log says where, please report it"))
        })
    })
}
