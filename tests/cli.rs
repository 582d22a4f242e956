//! The command line as a process: its exit codes, its configuration, and imports against a server that counts.

#![expect(clippy::unwrap_used, reason = "the helpers below are part of the tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

fn shoal() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
    command.env_clear();
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Every request a server got: path, idempotency key, body.
type Requests = Arc<Mutex<Vec<(String, String, String)>>>;

/// A server that refuses the first `refusals` requests with 503 and acknowledges all others.
fn server(refusals: usize) -> (String, Requests) {
    serve(move |count, _| match count <= refusals {
        true => ("503 Busy", r#"{"error":"starting"}"#),
        false => ("200 OK", r#"{"status":"OK"}"#),
    })
}

/// A server that answers each request by its number and its body: status and body.
fn serve(say: impl Fn(usize, &str) -> (&'static str, &'static str) + Send + Sync + 'static) -> (String, Requests) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let requests = Requests::default();
    let (seen, say) = (requests.clone(), Arc::new(say));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (seen, say) = (seen.clone(), say.clone());
            std::thread::spawn(move || answer(stream.unwrap(), &seen, &*say));
        }
    });
    (url, requests)
}

fn answer(mut stream: TcpStream, seen: &Requests, say: &dyn Fn(usize, &str) -> (&'static str, &'static str)) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line.trim().is_empty() {
                break;
            }
            head.push(line.trim().to_owned());
        }
        let header = |name: &str| {
            head.iter().find_map(|line| line.split_once(": ").filter(|(n, _)| *n == name).map(|(_, v)| v.to_owned()))
        };
        let mut body = vec![0; header("content-length").map_or(0, |n| n.parse().unwrap())];
        reader.read_exact(&mut body).unwrap();
        let path = head[0].split(' ').nth(1).unwrap().to_owned();
        let body = String::from_utf8(body).unwrap();
        let count = {
            let mut seen = seen.lock().unwrap();
            seen.push((path, header("idempotency-key").unwrap_or_default(), body.clone()));
            seen.len()
        };
        let (status, body) = say(count, &body);
        write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    }
}

#[test]
fn an_open_address_without_tokens_exits_with_78_and_says_why() {
    let output = shoal().args(["config", "--listen", "0.0.0.0:7345"]).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("0.0.0.0:7345"), "{}", stderr(&output));
    assert!(stderr(&output).contains("hint: "), "{}", stderr(&output));
}

#[test]
fn an_unknown_key_in_the_environment_exits_with_78() {
    let output = shoal().arg("config").env("SHOAL_SERVER__PROT", "1").output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("server.prot"), "{}", stderr(&output));
}

#[test]
fn the_printed_configuration_is_accepted_and_prints_itself() {
    let folder = tempfile::tempdir().unwrap();
    let printed = shoal().args(["config", "--listen", "127.0.0.1:1", "--data-dir", "/d"]).output().unwrap();
    let path = folder.path().join("shoal.toml");
    std::fs::write(&path, &printed.stdout).unwrap();
    let again = shoal().args(["config", "--config"]).arg(&path).output().unwrap();
    assert!(again.status.success(), "{}", stderr(&again));
    assert_eq!(printed.stdout, again.stdout);
}

