//! The same by HTTP and by the command line, against a daemon and on a data directory.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use serde_json::{Value, json};
use shoal::api::auth::{Scope, Token, Tokens};
use shoal::api::limits::ServerConfig;
use shoal::engine::{Engine, EngineConfig};
use shoal::model::ids::Project;
use shoal::platform::clock::SystemClock;
use shoal::platform::random::SystemRandom;
use shoal::platform::real_disk::RealDisk;

use super::client::Daemon;
use super::node::{contents, fill, name, row, rows, write};

fn shoal(daemon: Option<&Daemon>, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
    command.env_clear().args(arguments);
    if let Some(daemon) = daemon {
        command.env("SHOAL_URL", format!("http://{}", daemon.address));
    }
    command.output().unwrap()
}

/// Runs a command that must succeed; gives what it printed.
fn done(daemon: Option<&Daemon>, arguments: &[&str]) -> String {
    let output = shoal(daemon, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must fail; gives its exit code and what it said.
fn refused(daemon: Option<&Daemon>, arguments: &[&str]) -> (i32, String) {
    let output = shoal(daemon, arguments);
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// The lines of an export between the first and the last, in order.
fn documents(export: &str) -> Vec<&str> {
    let mut lines: Vec<&str> =
        export.lines().skip(1).filter(|line| !line.starts_with("{\"shoal_export_end\"")).collect();
    lines.sort_unstable();
    lines
}

fn filled() -> Daemon {
    let daemon = Daemon::start();
    daemon.write("docs", &rows(0, 20));
    assert_eq!(daemon.post("/v1/namespaces/docs/checkpoint", &json!({})).status, 200);
    daemon.write("docs", &rows(15, 30));
    daemon.write("docs", &json!({"deletes": [row(2)["id"], row(17)["id"]]}));
    daemon
}

fn is_there(daemon: &Daemon, namespace: &str) -> bool {
    daemon.get(&format!("/v1/namespaces/{namespace}/status")).status == 200
}

#[test]
fn an_export_is_imported_into_an_equal_namespace() {
    let (daemon, dir) = (filled(), tempfile::tempdir().unwrap());
    let export = done(Some(&daemon), &["export", "docs"]);
    assert_eq!(documents(&export).len(), 28);
    let file = dir.path().join("docs.ndjson");
    let path = file.to_str().unwrap();
    done(Some(&daemon), &["export", "docs", "--file", path]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), export);
    assert_eq!(done(Some(&daemon), &["import", "back", "--file", path]), "28 documents imported into back\n");
    assert_eq!(documents(&done(Some(&daemon), &["export", "back"])), documents(&export));
    // At an earlier state.
    daemon.write("docs", &json!({"deletes": [row(0)["id"]]}));
    let status = daemon.get("/v1/namespaces/docs/status").json();
    let generation = status["generation"].to_string();
    assert_eq!(daemon.post("/v1/namespaces/docs/checkpoint", &json!({})).status, 200);
    assert_eq!(documents(&done(Some(&daemon), &["export", "docs"])).len(), 27);
    let earlier = done(Some(&daemon), &["export", "docs", "--as-of", &generation]);
    assert!(documents(&earlier).len() < 28 && documents(&earlier).len() >= 19, "{}", documents(&earlier).len());
    // Cut short.
    std::fs::write(&file, &export[..export.len() * 2 / 3]).unwrap();
    let (code, said) = refused(Some(&daemon), &["import", "cut", "--file", path]);
    assert_eq!(code, 1);
    assert!(said.contains("HTTP 400"), "{said}");
    assert!(!is_there(&daemon, "cut"));
    let (_, said) = refused(Some(&daemon), &["import", "docs", "--file", path]);
    assert!(said.contains("already exists"), "{said}");
}

#[test]
fn a_snapshot_is_written_verified_and_restored() {
    let (daemon, dir) = (filled(), tempfile::tempdir().unwrap());
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let expected = done(Some(&daemon), &["export", "docs"]);
    let same = |namespace: &str| {
        assert_eq!(documents(&done(Some(&daemon), &["export", namespace])), documents(&expected), "{namespace}");
    };
    let (full, flat, increment) = (path("full"), path("flat"), path("increment"));
    let taken: Value = serde_json::from_str(&done(Some(&daemon), &["snapshot", "docs", &full, "--json"])).unwrap();
    assert_eq!(taken["bytes"], std::fs::metadata(&full).unwrap().len());
    assert_eq!(done(Some(&daemon), &["restore", &full, "back"]), "28 documents restored to back\n");
    same("back");
    done(Some(&daemon), &["snapshot", "docs", &flat, "--flatten"]);
    done(Some(&daemon), &["restore", &flat, "flat"]);
    same("flat");
    daemon.write("docs", &rows(50, 55));
    let since = taken["commit"].as_str().unwrap();
    done(Some(&daemon), &["snapshot", "docs", &increment, "--since", since]);
    done(Some(&daemon), &["restore", &increment, "next", "--base", "back"]);
    same("back");
    done(Some(&daemon), &["restore", &increment, "back"]);
    for namespace in ["next", "back"] {
        assert_eq!(documents(&done(Some(&daemon), &["export", namespace])).len(), 33);
    }
    let (code, said) = refused(Some(&daemon), &["restore", &increment, "flat"]);
    assert!(code == 4 && said.contains("consists of other segments"), "{code} {said}");
    // Cut short: nothing of it is seen.
    let whole = std::fs::read(&full).unwrap();
    std::fs::write(path("cut"), &whole[..whole.len() / 2]).unwrap();
    let (code, said) = refused(Some(&daemon), &["restore", &path("cut"), "cut"]);
    assert!(code == 1 && said.contains("it is cut short") && said.contains("nothing was changed"), "{code} {said}");
    assert!(!is_there(&daemon, "cut"));
    let (code, _) = refused(Some(&daemon), &["snapshot", "missing", &path("missing")]);
    assert_eq!((code, Path::new(&path("missing")).exists()), (3, false));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4, "something is left over");
}

#[test]
fn conflicts_are_listed_and_settled_where_a_snapshot_was_restored() {
    let (daemon, dir) = (Daemon::start(), tempfile::tempdir().unwrap());
    daemon.write("docs", &json!({"upsert_rows": [{"id": 1, "n": 1}, {"id": 2, "n": 1}]}));
    daemon.write("side", &json!({"branch_from_namespace": "docs"}));
    daemon.write("docs", &json!({"upsert_rows": [{"id": 1, "n": 2}, {"id": 2, "n": 2}]}));
    daemon.write("side", &json!({"upsert_rows": [{"id": 1, "n": 3}], "deletes": [2]}));
    let merged = daemon.post("/v1/namespaces/docs/merge", &json!({"source": "side", "policy": "ours"}));
    assert_eq!(merged.status, 200, "{}", merged.text());
    let listed = done(Some(&daemon), &["conflicts", "docs"]);
    let states: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(states.len(), 2, "{listed}");
    let file = dir.path().join("docs").to_str().unwrap().to_owned();
    done(Some(&daemon), &["snapshot", "docs", &file]);
    done(Some(&daemon), &["restore", &file, "back"]);
    done(Some(&daemon), &["copy", "docs", "copy", "--deep"]);
    assert_eq!(daemon.send("DELETE", "/v1/namespaces/docs", &[], b"").status, 200);
    for namespace in ["back", "copy"] {
        assert_eq!(done(Some(&daemon), &["conflicts", namespace]), listed);
        let path = format!("/v1/namespaces/{namespace}/conflicts");
        assert_eq!(daemon.get(&path).text(), listed);
        let of = |id: u64| states.iter().find(|state| state["id"] == id).unwrap()["token"].as_str().unwrap();
        done(Some(&daemon), &["conflicts", namespace, "--replay", of(1)]);
        done(Some(&daemon), &["conflicts", namespace, "--ack", of(2)]);
        assert_eq!(done(Some(&daemon), &["conflicts", namespace]), "");
        let export = done(Some(&daemon), &["export", namespace]);
        assert!(export.contains("\"n\":3") && documents(&export).len() == 2, "{export}");
    }
}

#[test]
fn a_deep_copy_goes_into_another_project() {
    let daemon = filled();
    assert_eq!(done(Some(&daemon), &["copy", "docs", "shallow"]), "28 documents copied to shallow\n");
    assert_eq!(done(Some(&daemon), &["copy", "docs", "deep", "--deep"]), "28 documents copied to deep\n");
    let url = format!("http://{}/acme/search", daemon.address);
    done(None, &["copy", "default/default/docs", "theirs", "--deep", "--url", &url]);
    assert_eq!(daemon.send("DELETE", "/v1/namespaces/docs", &[], b"").status, 200);
    let theirs = done(None, &["export", "theirs", "--url", &url]);
    assert_eq!(documents(&theirs), documents(&done(Some(&daemon), &["export", "shallow"])));
    let (code, said) = refused(Some(&daemon), &["copy", "acme/search/theirs", "here"]);
    assert!(code == 1 && said.contains("project"), "{said}");
    let reply = daemon.post("/v1/namespaces/x/copy", &json!({"source": "docs", "deep": "yes"}));
    assert_eq!(reply.status, 422, "{}", reply.text());
    assert_eq!(daemon.post("/v1/namespaces/x/copy", &json!({"deep": true})).status, 422);
    assert_eq!(daemon.post("/v1/namespaces/x/copy", &json!({"source": "../docs"})).status, 400);
}

#[test]
fn requests_that_are_wrong_are_refused_and_leave_nothing() {
    let daemon = filled();
    let get = |path: &str| daemon.get(&format!("/v1/namespaces/docs/{path}")).status;
    for wrong in ["export?as_of=", "export?since=1", "export?as_of=1&as_of=2", "snapshot?flatten=maybe"] {
        assert_eq!(get(wrong), 400, "{wrong}");
    }
    assert_eq!(get("snapshot?since=1&flatten=true"), 400);
    assert_eq!(get("snapshot?since=none"), 404);
    let put =
        |headers: &[(&str, &str)]| daemon.send("PUT", "/v1/namespaces/new/restore", headers, b"whatever").status;
    assert_eq!(put(&[]), 415);
    assert_eq!(put(&[("content-type", "application/octet-stream")]), 400);
    assert_eq!(put(&[("content-type", "application/octet-stream"), ("content-encoding", "gzip")]), 415);
    let post = |kind: &str, body: &[u8]| {
        daemon.send("POST", "/v1/namespaces/new/import", &[("content-type", kind)], body).status
    };
    assert_eq!(post("application/json", b"{}"), 415);
    assert_eq!(post("application/x-ndjson", b"{\"id\":1}\n"), 400);
    assert_eq!(post("application/x-ndjson", b""), 400);
    // A client that goes away in the middle.
    let mut stream = daemon.connect();
    let head = format!(
        "PUT /v1/namespaces/new/restore HTTP/1.1\r\nhost: {}\r\ncontent-type: application/octet-stream\r\n\
         content-length: 100000\r\n\r\nSHOALSNP",
        daemon.address
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
    assert!(!is_there(&daemon, "new"));
}

#[test]
fn a_token_must_be_good_for_both_sides() {
    let project = Project::new("acme", "search").unwrap();
    let tokens = vec![Token::new("theirs", Scope::Write, Some(project)), Token::new("reader", Scope::Read, None)];
    let daemon = Daemon::with(ServerConfig { tokens: Some(Tokens::new(tokens)), ..ServerConfig::default() });
    let theirs = ("authorization", "Bearer theirs");
    let copy = json!({"source": "default/default/docs", "deep": true}).to_string();
    let reply = daemon.send("POST", "/acme/search/v1/namespaces/x/copy", &[theirs], copy.as_bytes());
    assert_eq!(reply.status, 403, "{}", reply.text());
    let path = "/acme/search/v1/namespaces/x/restore?base=default/default/docs";
    let octets = ("content-type", "application/octet-stream");
    assert_eq!(daemon.send("PUT", path, &[theirs, octets], b"x").status, 403);
    let reader = ("authorization", "Bearer reader");
    assert_eq!(daemon.send("PUT", "/v1/namespaces/x/restore", &[reader, octets], b"x").status, 403);
    assert_eq!(daemon.send("GET", "/v1/namespaces/x/snapshot", &[reader], b"").status, 404);
}

#[test]
fn snapshots_are_taken_of_and_restored_into_a_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let open = || {
        let (clock, random) = (Arc::new(SystemClock), Arc::new(SystemRandom));
        Engine::open(EngineConfig::new(&data), Arc::new(RealDisk), clock, random).unwrap()
    };
    let at = data.to_str().unwrap();
    let file = dir.path().join("file");
    let file = file.to_str().unwrap();
    let expected = runtime.block_on(async {
        let engine = tokio::task::block_in_place(open);
        fill(&engine, "docs").await;
        let (code, said) =
            tokio::task::block_in_place(|| refused(None, &["snapshot", "docs", file, "--data-dir", at]));
        assert!(code == 4 && said.contains("in use by another process"), "{code} {said}");
        let found = contents(&engine, &name("docs")).await.unwrap();
        engine.shutdown().await.unwrap();
        found
    });
    done(None, &["snapshot", "docs", file, "--data-dir", at]);
    done(None, &["restore", file, "acme/search/back", "--data-dir", at]);
    let (code, _) = refused(None, &["restore", file, "docs", "--data-dir", at]);
    assert_eq!(code, 1);
    runtime.block_on(async {
        let engine = tokio::task::block_in_place(open);
        let back = Project::new("acme", "search").unwrap().namespace("back").unwrap();
        assert_eq!(contents(&engine, &back).await.unwrap(), expected);
        assert_eq!(contents(&engine, &name("docs")).await.unwrap(), expected);
        engine.shutdown().await.unwrap();
    });
}

/// What lies below a directory and belongs to somebody else.
fn of_others(dir: &Path, uid: u32) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let facts = std::fs::symlink_metadata(&path).unwrap();
        if facts.uid() != uid {
            found.push(path.clone());
        }
        if facts.is_dir() {
            found.extend(of_others(&path, uid));
        }
    }
    found
}

