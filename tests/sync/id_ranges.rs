//! Integers that nodes make ids of: no two nodes of one bucket give the same.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use shoal::engine::Engine;
use shoal::format::node::{IdBlocks, IdRange, decode_node, encode_node};
use shoal::model::ids::DocId;
use shoal::platform::disk::{Disk, publish};
use shoal::store::Patience;

use crate::clones::cloned;
use crate::fleet::{bucket, sync};
use crate::node::{Node, branch, name, put};

async fn ids(engine: &Arc<Engine>, namespace: &str) -> Vec<DocId> {
    engine.allocate_ids(&name(namespace), 3).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_began_at_the_same_block_give_different_ids_once_they_share_a_bucket() {
    let bucket = bucket(1);
    let mut given = BTreeSet::new();
    let mut engines = Vec::new();
    for at in 0..4 {
        let node = Node::new(at);
        let engine = node.open();
        engine.shutdown().await.unwrap();
        drop(engine);
        // The worst there can be: each begins at the same block.
        let path = Path::new("/data/node.json");
        let mut file = decode_node(&node.disk.read(path).unwrap(), "node.json").unwrap();
        file.id_blocks = Some(IdBlocks { first: 1_000, taken: 0 });
        publish(&node.disk, path, &encode_node(&file).unwrap()).unwrap();
        let engine = node.open();
        let own = format!("docs{at}");
        put(&engine, &own, 0..3, 1).await;
        let offline = ids(&engine, &own).await;
        assert_eq!(offline[0], DocId::Uint(1_000 << 32));
        sync(&node, &engine, &bucket).await.unwrap();
        if at == 0 {
            // Whoever comes first keeps what was given before.
            given.extend(offline);
        }
        assert_eq!(engine.id_ranges().len(), 1);
        engines.push((node, engine));
    }
    for round in 0..3 {
        for (at, (node, engine)) in engines.iter().enumerate() {
            let own = format!("docs{at}");
            branch(engine, &own, &format!("{own}-{round}")).await;
            for namespace in [own.clone(), format!("{own}-{round}")] {
                for id in ids(engine, &namespace).await {
                    assert!(given.insert(id.clone()), "{id:?} is given twice");
                }
            }
            sync(node, engine, &bucket).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_range_is_claimed_before_the_last_block_is_given_and_none_is_given_without() {
    let (bucket, node) = (bucket(2), Node::new(1));
    let engine = node.open();
    put(&engine, "docs", 0..3, 1).await;
    sync(&node, &engine, &bucket).await.unwrap();
    assert_eq!(engine.id_ranges().len(), 1);
    let mut given = BTreeSet::new();
    let mut refused = None;
    for n in 0..70 {
        let namespace = format!("fork{n}");
        branch(&engine, "docs", &namespace).await;
        match engine.allocate_ids(&name(&namespace), 1).await {
            Ok(ids) => given.extend(ids),
            Err(error) => refused = refused.or(Some((n, error))),
        }
    }
    let (at, error) = refused.unwrap();
    assert_eq!((given.len(), at, error.code()), (64, 64, "ids_unclaimed"), "{error}");
    sync(&node, &engine, &bucket).await.unwrap();
    assert_eq!(engine.id_ranges().len(), 2);
    // After a restart and a lost index, too.
    let engine = node.cut_power(engine);
    for n in 64..70 {
        assert!(given.insert(engine.allocate_ids(&name(&format!("fork{n}")), 1).await.unwrap().remove(0)));
    }
    for n in 70..122 {
        branch(&engine, "docs", &format!("fork{n}")).await;
        assert!(given.insert(engine.allocate_ids(&name(&format!("fork{n}")), 1).await.unwrap().remove(0)));
    }
    // Six are left: a third range is claimed, and taken of after those.
    sync(&node, &engine, &bucket).await.unwrap();
    for n in 122..140 {
        branch(&engine, "docs", &format!("fork{n}")).await;
        assert!(given.insert(engine.allocate_ids(&name(&format!("fork{n}")), 1).await.unwrap().remove(0)));
    }
    let listed = bucket.list_all("_ids", None, 100, &Patience::ASKED).await.unwrap();
    let (told, claims): (Vec<_>, Vec<_>) = listed.iter().partition(|found| found.key.matches('/').count() == 2);
    // Once for the blocks that were given between two syncs.
    assert_eq!((claims.len(), told.len()), (3, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_only_follows_claims_nothing() {
    let (bucket, node, mut other) = (bucket(3), Node::new(1), Node::new(2));
    let engine = node.open();
    put(&engine, "docs", 0..3, 1).await;
    sync(&node, &engine, &bucket).await.unwrap();
    other.config.followed =
        shoal::model::name_patterns::NamePatterns::parse("follow", &["*/*/*".to_owned()]).unwrap();
    let there = other.open();
    sync(&other, &there, &bucket).await.unwrap();
    sync(&other, &there, &bucket).await.unwrap();
    assert!(there.id_ranges().is_empty());
    assert_eq!(bucket.list_all("_ids", None, 100, &Patience::ASKED).await.unwrap().len(), 1);
}

fn range(range: u32) -> IdRange {
    IdRange { range, claim: uuid::Uuid::from_u128(u128::from(range)) }
}

/// Takes a block for each of `count` new namespaces, none of which was given before; how many there were.
async fn take(engine: &Arc<Engine>, count: usize, given: &mut BTreeSet<DocId>) -> usize {
    for taken in 0..count {
        let namespace = format!("fork{}", given.len());
        branch(engine, "docs", &namespace).await;
        let ids = engine.allocate_ids(&name(&namespace), 1).await;
        engine.delete(&name(&namespace)).await.unwrap();
        let Ok(ids) = ids else { return taken };
        assert!(given.insert(ids[0].clone()), "{:?} is given twice", ids[0]);
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn no_block_is_given_twice_in_whatever_order_ranges_are_claimed_and_lost() {
    let node = Node::new(1);
    let engine = node.open();
    put(&engine, "docs", 0..3, 1).await;
    let mut given = BTreeSet::new();
    // A range is followed by one that was claimed before it, and by the first of all, round the end.
    for claimed in [11, 500, 10, 0, 32_767] {
        engine.keep_id_range(range(claimed)).unwrap();
        let blocks = if claimed == 0 { 63 } else { 64 };
        assert_eq!(take(&engine, 70, &mut given).await, blocks, "range {claimed}");
    }
    // One that is lost is not gone on with, nor are those that were used up before.
    engine.keep_id_range(range(40)).unwrap();
    assert_eq!(take(&engine, 3, &mut given).await, 3);
    engine.give_up_id_range(40).unwrap();
    assert_eq!(take(&engine, 3, &mut given).await, 0);
    engine.keep_id_range(range(39)).unwrap();
    engine.keep_id_range(range(41)).unwrap();
    assert_eq!(take(&engine, 3, &mut given).await, 3);
    engine.give_up_id_range(39).unwrap();
    assert_eq!(take(&engine, 70, &mut given).await, 64);
    // What it has is not asked for again.
    assert!((0..100).filter_map(|_| engine.wants_id_range()).all(|wanted| wanted.range != 41));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_gave_blocks_again_goes_on_with_new_ones() {
    let node = Node::new(1);
    let engine = node.open();
    put(&engine, "docs", 0..3, 1).await;
    engine.shutdown().await.unwrap();
    drop(engine);
    let path = Path::new("/data/node.json");
    let mut file = decode_node(&node.disk.read(path).unwrap(), "node.json").unwrap();
    // As of a release that went from the end of a range on into the next one, whoever it was claimed for.
    file.id_ranges = vec![range(11), range(500), range(10)];
    file.id_blocks = Some(IdBlocks { first: 640, taken: 70 });
    publish(&node.disk, path, &encode_node(&file).unwrap()).unwrap();
    let engine = node.open();
    let mut given = BTreeSet::new();
    assert_eq!(take(&engine, 3, &mut given).await, 0);
    assert!(engine.wants_id_range().is_some());
    engine.keep_id_range(range(700)).unwrap();
    assert_eq!(take(&engine, 70, &mut given).await, 64);
    assert!(given.iter().all(|id| matches!(id, DocId::Uint(id) if *id >= (700 * 64) << 32)));
}

/// Makes a branch of `docs`, and documents there under ids that were asked for.
async fn branch_ids(engine: &Arc<Engine>, namespace: &str) -> Vec<DocId> {
    branch(engine, "docs", namespace).await;
    let ids = ids(engine, namespace).await;
    let integers = ids.iter().filter_map(|id| if let DocId::Uint(id) = id { Some(*id) } else { None });
    put(engine, namespace, integers, 1).await;
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_put_back_from_a_copy_gives_no_id_again_that_the_bucket_has_a_namespace_of() {
    let (bucket, [node, copy], [lost_engine, engine]) = cloned(4).await;
    let lost = branch_ids(&lost_engine, "before").await;
    sync(&node, &lost_engine, &bucket).await.unwrap();
    drop(lost_engine);
    sync(&copy, &engine, &bucket).await.unwrap();
    let claimed = engine.id_ranges();
    let given = branch_ids(&engine, "after").await;
    assert!(given.iter().all(|id| !lost.contains(id)), "{lost:?} {given:?}");
    // Neither is anything given up that is this node's alone.
    for round in 0..3 {
        sync(&copy, &engine, &bucket).await.unwrap();
        branch_ids(&engine, &format!("after{round}")).await;
    }
    assert_eq!((engine.id_ranges(), claimed.len()), (claimed, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_that_gave_the_same_ids_to_branches_of_their_own_go_on_with_others() {
    let (bucket, nodes, engines) = cloned(5).await;
    let both = branch_ids(&engines[0], "one").await;
    assert_eq!(both, branch_ids(&engines[1], "other").await, "nobody can know yet");
    for at in [0, 1, 0] {
        sync(&nodes[at], &engines[at], &bucket).await.unwrap();
    }
    let mut given: BTreeSet<DocId> = both.into_iter().collect();
    for (at, own) in [(0, "one"), (1, "other")] {
        for id in [ids(&engines[at], own).await, branch_ids(&engines[at], &format!("{own}-next")).await].concat() {
            assert!(given.insert(id.clone()), "{id:?} is given twice");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_that_both_synced_before_they_made_ids_make_different_ones() {
    for is_restarted in [true, false] {
        let (bucket, node) = (bucket(7), Node::new(1));
        let engine = node.open();
        put(&engine, "docs", 0..3, 1).await;
        let given = branch_ids(&engine, "before").await;
        let options = crate::fleet::options(shoal::engine::merge::decide::Policy::Lww);
        let link = shoal::sync::Sync::new(engine.clone(), bucket.clone(), options, node.clock.clone());
        link.run().await.unwrap();
        link.run().await.unwrap();
        // A copy of the disk of a node that goes on, or is started again.
        let copy = Node { disk: node.disk.duplicate(), ..Node::new(2) };
        copy.disk.power_cut(&*copy.random);
        let there = copy.open();
        sync(&copy, &there, &bucket).await.unwrap();
        match is_restarted {
            true => drop(sync(&node, &engine, &bucket).await.unwrap()),
            false => {
                node.clock.advance(3_600_000);
                for _ in 0..2 {
                    link.run().await.unwrap();
                }
            }
        }
        let mut given: BTreeSet<DocId> = given.into_iter().collect();
        for (engine, own) in [(&engine, "one"), (&there, "other")] {
            for id in [ids(engine, "before").await, branch_ids(engine, own).await].concat() {
                assert!(given.insert(id.clone()), "restarted: {is_restarted}, {id:?} is given twice");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_node_file_that_is_put_back_gives_no_block_again() {
    let (bucket, node) = (bucket(6), Node::new(1));
    let path = Path::new("/data/node.json");
    let put_back = |older: &[u8]| publish(&node.disk, path, older).unwrap();
    let engine = node.open();
    put(&engine, "docs", 0..3, 1).await;
    let mut given: BTreeSet<DocId> = branch_ids(&engine, "offline").await.into_iter().collect();
    engine.shutdown().await.unwrap();
    drop(engine);
    for round in 0..3 {
        let older = node.disk.read(path).unwrap();
        for more in ["more", "again"] {
            let engine = node.open();
            let more = branch_ids(&engine, &format!("{more}{round}")).await;
            assert!(more.into_iter().all(|id| given.insert(id)), "round {round}");
            engine.shutdown().await.unwrap();
            put_back(&older);
        }
        let engine = node.open();
        sync(&node, &engine, &bucket).await.unwrap();
        engine.shutdown().await.unwrap();
    }
    // One of before this node had other claims: nobody knows what it gave.
    let older = node.disk.read(path).unwrap();
    let engine = node.open();
    engine.leave_id_ranges().unwrap();
    sync(&node, &engine, &bucket).await.unwrap();
    given.extend(branch_ids(&engine, "parted").await);
    engine.shutdown().await.unwrap();
    drop(engine);
    put_back(&older);
    let engine = node.open();
    branch(&engine, "docs", "last").await;
    let refused = engine.allocate_ids(&name("last"), 1).await.unwrap_err();
    assert_eq!(refused.code(), "ids_unclaimed");
    assert!(engine.allocate_ids(&name("offline"), 1).await.is_err());
    sync(&node, &engine, &bucket).await.unwrap();
    for namespace in ["last", "offline"] {
        assert!(ids(&engine, namespace).await.into_iter().all(|id| given.insert(id)));
    }
}
