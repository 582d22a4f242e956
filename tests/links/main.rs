//! Daemons and a real store, with links between them that break, fall silent and lose answers, and processes that are killed: once
//! all of it is well again, everybody has every write that was acknowledged.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod apart;
#[path = "../support/daemon.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod daemon;
mod node;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/servers.rs"]
mod started;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use shoal::store::{Bucket, BucketConfig};

use self::node::{Daemon, until};
use self::proxy::{Proxy, Weather};
use self::started::{Server, azurite, moto, seaweedfs};

const NODES: u64 = 3;
/// What each node writes in a round that nobody else writes, and how many rounds there are.
const OWN: u64 = 20;
const ROUNDS: u64 = 4;
/// So many connections of each link meet with something before a round is over.
const HARMED: u64 = 4;

/// The store's configuration by way of a link of its own.
fn through(server: &Server, seed: u64) -> (Proxy, BucketConfig) {
    let mut config = server.config("links");
    let endpoint = config.endpoint.take().unwrap();
    let host = endpoint.split('/').nth(2).unwrap();
    let proxy = Proxy::new(host.parse().unwrap(), seed);
    config.endpoint = Some(endpoint.replace(host, &proxy.address.to_string()));
    (proxy, config)
}

struct Node {
    daemon: Daemon,
    link: Proxy,
}

/// Whether all have the same after a pass, and what that is.
fn same(nodes: &[Node], namespace: &str) -> Option<BTreeMap<u64, u64>> {
    nodes.iter().for_each(|node| node.daemon.sync());
    let first = nodes[0].daemon.all(namespace)?;
    nodes[1..].iter().all(|node| node.daemon.all(namespace).as_ref() == Some(&first)).then_some(first)
}

fn told(nodes: &[Node]) -> Value {
    nodes.iter().map(|node| node.daemon.status()).collect()
}