/// Makes a data directory of what is done in it.
fn make(data: &Path, work: impl AsyncFnOnce(&Arc<Engine>)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (clock, random) = (Arc::new(SystemClock), Arc::new(SystemRandom));
        let open = || Engine::open(EngineConfig::new(data), Arc::new(RealDisk), clock, random).unwrap();
        let engine = tokio::task::block_in_place(open);
        work(&engine).await;
        engine.shutdown().await.unwrap();
    });
}

fn give(path: &Path, uid: u32) {
    std::os::unix::fs::lchown(path, Some(uid), Some(uid)).unwrap();
    if path.is_dir() {
        std::fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path(), uid));
    }
}

#[test]
fn what_root_makes_in_a_data_directory_belongs_to_its_owner() {
    const NOBODY: u32 = 65_534;
    for is_reached in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        if std::fs::metadata(dir.path()).unwrap().uid() != 0 {
            println!("SKIPPED: only root can act as somebody else");
            return;
        }
        if is_reached {
            std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        }
        let data = dir.path().join("data");
        make(&data, async |engine| fill(engine, "docs").await);
        give(&data, NOBODY);
        std::fs::remove_file(data.join("meta.redb")).unwrap();
        // Beside the directory, where only root may write, and by paths that begin where root is.
        for command in [
            &["check", "--level", "4"][..],
            &["repair", "--yes"],
            &["snapshot", "docs", "file"],
            &["restore", "file", "acme/search/back"],
            &["check", "--level", "4"],
        ] {
            let mut all = Command::new(env!("CARGO_BIN_EXE_shoal"));
            all.env_clear().current_dir(dir.path()).args(command).args(["--data-dir", "data"]);
            let output = all.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{command:?}, reached: {is_reached}: {said}");
            assert_eq!(of_others(&data, NOBODY), Vec::<PathBuf>::new(), "{command:?}, reached: {is_reached}");
        }
        let file = std::fs::metadata(dir.path().join("file")).unwrap();
        assert_eq!((file.uid(), data.join("local").is_dir()), (0, true));
    }
}

#[test]
fn what_is_merged_beside_roots_snapshot_belongs_to_who_made_the_files_too() {
    const NOBODY: u32 = 65_534;
    for round in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        if std::fs::metadata(dir.path()).unwrap().uid() != 0 {
            println!("SKIPPED: only root can act as somebody else");
            return;
        }
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let data = dir.path().join("data");
        make(&data, async |engine| {
            write(engine, "docs", rows(0, 300)).await;
            engine.checkpoint(&name("docs")).await.unwrap();
            // A segment of rows that are all replaced is merged away, which begins with the flush before the snapshot.
            write(engine, "docs", rows(0, 300)).await;
        });
        give(&data, NOBODY);
        if round % 2 == 0 {
            // A volume that the daemon writes by its group.
            std::os::unix::fs::lchown(&data, Some(0), Some(NOBODY)).unwrap();
            std::fs::set_permissions(&data, Permissions::from_mode(0o2775)).unwrap();
        }
        let mut all = Command::new(env!("CARGO_BIN_EXE_shoal"));
        all.env_clear().current_dir(dir.path()).args(["snapshot", "docs", "file", "--data-dir", "data"]);
        let output = all.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(of_others(&data, NOBODY), Vec::<PathBuf>::new(), "round {round}");
    }
}
