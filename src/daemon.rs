//! The composition root: configuration in, a running daemon out, stopped in order.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::api;
use crate::api::auth::Tokens;
use crate::api::limits::ServerConfig;
use crate::config::{Config, LogFormat, of_configuration};
use crate::engine::{Engine, EngineConfig, WAITED_TIMES};
use crate::error::{Context, Error, Result};
use crate::ops;
use crate::ops::metrics::Metrics;
use crate::ops::signals::Hangups;
use crate::platform::clock::SystemClock;
use crate::platform::open_files;
use crate::platform::random::SystemRandom;
use crate::platform::real_disk::RealDisk;
use crate::sync::Worker;

/// How often it is looked whether the index has to be rebuilt and what is kept for a time is due.
const INDEX_PAUSE: Duration = Duration::from_secs(30);
/// How often it is looked whether what failed is due again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long a stop waits for what upkeep is in the middle of.
const UPKEEP_GRACE: Duration = Duration::from_secs(10);

/// Files beside those of connections and of namespaces' logs: the index, what is just written or mapped, connections to a bucket.
const FILES_RESERVED: usize = 128;
/// Where files are few, connections have one in so many of them at most, and one in so many is for what is beside.
const CONNECTIONS_SHARE: usize = 2;
const RESERVED_SHARE: usize = 4;

/// How a daemon gets to know that its settings changed.
pub struct Reload {
    pub asked: Hangups,
    /// Reads all settings again, from where they came at the start.
    pub read: Box<dyn Fn() -> Result<Config> + Send>,
}

/// After a rebuild that failed, or that was not good for long, the next one waits twice as many pauses each time, and at most so many:
/// about ten minutes.
const REBUILD_PAUSES_MAX: u32 = 20;
/// A rebuild that was good for so many pauses was good.
const QUIET_PAUSES: u32 = 20;

/// Runs until `stop` is done; `ready` is told the address once requests are answered. Requests under way finish, logs are
/// sealed, and the index is closed before it returns.
pub async fn run(
    config: Config,
    reload: Option<Reload>,
    stop: impl Future<Output = ()> + Send + 'static,
    ready: impl FnOnce(SocketAddr),
) -> Result<()> {
    let tokens = config.auth.tokens()?;
    let tokens = (!tokens.is_empty()).then(|| Tokens::new(tokens));
    let fitting = raise_open_files(&config);
    let engine = tokio::task::block_in_place(|| {
        Engine::open(engine_config(&fitting)?, Arc::new(RealDisk), Arc::new(SystemClock), Arc::new(SystemRandom))
    })?;
    let sync = open_bucket(&config, &engine)?;
    let listen = config.server.listen;
    let listener = TcpListener::bind(listen).await.map_err(|error| not_listening(listen, error))?;
    let address = listener.local_addr().context(|| format!("listen on {listen}"))?;
    let rebuilding = tokio::spawn(keep_index(engine.clone(), sync.clone()));
    let retrying = tokio::spawn(try_again(engine.clone()));
    let syncing = sync.clone().map(|worker| tokio::spawn(worker.run()));
    let reclaiming = sync.clone().map(|worker| tokio::spawn(worker.keep_clean()));
    tracing::info!(%address, data_dir = %config.storage.data_dir.display(), "shoal answers requests");
    ops::systemd::ready(&address.to_string());
    let watched = engine.clone();
    let watchdog = tokio::spawn(ops::systemd::feed_watchdog(move || watched.is_alive()));
    ready(address);
    let asked_to_stop = sync.clone();
    let stopping = async move {
        stop.await;
        ops::systemd::stopping();
        // Requests that wait for the bucket are answered now, so that they do not hold the stop.
        asked_to_stop.inspect(|worker| worker.stop());
        tracing::info!("stopping: requests under way finish");
    };
    let reloading = reload.map(|reload| tokio::spawn(follow_settings(reload, config.clone(), tokens.clone())));
    let served = api::server::serve(listener, server_config(&fitting, tokens, sync), engine.clone(), stopping).await;
    if let Some(syncing) = syncing
        && let Err(error) = syncing.await
    {
        tracing::error!(%error, "sync ended by a defect, please report it");
    }
    if let Some(reclaiming) = reclaiming {
        reclaiming.abort();
    }
    if let Some(reloading) = reloading {
        reloading.abort();
    }
    watchdog.abort();
    engine.begin_to_stop();
    for upkeep in [rebuilding, retrying] {
        upkeep.abort();
        // It ends where it waits next; what it is in the middle of is in the index before that is closed.
        let _ = tokio::time::timeout(UPKEEP_GRACE, upkeep).await;
    }
    engine.shutdown().await.context(|| "stop")?;
    tracing::info!("stopped");
    served
}