#[test]
fn the_packaged_configuration_is_valid() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/systemd/shoal.toml");
    let output = shoal().args(["config", "--config", path]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn an_absent_daemon_exits_with_5_and_says_what_to_do() {
    // Bound but never listening again once dropped: nothing answers on this port.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let output = shoal().args(["status", "--url", &format!("http://127.0.0.1:{port}")]).output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    assert!(stderr(&output).contains("shoal serve"), "{}", stderr(&output));
}

#[test]
fn a_name_that_a_url_could_take_for_something_else_is_refused_at_once() {
    for name in ["docs/metadata", "docs?x", "docs#x", "", ".."] {
        let output = shoal().args(["status", name]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert!(stderr(&output).contains("Namespace"), "{}", stderr(&output));
    }
}

#[test]
fn every_command_refuses_such_names_and_spells_tags_out() {
    let (url, requests) = server(0);
    let name = "docs?x";
    for arguments in [
        &["branch", "docs", name][..],
        &["copy", "docs", name],
        &["export", name],
        &["history", name],
        &["tag", name, "v1"],
        &["revert", name, "0"],
        &["undelete", name],
        &["merge", "docs", name],
        &["diff", "docs", name],
        &["conflicts", name],
    ] {
        let output = shoal().args(arguments).args(["--url", &url]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
    }
    assert_eq!(requests.lock().unwrap().len(), 0);
    for arguments in [&["tag", "docs", "v1?2", "--delete"][..], &["conflicts", "docs", "--ack", "?x"]] {
        let output = shoal().args(arguments).args(["--url", &url]).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    }
    let paths: Vec<String> = requests.lock().unwrap().iter().map(|(path, ..)| path.clone()).collect();
    assert_eq!(paths, ["/v1/namespaces/docs/tags/v1%3F2", "/v1/namespaces/docs/conflicts/%3Fx"]);
}

#[test]
fn a_refused_batch_is_sent_again_with_the_same_key_and_every_row_arrives() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.ndjson");
    let rows: String = (0..95).map(|n| format!("{{\"id\":{n}}}\n")).collect();
    std::fs::write(&file, rows).unwrap();
    let (url, requests) = server(1);
    let output = shoal()
        .args(["import", "things", "--batch-rows", "10", "--resume", "--url", &url, "--file"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "95 rows written to things\n");
    let requests = requests.lock().unwrap();
    assert_eq!(requests.len(), 11, "ten batches, the first of them twice");
    assert_eq!(requests[0], requests[1]);
    assert!(requests[0].1.starts_with("import-"), "{}", requests[0].1);
    assert!(requests.iter().all(|(path, ..)| path == "/v2/namespaces/things"));
    for n in 0..95 {
        let row = format!("{{\"id\":{n}}}");
        assert_eq!(requests[1..].iter().filter(|(.., body)| body.contains(&row)).count(), 1, "row {n}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no state file stays after success");
}

#[test]
fn an_import_that_met_a_bad_line_resumes_after_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.ndjson");
    std::fs::write(&file, "{\"id\":0}\n{\"id\":1}\n{\"id\":2}\n[\"id\"3]\n").unwrap();
    let (url, requests) = server(0);
    let import = || {
        let mut command = shoal();
        command.args(["import", "things", "--batch-rows", "1", "--resume", "--url", &url, "--file"]).arg(&file);
        command.output().unwrap()
    };
    let output = import();
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("the first 3 rows are written: line 4"), "{said}");
    assert!(said.contains(&format!("shoal import things --file {} --resume", file.display())), "{said}");
    std::fs::write(&file, "{\"id\":0}\n{\"id\":1}\n{\"id\":2}\n{\"id\":3}\n").unwrap();
    let output = import();
    assert!(output.status.success(), "{}", stderr(&output));
    let last = requests.lock().unwrap().last().unwrap().2.clone();
    assert!(last.contains("{\"id\":3}"), "{last}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("were written before"));
}

#[test]
fn an_import_that_broke_off_can_be_resumed_though_nobody_asked_before() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.ndjson");
    std::fs::write(&file, "{\"id\":0}\n{\"id\":1}\n[]\n").unwrap();
    let (url, requests) = server(0);
    let import = |more: &[&str]| {
        let mut command = shoal();
        command.args(["import", "things", "--batch-rows", "1", "--url", &url]).args(more).arg("--file").arg(&file);
        command.output().unwrap()
    };
    let said = stderr(&import(&[]));
    assert!(said.contains("the first 2 rows are written") && said.contains("--resume"), "{said}");
    std::fs::write(&file, "{\"id\":0}\n{\"id\":1}\n{\"id\":2}\n").unwrap();
    assert!(import(&["--resume"]).status.success());
    assert_eq!(requests.lock().unwrap().len(), 3, "no row is sent twice");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no state file stays after success");
    // Without the flag it begins at the first row, whatever lies there.
    assert!(import(&[]).status.success());
    assert_eq!(requests.lock().unwrap().len(), 6);
    std::fs::write(&file, "[]\n").unwrap();
    let mut child = shoal()
        .args(["import", "things", "--url", &url])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"[]\n").unwrap();
    let said = stderr(&child.wait_with_output().unwrap());
    assert!(said.contains("no row is known to be written") && said.contains("repeat the import"), "{said}");
}

#[test]
fn a_wrong_address_is_wrong_usage() {
    for url in ["localhost:7345", "https://127.0.0.1:1", "http://", "nonsense"] {
        let output = shoal().args(["status", "--url", url]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{url}: {}", stderr(&output));
        assert!(stderr(&output).contains("expected http://ADDRESS:PORT"), "{}", stderr(&output));
    }
}

#[test]
fn damage_that_the_daemon_reports_exits_with_6() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut line = String::new();
        while reader.read_line(&mut line).unwrap() > 2 {
            line.clear();
        }
        let body = r#"{"error":"segment x: checksum is 1, expected 2","code":"corrupt"}"#;
        let head = format!("HTTP/1.1 500 Internal Server Error\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    });
    let output = shoal().args(["status", "docs", "--url", &url]).output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
}

#[test]
fn a_share_of_the_disk_that_is_more_than_all_of_it_exits_with_78() {
    let start =
        |percent| shoal().args(["config"]).env("SHOAL_STORAGE__RETENTION_DISK_PERCENT", percent).output().unwrap();
    assert!(start("100").status.success());
    let output = start("200");
    assert_eq!(output.status.code(), Some(78), "{}", stderr(&output));
    let said = "storage.retention_disk_percent is 200, expected at most 100";
    assert!(stderr(&output).contains(said), "{}", stderr(&output));
}

#[test]
fn a_log_level_that_is_none_exits_with_78() {
    for arguments in [["serve", "--log-level", "verbose"], ["config", "--log-level", "info,loud"]] {
        let output = shoal().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(78), "{}", stderr(&output));
        assert!(stderr(&output).contains("expected off, error, warn"), "{}", stderr(&output));
    }
}

#[test]
fn every_key_of_the_configuration_is_printed() {
    let output = shoal().arg("config").output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    for key in ["listen = ", "# tokens_file is not set", "# endpoint is not set", "# credentials_file is not set"] {
        assert!(printed.contains(key), "{key}: {printed}");
    }
}

/// Which of the values of `n` each accepted write of id 1 had, in order.
fn versions(requests: &Requests) -> Vec<String> {
    let requests = requests.lock().unwrap();
    let mut seen = Vec::new();
    for (.., body) in requests.iter() {
        let after = body.split("\"n\":").skip(1);
        seen.extend(after.map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>()));
    }
    seen
}