/// What the store has lasts when it is killed, or it is not killed.
fn everybody_has_everything(mut server: Server, lasts: bool) {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes: Vec<Node> = Vec::new();
    for at in 0..NODES {
        let (link, config) = through(&server, at);
        let daemon = Daemon::start(&dir.path().join(format!("node{at}")), &config);
        if at == 0 {
            // Two that create a namespace of one name apart keep both.
            assert!(daemon.put("docs", 0, 0, &[]));
        }
        nodes.push(Node { daemon, link });
        let node = &nodes[at as usize].daemon;
        until(
            "a namespace",
            || told(&nodes),
            || {
                node.sync();
                node.all("docs").is_some()
            },
        );
    }
    let mut acknowledged: BTreeMap<u64, u64> = [(0, 0)].into();
    let mut deleted: Vec<u64> = Vec::new();
    for round in 1..=ROUNDS {
        for node in &nodes {
            node.link.set(Weather::Storm);
        }
        let harmed: Vec<u64> = nodes.iter().map(|node| node.link.harmed()).collect();
        for n in 0..OWN {
            for (at, node) in nodes.iter().enumerate() {
                let id = 10_000 * (at as u64 + 1) + 100 * round + n;
                assert!(node.daemon.put("docs", id, n, &[]), "a node writes whatever its link does");
                acknowledged.insert(id, n);
                // What all of them write.
                node.daemon.put("docs", 1 + n % 4, 1_000 * round + 10 * n + at as u64, &[]);
            }
        }
        for (at, node) in nodes.iter().enumerate() {
            let id = 10_000 * (at as u64 + 1) + 100 * round;
            node.daemon.post("/v2/namespaces/docs", &json!({"deletes": [id]}));
            acknowledged.remove(&id);
            deleted.push(id);
        }
        match round {
            1 => {
                nodes[0].daemon.post("/v2/namespaces/try", &json!({"branch_from_namespace": "docs"}));
                for id in 50_000..50_000 + OWN {
                    assert!(nodes[0].daemon.put("try", id, id, &[]));
                    acknowledged.insert(id, id);
                }
            }
            2 => {
                nodes[1].daemon.kill();
                nodes[1].daemon.restart();
            }
            3 if lasts => server.kill(),
            3 => {}
            _ => {
                nodes[0].daemon.post("/v1/namespaces/docs/merge", &json!({"source": "try", "policy": "lww"}));
                nodes[2].link.set(Weather::Silent);
            }
        }
        if round == 3 {
            nodes[0].daemon.kill();
            if lasts {
                server.restart();
            }
            nodes[0].daemon.restart();
        }
        until(
            "weather",
            || told(&nodes),
            || {
                let talking = if round == ROUNDS { &nodes[..2] } else { &nodes[..] };
                talking.iter().for_each(|node| node.daemon.sync());
                talking.iter().zip(&harmed).all(|(node, before)| node.link.harmed() >= before + HARMED)
            },
        );
        assert!(nodes.iter().all(|node| node.daemon.is_ready()));
    }
    // Acknowledged in the bucket, then the node is gone with all it had, in the middle of the weather.
    nodes[2].link.set(Weather::Storm);
    until(
        "a write in the bucket",
        || told(&nodes),
        || nodes[2].daemon.put("docs", 77_777, 7, &["prefer: wait=bucket"]),
    );
    acknowledged.insert(77_777, 7);
    let own: Vec<u64> = acknowledged.keys().copied().filter(|id| id / 10_000 == 3).collect();
    nodes[2].daemon.kill();
    let (link, config) = through(&server, 9);
    nodes[2] = Node { daemon: Daemon::start(&dir.path().join("another"), &config), link };
    for node in &nodes {
        node.link.set(Weather::Clear);
    }
    let has_all = |found: &BTreeMap<u64, u64>| {
        let is_gone = |id: &u64| !found.contains_key(id);
        acknowledged.iter().all(|(id, n)| found.get(id) == Some(n)) && deleted.iter().all(is_gone)
    };
    until(
        "everybody having everything",
        || told(&nodes),
        || same(&nodes, "docs").is_some_and(|found| has_all(&found)) && same(&nodes, "try").is_some(),
    );
    let found = same(&nodes, "docs").unwrap();
    assert_eq!(found.len(), acknowledged.len() + 4);
    assert!(
        own.iter().all(|id| found.contains_key(id)),
        "what was written before an answer that waited for the bucket is there, too"
    );
    until(
        "conflicts on all nodes",
        || told(&nodes),
        || {
            let kept: Vec<usize> = nodes.iter().map(|node| node.daemon.conflicts("docs")).collect();
            kept[0] > 0 && kept.iter().all(|count| *count == kept[0])
        },
    );
    let (link, config) = through(&server, 10);
    nodes.push(Node { daemon: Daemon::start(&dir.path().join("fresh"), &config), link });
    until("a fresh node having everything", || told(&nodes), || same(&nodes, "docs").is_some());
    for node in &nodes {
        println!("RUN: something happened to {} connections", node.link.harmed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_any_weather_everybody_has_everything_in_seaweedfs() {
    if let Some((server, _)) = seaweedfs().await {
        tokio::task::block_in_place(|| everybody_has_everything(server, true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_any_weather_everybody_has_everything_in_azurite() {
    if let Some((server, _)) = azurite().await {
        tokio::task::block_in_place(|| everybody_has_everything(server, false));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_link_carries_everything_in_the_end_and_nobody_waits_for_it() {
    let found: Option<(Server, Bucket)> = moto().await;
    let Some((server, _)) = found else { return };
    tokio::task::block_in_place(|| {
        let dir = tempfile::tempdir().unwrap();
        let (link, config) = through(&server, 1);
        link.set(Weather::Slow(20_000));
        let one = Node { daemon: Daemon::start(&dir.path().join("one"), &config), link };
        for id in 0..300 {
            assert!(one.daemon.put("docs", id, id, &[]));
        }
        let (link, config) = through(&server, 2);
        let other = Node { daemon: Daemon::start(&dir.path().join("other"), &config), link };
        let nodes = [one, other];
        until(
            "everybody having everything",
            || told(&nodes),
            || same(&nodes, "docs").is_some_and(|found| found.len() == 300),
        );
    });
}