/// Has as many files open as the machine lets it. Gives settings that fit into these, and says so where they are others.
fn raise_open_files(config: &Config) -> Config {
    let mut fitting = config.clone();
    match open_files::raise_limit() {
        Ok(Some(limit)) => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let (namespaces, connections) = (config.storage.open_namespaces_max, config.server.connections_max);
            let fit = fit_files(limit, namespaces, connections);
            (fitting.storage.open_namespaces_max, fitting.server.connections_max) = fit;
            if fit != (namespaces, connections) {
                tracing::warn!(
                    limit,
                    wanted = files_wanted(namespaces, connections),
                    open_namespaces_max = fit.0,
                    connections_max = fit.1,
                    "few files may be open, so fewer namespaces and connections are than the settings say: raise the hard limit \
                     (LimitNOFILE, ulimit -Hn), or lower storage.open_namespaces_max and server.connections_max"
                );
            }
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "the limit on open files stays as it is"),
    }
    fitting
}

/// How many files may be open with so many namespaces and connections. Of a namespace that is its log; of flushes, which have more,
/// there is one at a time.
fn files_wanted(namespaces: usize, connections: usize) -> usize {
    namespaces.saturating_mul(WAITED_TIMES).saturating_add(connections).saturating_add(FILES_RESERVED)
}

/// So many namespaces and connections at most, as far as so many files can be open.
fn fit_files(limit: usize, namespaces: usize, connections: usize) -> (usize, usize) {
    if files_wanted(namespaces, connections) <= limit {
        return (namespaces, connections);
    }
    let connections = connections.min(limit / CONNECTIONS_SHARE).max(1);
    let reserved = FILES_RESERVED.min(limit / RESERVED_SHARE);
    let left = limit.saturating_sub(connections).saturating_sub(reserved);
    (namespaces.min(left / WAITED_TIMES).max(1), connections)
}

/// Puts new tokens and log directives in force whenever it is asked to. Settings that are wrong change nothing.
async fn follow_settings(mut reload: Reload, mut config: Config, tokens: Option<Tokens>) {
    loop {
        reload.asked.next().await;
        match tokio::task::block_in_place(|| apply_settings(&(reload.read)()?, &config, tokens.as_ref())) {
            Ok(next) => {
                tracing::info!(level = %next.log.level, "settings are reloaded: the tokens and the log level");
                config = next;
            }
            Err(error) => tracing::error!(%error, "settings are not reloaded, those in force stay"),
        }
    }
}

/// Gives the settings in force afterwards.
fn apply_settings(new: &Config, old: &Config, tokens: Option<&Tokens>) -> Result<Config> {
    let found = new.auth.tokens()?;
    ops::log::change(&new.log.level)?;
    let mut next = old.clone();
    next.log.level = new.log.level.clone();
    match tokens {
        Some(tokens) if !found.is_empty() => {
            tokens.replace(found);
            next.auth = new.auth.clone();
        }
        // A daemon that asks for no token does not begin to, and one that does never stops asking.
        _ => {}
    }
    if next != *new {
        tracing::warn!("other settings changed, too: they take effect with the next start");
    }
    Ok(next)
}

fn not_listening(listen: SocketAddr, error: std::io::Error) -> Error {
    let is_taken = error.kind() == std::io::ErrorKind::AddrInUse;
    let error = Error::from(error).context(format!("listen on {listen}"));
    if is_taken {
        return error.with_hint("stop the program that listens there, or choose another address with --listen");
    }
    error
}

/// Rebuilds what is not known to be right and removes what nobody needs: at the start, and whenever the index had an error.
/// Lets go of what is kept for a time, and makes segments of old tails, rebuilt or not.
async fn keep_index(engine: Arc<Engine>, sync: Option<Arc<Worker>>) {
    let (mut pauses, mut quiet) = (0, QUIET_PAUSES);
    loop {
        let working = engine.clone();
        let done = tokio::task::spawn_blocking(move || working.rebuild_index()).await;
        // After that: who stops soon after a start leaves an index that is right.
        engine.make_reserve().await;
        pauses = match &done {
            Ok(done) => rebuild_pauses(pauses, done.is_ok(), quiet),
            Err(_) => 0,
        };
        // One of many does not say that it is over: the upkeep after it does.
        if let Ok(done) = done.as_ref()
            && (done.is_err() || pauses == 0)
        {
            engine.note_upkeep(done);
        }
        let mut waited = 0;
        quiet = 0;
        loop {
            tokio::time::sleep(INDEX_PAUSE).await;
            waited += 1;
            match engine.is_index_trusted() {
                true => quiet += 1,
                false if waited >= pauses => break,
                false => {}
            }
            let store = sync.as_ref().and_then(|worker| worker.store_clock());
            let now = tokio::task::block_in_place(|| engine.believed_time(store));
            let done = engine.tend_at(now).await;
            engine.note_upkeep(&done);
        }
    }
}

/// How many pauses the next rebuild waits at least: by how many this one waited, and how many the one before it was good for.
fn rebuild_pauses(before: u32, is_done: bool, quiet: u32) -> u32 {
    if is_done && quiet >= QUIET_PAUSES { 0 } else { (before * 2).clamp(1, REBUILD_PAUSES_MAX) }
}