#[test]
fn the_last_row_of_a_document_wins_though_an_older_one_is_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.ndjson");
    let rows = |id: &str| {
        format!("{{\"id\":0}}\n{{\"id\":{id},\"n\":1}}\n{{\"n\":2,\"id\":{id}}}\n{{\"id\":{id},\"n\":3}}\n")
    };
    for (id, batch_rows) in [("1", "1"), ("\"a\"", "1"), ("1", "10")] {
        std::fs::write(&file, rows(id)).unwrap();
        let is_refused = std::sync::atomic::AtomicBool::new(false);
        let (url, requests) = serve(move |_, body| {
            let is_first = body.contains("\"n\":1") && !is_refused.swap(true, std::sync::atomic::Ordering::SeqCst);
            if is_first { ("503 Busy", r#"{"error":"busy"}"#) } else { ("200 OK", r#"{"status":"OK"}"#) }
        });
        let mut command = shoal();
        command.args(["import", "things", "--batch-rows", batch_rows, "--url", &url, "--file"]).arg(&file);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        // The older one was refused at first.
        assert_eq!(versions(&requests), ["1", "1", "2", "3"], "{id} by {batch_rows}");
    }
}

#[test]
fn no_newer_row_of_a_document_is_written_before_an_import_that_broke_off_is_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.ndjson");
    std::fs::write(&file, "{\"id\":0}\n{\"id\":1,\"n\":1}\n{\"id\":1,\"n\":2}\n").unwrap();
    let is_refused = std::sync::atomic::AtomicBool::new(false);
    let (url, requests) = serve(move |_, body| {
        let is_first = body.contains("\"n\":1") && !is_refused.swap(true, std::sync::atomic::Ordering::SeqCst);
        if is_first { ("400 Bad Request", r#"{"error":"no"}"#) } else { ("200 OK", r#"{"status":"OK"}"#) }
    });
    assert!(!import(&url, &file, &[]).status.success());
    assert_eq!(versions(&requests), ["1"]);
    let output = import(&url, &file, &["--resume"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(versions(&requests), ["1", "1", "2"]);
}

#[test]
fn an_import_of_another_input_does_not_resume_on_this_ones_state() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.ndjson");
    std::fs::write(&file, "{\"id\":0}\n{\"id\":1}\n[]\n").unwrap();
    let (url, _) = server(0);
    let import = || {
        let mut command = shoal();
        command.args(["import", "things", "--batch-rows", "1", "--resume", "--url", &url, "--file"]).arg(&file);
        command.output().unwrap()
    };
    assert_eq!(import().status.code(), Some(1));
    std::fs::write(&file, "{\"id\":7}\n{\"id\":8}\n").unwrap();
    assert_eq!(import().status.code(), Some(4));
}

#[test]
fn the_bundled_rows_are_valid_and_go_into_one_namespace() {
    let (url, requests) = server(0);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/packages.ndjson");
    let output = shoal().args(["import", "packages", "--url", &url, "--file", path]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "612 rows written to packages\n", "{}", stderr(&output));
    assert_eq!(requests.lock().unwrap().len(), 1);
}

/// Imports a file by batches of one row; what else is said is given.
fn import(url: &str, file: &std::path::Path, more: &[&str]) -> Output {
    let mut command = shoal();
    command.args(["import", "things", "--batch-rows", "1", "--url", url]).args(more).arg("--file").arg(file);
    command.output().unwrap()
}

#[test]
fn every_batch_of_every_import_has_a_key_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.ndjson");
    std::fs::write(&file, "{\"id\":1}\n{\"id\":2}\n{\"id\":1}\n").unwrap();
    let (url, requests) = server(0);
    for _ in 0..2 {
        let output = import(&url, &file, &[]);
        assert!(output.status.success(), "{}", stderr(&output));
    }
    let keys: std::collections::BTreeSet<String> =
        requests.lock().unwrap().iter().map(|(_, key, _)| key.clone()).collect();
    assert_eq!(keys.len(), 6, "of two imports with three batches each, two of which are equal: {keys:?}");
}

#[test]
fn a_batch_of_unknown_outcome_is_sent_with_the_same_key_by_who_resumes() {
    for lost in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rows.ndjson");
        std::fs::write(&file, "{\"id\":0}\n{\"id\":1}\n{\"id\":2}\n").unwrap();
        let state = folder.path().join("rows.ndjson.shoal-import");
        let (row, is_lost) = (format!("{{\"id\":{lost}}}"), AtomicBool::new(false));
        let wanted = row.clone();
        // No answer of a daemon: what became of the batch is unknown.
        let (url, requests) = serve(move |_, body| match body.contains(&wanted) && !is_lost.swap(true, SeqCst) {
            true => ("200 OK", "cut sho"),
            false => ("200 OK", r#"{"status":"OK"}"#),
        });
        let output = import(&url, &file, &[]);
        assert!(!output.status.success(), "the answer to batch {lost} is lost");
        assert!(stderr(&output).contains("--resume"), "{}", stderr(&output));
        let output = import(&url, &file, &["--resume"]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(!state.exists(), "no state file stays after success");
        // The next import is another one.
        assert!(import(&url, &file, &[]).status.success());
        let requests = requests.lock().unwrap();
        let keys: Vec<&String> =
            requests.iter().filter(|(.., body)| body.contains(&row)).map(|(_, key, _)| key).collect();
        assert_eq!(keys.len(), 3, "batch {lost}");
        assert!(keys[0] == keys[1] && keys[1] != keys[2], "batch {lost}: {keys:?}");
    }
}

#[test]
fn a_state_file_of_a_version_that_gave_imports_no_id_is_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.ndjson");
    std::fs::write(&file, "{\"id\":0}\n{\"id\":1}\n").unwrap();
    let (url, requests) = server(0);
    let rows_hash = blake3::hash(b"{\"id\":0}\n").to_string();
    let state = serde_json::json!({"url": url, "namespace": "things", "rows": 1, "rows_hash": rows_hash});
    std::fs::write(folder.path().join("rows.ndjson.shoal-import"), state.to_string()).unwrap();
    let output = import(&url, &file, &["--resume"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said, "1 rows written to things, 1 were written before\n");
    assert_eq!(requests.lock().unwrap().len(), 1);
}