/// Tries again what failed in the background, when it is due.
async fn try_again(engine: Arc<Engine>) {
    loop {
        tokio::time::sleep(RETRY_PAUSE).await;
        engine.try_again().await;
    }
}

/// Starts the log that `config` asks for.
pub fn start_log(config: &Config) -> Result<()> {
    ops::log::start(&config.log.level, config.log.format == LogFormat::Json)
        .map_err(|error| crate::config::wrong(error.message()))
}

fn engine_config(config: &Config) -> Result<EngineConfig> {
    let storage = &config.storage;
    Ok(EngineConfig {
        flush_bytes: storage.flush_bytes,
        log_bytes_max: storage.log_bytes_max,
        flush_interval_ms: storage.flush_interval_minutes.saturating_mul(60_000),
        open_namespaces_max: storage.open_namespaces_max,
        tail_bytes_max: storage.tail_bytes_max,
        tails_bytes_max: storage.tails_bytes_max,
        write_filter_ms: config.server.query_timeout_ms,
        idempotency_keys_max: storage.idempotency_keys_max,
        compaction_bytes_per_second: storage.compaction_bytes_per_second,
        retention_ms: storage.retention_hours.saturating_mul(3_600_000),
        retention_disk_percent: storage.retention_disk_percent,
        recall: config.search.recall,
        tier_bytes_max: storage.tier_bytes_max,
        followed: config.followed()?,
        has_bucket: config.worker()?.is_some(),
        ..EngineConfig::new(&storage.data_dir)
    })
}

/// What keeps the node and its bucket together, if it has one. Nothing is asked of the network.
fn open_bucket(config: &Config, engine: &Arc<Engine>) -> Result<Option<Arc<Worker>>> {
    let Some(settings) = config.worker()? else { return Ok(None) };
    let (clock, random) = (Arc::new(SystemClock), Arc::new(SystemRandom));
    let worker =
        Worker::new(engine.clone(), settings, clock, random).map_err(|error| of_configuration("", &error))?;
    tracing::info!(bucket = config.bucket.url, "sync with a bucket");
    Ok(Some(Arc::new(worker)))
}

fn server_config(config: &Config, tokens: Option<Tokens>, sync: Option<Arc<Worker>>) -> ServerConfig {
    let server = &config.server;
    ServerConfig {
        tokens,
        allowed_hosts: server.allowed_hosts.clone(),
        connections_max: server.connections_max,
        header_timeout_ms: server.header_timeout_ms,
        body_idle_timeout_ms: server.body_idle_timeout_ms,
        request_timeout_ms: server.request_timeout_ms,
        body_bytes_max: server.body_bytes_max,
        ingest_bytes_max: server.ingest_bytes_max,
        queries_concurrent_max: server.queries_concurrent_max,
        query_timeout_ms: server.query_timeout_ms,
        query_bytes_max: server.query_bytes_max,
        metrics: Some(Arc::new(Metrics::new())),
        sync,
        ..ServerConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::{FILES_RESERVED, QUIET_PAUSES, REBUILD_PAUSES_MAX, files_wanted, fit_files, rebuild_pauses};

    #[test]
    fn settings_stay_where_they_fit_into_the_limit_on_open_files_and_are_bounded_by_it_elsewhere() {
        assert_eq!(files_wanted(500, 1_024), 2_000 + 1_024 + FILES_RESERVED);
        for limit in [usize::MAX, 4_096, files_wanted(500, 1_024)] {
            assert_eq!(fit_files(limit, 500, 1_024), (500, 1_024));
        }
        assert_eq!(fit_files(1_024, 500, 1_024), (96, 512));
        assert_eq!(fit_files(1_024, 500, 100), (199, 100));
        // As few as a process can begin with.
        assert_eq!((fit_files(64, 500, 1_024), fit_files(0, 500, 1_024)), ((4, 32), (1, 1)));
        for limit in 20..4_000 {
            let (namespaces, connections) = fit_files(limit, 500, 1_024);
            assert!(4 * namespaces + connections <= limit, "{namespaces} namespaces and {connections} connections");
        }
    }

    #[test]
    fn rebuilds_that_follow_soon_wait_longer_each_time_and_a_quiet_time_ends_that() {
        // The first of a process, and one after a long time.
        assert_eq!(rebuild_pauses(0, true, QUIET_PAUSES), 0);
        let mut waits = vec![0];
        for good_for in [0, 1, 0, 3, QUIET_PAUSES - 1, 1, 1] {
            waits.push(rebuild_pauses(waits[waits.len() - 1], true, good_for));
        }
        assert_eq!(waits, [0, 1, 2, 4, 8, 16, REBUILD_PAUSES_MAX, REBUILD_PAUSES_MAX]);
        assert_eq!(rebuild_pauses(REBUILD_PAUSES_MAX, true, QUIET_PAUSES), 0);
        // One that failed waits whatever was before.
        assert_eq!((rebuild_pauses(0, false, QUIET_PAUSES), rebuild_pauses(4, false, QUIET_PAUSES)), (1, 8));
    }
}
