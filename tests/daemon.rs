//! The daemon as a process: a new user's first steps, the client commands against it, and what looks at its files.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

fn shoal() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
    command.env_clear().env("TMPDIR", std::env::temp_dir());
    command
}

/// A running daemon; killed when dropped.
struct Daemon {
    child: Child,
    url: String,
    /// What the log said until it was ready.
    log: Vec<String>,
    /// What it said since, when the daemon has ended.
    rest: Option<std::thread::JoinHandle<Vec<Value>>>,
}

impl Daemon {
    fn start(data_dir: &Path) -> Daemon {
        Self::start_by(shoal(), data_dir)
    }

    fn start_by(mut command: Command, data_dir: &Path) -> Daemon {
        let mut child = command
            .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--data-dir"])
            .arg(data_dir)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut log = Vec::new();
        let address = loop {
            let line = lines.next().unwrap().unwrap();
            let entry: Value = serde_json::from_str(&line).unwrap();
            log.push(entry["message"].as_str().unwrap_or_default().to_owned());
            if entry["message"] == "shoal answers requests" {
                break entry["address"].as_str().unwrap().to_owned();
            }
        };
        // A full pipe would stop the daemon.
        let entry = |line: std::io::Result<String>| serde_json::from_str(&line.unwrap()).unwrap();
        let rest = std::thread::spawn(move || lines.map(entry).collect());
        Daemon { child, url: format!("http://{address}"), log, rest: Some(rest) }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        shoal().args(arguments).args(["--url", &self.url]).output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// SIGTERM, and the exit code.
    fn stop(mut self) -> Option<i32> {
        Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn example(file: &str) -> String {
    format!("{}/examples/{file}", env!("CARGO_MANIFEST_DIR"))
}

/// Every file below a directory.
fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn the_demo_shows_searches_worth_seeing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("demo");
    for round in 0..2 {
        let output =
            shoal().args(["demo", "--once", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data).output().unwrap();
        let shown = text(&output.stdout);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(shown.contains("digikam") && shown.contains("keepassxc"), "{shown}");
        // The second start finds what the first one wrote.
        assert_eq!(shown.contains("612 Debian package descriptions written"), round == 0, "{shown}");
    }
}

#[test]
fn a_demo_that_cannot_start_says_why_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("demo");
    let demo = |listen: &str| {
        shoal().args(["demo", "--once", "--listen", listen, "--data-dir"]).arg(&data).output().unwrap()
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let output = demo(&taken.local_addr().unwrap().to_string());
    let said = text(&output.stderr);
    assert!(!output.status.success() && said.contains("listen on 127.0.0.1:") && said.contains("--listen"), "{said}");
    let _daemon = Daemon::start(&data);
    let output = demo("127.0.0.1:0");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("is in use by another process") && said.contains("--data-dir"), "{said}");
}

#[test]
fn sighup_puts_new_tokens_and_another_log_level_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let (tokens, config) = (dir.path().join("tokens"), dir.path().join("shoal.toml"));
    let (first, second) = ("a".repeat(32), "b".repeat(32));
    std::fs::write(&tokens, &first).unwrap();
    let settings = |level: &str| {
        let text = format!("[auth]\ntokens_file = {tokens:?}\n[log]\nlevel = \"{level}\"\nformat = \"json\"\n");
        std::fs::write(&config, text).unwrap();
    };
    settings("info");
    let mut child = shoal()
        .args(["serve", "--listen", "127.0.0.1:0", "--config"])
        .arg(&config)
        .arg("--data-dir")
        .arg(dir.path().join("data"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut until = |wanted: &str| loop {
        let line = lines.next().unwrap().unwrap();
        let entry: Value = serde_json::from_str(&line).unwrap();
        if entry["message"].as_str().unwrap_or_default().contains(wanted) {
            return entry;
        }
    };
    let address = until("shoal answers requests")["address"].as_str().unwrap().to_owned();
    let daemon = Daemon { child, url: format!("http://{address}"), log: Vec::new(), rest: None };
    let asked = |token: &str| {
        let file = dir.path().join("token");
        std::fs::write(&file, token).unwrap();
        daemon.run(&["status", "--token-file", file.to_str().unwrap()]).status.success()
    };
    let hang_up =
        || assert!(Command::new("kill").args(["-HUP", &daemon.child.id().to_string()]).status().unwrap().success());
    assert!(asked(&first) && !asked(&second));
    std::fs::write(&tokens, &second).unwrap();
    settings("debug");
    hang_up();
    assert_eq!(until("settings are reloaded")["level"], "debug");
    assert!(asked(&second) && !asked(&first));
    let line = until("request");
    assert_eq!(line["path"], "/v1/status", "paths stand in JSON as they are");
    // What is wrong changes nothing.
    std::fs::write(&tokens, "short").unwrap();
    hang_up();
    assert!(until("settings are not reloaded")["error"].as_str().unwrap().contains("at least 32"), "says why");
    assert!(asked(&second));
    // The pipe must stay open for as long as the daemon logs.
    drop(daemon);
}

#[test]
fn rows_are_imported_searched_counted_and_found_again_after_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let daemon = Daemon::start(&data);
    assert_eq!(daemon.log, ["there is no data here yet, a new data directory is made", "shoal answers requests"]);
    let schema = std::fs::read_to_string(example("schema.json")).unwrap();
    let rows = example("packages.ndjson");
    let arguments = ["import", "packages", "--file", &rows, "--metric", "cosine_distance", "--schema", &schema];
    assert_eq!(daemon.json(&arguments)["rows"], 612);
    // Importing the same again changes nothing.
    assert_eq!(daemon.json(&arguments)["rows"], 612);
    let search = ["query", "packages", "--text", "music", "--in", "title,text", "--limit", "3"];
    let before = daemon.json(&search);
    assert_eq!(before["rows"].as_array().unwrap().len(), 3);
    assert_eq!(daemon.json(&["status", "packages"])["documents"], 612);
    assert_eq!(daemon.json(&["status"])["namespaces"]["total"], 1);
    assert!(!daemon.run(&["query", "nothing", "--text", "x"]).status.success());
    assert_eq!(daemon.run(&["query", "nothing", "--text", "x"]).status.code(), Some(3));
    let second = shoal().args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data).output().unwrap();
    assert_eq!(second.status.code(), Some(4));
    assert!(text(&second.stderr).contains("in use by another process"), "{}", text(&second.stderr));
    assert_eq!(daemon.stop(), Some(0));
    let daemon = Daemon::start(&data);
    assert_eq!(daemon.json(&search)["rows"], before["rows"]);
}

#[test]
fn an_import_writes_its_rows_although_the_same_were_imported_before() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"));
    let file = dir.path().join("rows.ndjson");
    let import = |rows: &str| {
        std::fs::write(&file, rows).unwrap();
        let said = daemon.json(&["import", "docs", "--batch-rows", "1", "--file", file.to_str().unwrap()]);
        let found = text(&daemon.run(&["export", "docs"]).stdout);
        (said["rows"].as_u64().unwrap(), found.contains("\"n\":1"))
    };
    let old = "{\"id\":1,\"n\":1}\n";
    assert_eq!(import(old), (1, true));
    assert_eq!(import("{\"id\":1,\"n\":2}\n"), (1, false));
    assert_eq!(import(old), (1, true), "what was changed since is as the file says");
}

#[test]
fn check_repair_and_inspect_say_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let daemon = Daemon::start(&data);
    let schema = std::fs::read_to_string(example("schema.json")).unwrap();
    let rows = example("packages.ndjson");
    daemon.json(&["import", "packages", "--file", &rows, "--metric", "cosine_distance", "--schema", &schema]);
    let on_data =
        |command: &str, more: &[&str]| shoal().arg(command).arg("--data-dir").arg(&data).args(more).output().unwrap();
    assert!(text(&daemon.run(&["check", "--level", "4"]).stdout).contains("everything is whole"));
    // While the daemon has the directory nobody else looks into it.
    assert_eq!(on_data("check", &[]).status.code(), Some(4));
    assert_eq!(daemon.stop(), Some(0));
    for level in ["1", "2", "3"] {
        let output = on_data("check", &["--level", level]);
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
        assert!(text(&output.stdout).contains("everything is whole"));
    }
    for file in files(&data) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let output = shoal().arg("inspect").arg(&file).output().unwrap();
        assert!(output.status.success(), "{name}: {}", text(&output.stderr));
        if name.ends_with(".wal") {
            assert!(text(&output.stdout).contains("records: 612"), "{}", text(&output.stdout));
        }
    }
    let output = shoal().arg("inspect").arg(data.join("log/absent.wal")).output().unwrap();
    assert!(!output.status.success() && text(&output.stderr).contains("No such file"), "{}", text(&output.stderr));
    let output = shoal().arg("inspect").arg(data.join("absent")).output().unwrap();
    assert!(!output.status.success() && text(&output.stderr).contains("No such file"), "{}", text(&output.stderr));
    // Says first what it would do; does it when told to; and what it rebuilt is whole.
    std::fs::remove_file(data.join("meta.redb")).unwrap();
    assert!(text(&on_data("repair", &[]).stdout).contains("run again with --yes"));
    assert!(on_data("repair", &["--yes"]).status.success());
    assert!(on_data("check", &[]).status.success());
    // Damage is found, named, and exits with 6.
    let log = files(&data).into_iter().find(|file| file.extension().is_some_and(|e| e == "wal")).unwrap();
    let mut bytes = std::fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    let output = on_data("check", &["--json"]);
    assert_eq!(output.status.code(), Some(6));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["problems"][0]["namespace"], "default/default/packages", "{report}");
    // So does the daemon, which goes on serving the others, and repairs nothing that it was not told to.
    let daemon = Daemon::start(&data);
    let output = daemon.run(&["check", "--json"]);
    assert_eq!(output.status.code(), Some(6), "{} {}", text(&output.stderr), text(&output.stdout));
    let served: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(served["problems"][0]["namespace"], "default/default/packages", "{served}");
    let output = daemon.run(&["repair"]);
    assert!(text(&output.stdout).contains("run again with --yes"), "{}", text(&output.stderr));
    assert_eq!(daemon.stop(), Some(0));
    let nothing = shoal().args(["check", "--data-dir"]).arg(dir.path().join("nothing")).output().unwrap();
    assert_eq!(nothing.status.code(), Some(3));
}

#[test]
fn what_is_refused_again_and_again_has_one_line_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let daemon = Daemon::start(&data);
    let rows = dir.path().join("rows.ndjson");
    let lines: String = (0..500).map(|n| format!("{}\n", serde_json::json!({"id": n, "text": "word"}))).collect();
    std::fs::write(&rows, lines).unwrap();
    let (rows, schema) = (rows.to_str().unwrap(), r#"{"text": {"type": "string", "full_text_search": true}}"#);
    daemon.json(&["import", "docs", "--file", rows, "--schema", schema]);
    let snapshot = dir.path().join("docs.snapshot");
    assert!(daemon.run(&["snapshot", "docs", snapshot.to_str().unwrap()]).status.success());
    assert_eq!(daemon.stop(), Some(0));
    let segment = files(&data).into_iter().find(|file| file.ends_with("data.seg")).unwrap();
    std::fs::write(&segment, b"not a segment").unwrap();
    let mut daemon = Daemon::start(&data);
    for _ in 0..20 {
        assert!(!daemon.run(&["query", "docs", "--text", "word", "--in", "text"]).status.success());
    }
    let rest = daemon.rest.take().unwrap();
    assert_eq!(daemon.stop(), Some(0));
    let log = rest.join().unwrap();
    let said =
        log.iter().filter(|line| ["request failed", "request refused"].contains(&line["message"].as_str().unwrap()));
    assert_eq!(said.count(), 1, "{log:?}");
}

/// Rows anywhere, enough of them that a segment's clusters are searched.
fn scattered_rows(rows: usize, dims: usize) -> String {
    let mut state = 7_u32;
    let mut random = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut lines = String::new();
    for id in 0..rows {
        let vector: Vec<f32> = (0..dims).map(|_| random()).collect();
        let line = serde_json::json!({"id": id, "parity": id % 2, "text": format!("row {id}"), "vector": vector});
        lines.push_str(&format!("{line}\n"));
    }
    lines
}

#[test]
fn bench_shows_what_recall_costs_on_the_users_own_rows() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"));
    let rows = dir.path().join("rows.ndjson");
    std::fs::write(&rows, scattered_rows(6_400, 128)).unwrap();
    let schema = r#"{"text": {"type": "string", "full_text_search": true}}"#;
    let rows = rows.to_str().unwrap();
    daemon.json(&["import", "docs", "--file", rows, "--metric", "cosine_distance", "--schema", schema]);
    // Before it is in a segment everything is compared, and the user is told.
    let quick = ["bench", "docs", "--recalls", "0.8,0.99", "--seconds", "1", "--count"];
    let told = text(&daemon.run(&[&quick[..], &["3"]].concat()).stdout);
    assert!(told.contains("6400 documents are in no segment yet"), "{told}");
    assert!(told.contains("Every setting finds everything"), "{told}");
    // A snapshot is of segments, so it makes one.
    assert!(daemon.run(&["snapshot", "docs", dir.path().join("docs.snapshot").to_str().unwrap()]).status.success());
    let report = daemon.json(&[&quick[..], &["30"]].concat());
    assert_eq!(report["tail"]["rows"], 0, "{report}");
    assert_eq!(report["queries"], serde_json::json!({"from": "namespace", "count": 30, "limit": 10, "filter": null}));
    let settings = report["settings"].as_array().unwrap();
    let wanted: Vec<&Value> = settings.iter().map(|setting| &setting["wanted"]).collect();
    assert_eq!(wanted, [&serde_json::json!(0.8), &serde_json::json!(0.99), &serde_json::json!("exact")]);
    let recalls: Vec<f64> = settings.iter().map(|setting| setting["recall"]["mean"].as_f64().unwrap()).collect();
    assert!(recalls[0] <= recalls[1] && recalls[1] <= recalls[2] && recalls[2] == 1.0, "{report}");
    assert!(recalls[0] > 0.7 && recalls[1] > 0.9, "{report}");
    for setting in settings {
        let number = |group: &str, key: &str| setting[group][key].as_f64().unwrap();
        assert!(0.0 < number("ms", "p50") && number("ms", "p50") <= number("ms", "p99"), "{setting}");
        assert!(number("queries_per_second", "all_clients") > 0.0, "{setting}");
    }
    // Only rows that match are drawn and found.
    let told = text(&daemon.run(&[&quick[..], &["5", "--filter", r#"["parity","Eq",1]"#]].concat()).stdout);
    assert!(told.contains("5 of its vectors") && told.contains(r#"filter ["parity","Eq",1]"#), "{told}");
    let told = daemon.run(&["bench", "docs", "--filter", r#"["parity","Eq",2]"#]);
    assert!(text(&told.stderr).contains("no row has a vector to search with"), "{}", text(&told.stderr));
}

#[test]
fn bench_asks_the_queries_of_a_file_and_says_what_is_wrong_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"));
    let (rows, queries) = (example("packages.ndjson"), example("queries.ndjson"));
    let schema = std::fs::read_to_string(example("schema.json")).unwrap();
    daemon.json(&["import", "packages", "--file", &rows, "--metric", "cosine_distance", "--schema", &schema]);
    for more in [&[][..], &["--hybrid", "--in", "title,text"]] {
        let report = daemon.json(
            &[&["bench", "packages", "--queries", &queries, "--clients", "2", "--seconds", "1"], more].concat(),
        );
        assert_eq!((&report["queries"]["from"], &report["queries"]["count"]), (&"file".into(), &4.into()));
        assert_eq!(report["settings"].as_array().unwrap().len(), 6);
        assert_eq!(report["settings"][0]["recall"]["mean"], 1.0);
    }
    let file = dir.path().join("queries.ndjson");
    let run = |lines: &str, more: &[&str]| {
        std::fs::write(&file, lines).unwrap();
        daemon.run(&[&["bench", "packages", "--queries", file.to_str().unwrap()], more].concat())
    };
    let words = run(r#"{"text": "music", "filters": ["section", "Eq", "sound"]}"#, &[]);
    assert!(text(&words.stdout).contains("no recall to choose"), "{}", text(&words.stderr));
    for (lines, more, expected) in [
        ("", &[][..], "has no queries"),
        ("{\"words\": \"music\"}", &[], "line 1: expected an object with \"vector\" or \"text\""),
        ("{\"vector\": [1, 2]}", &[], "384"),
        ("{\"text\": \"music\"}", &["--in", "nothing"], "nothing"),
        ("{\"text\": \"music\"}", &["--filter", "x"], "--filter: expected JSON"),
    ] {
        let output = run(lines, more);
        assert_eq!(output.status.code(), Some(1), "{lines}");
        assert!(text(&output.stderr).contains(expected), "{lines}: {}", text(&output.stderr));
    }
    for (arguments, code) in [
        (&["bench", "nothing"][..], 3),
        (&["bench", "packages", "--hybrid"], 1),
        (&["bench", "packages", "--recalls", "0.2"], 2),
        (&["bench", "packages", "--clients", "17"], 2),
        (&["bench", "packages?x"], 2),
    ] {
        let output = daemon.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
    }
}

/// The daemon with these limits on open files, the soft one and the hard one.
fn with_open_files(soft: u64, hard: u64) -> Command {
    let mut command = Command::new("/bin/sh");
    let script = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec {} \"$@\"", env!("CARGO_BIN_EXE_shoal"));
    command.env_clear().env("TMPDIR", std::env::temp_dir()).args(["-c", &script, "shoal"]);
    command
}

/// Answers to first writes to so many namespaces, by one connection: status and body.
fn make_namespaces(daemon: &Daemon, count: u64) -> Vec<(u16, Value)> {
    let stream = std::net::TcpStream::connect(daemon.url.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let mut reader = BufReader::new(stream);
    let mut answer = |method: &str, path: &str, body: &str| {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}",
            body.len()
        );
        reader.get_mut().write_all(format!("{head}\r\n\r\n{body}").as_bytes()).unwrap();
        let mut lines = (&mut reader).lines().map(Result::unwrap).take_while(|line| !line.is_empty());
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let length = |line: String| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok();
        let mut bytes = vec![0; lines.filter_map(length).last().unwrap()];
        reader.read_exact(&mut bytes).unwrap();
        (status, serde_json::from_slice(&bytes).unwrap())
    };
    let of = |n: u64| format!("/v2/namespaces/n{n}");
    let mut answers: Vec<(u16, Value)> =
        (0..count).map(|n| answer("POST", &of(n), r#"{"upsert_rows": [{"id": 1}]}"#)).collect();
    answers.push(answer("GET", "/v1/status", ""));
    answers
}

#[test]
fn the_soft_limit_on_open_files_is_raised_to_the_hard_one() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start_by(with_open_files(64, 4_096), dir.path());
    let answers = make_namespaces(&daemon, 150);
    assert_eq!(answers.iter().find(|(status, _)| *status != 200), None);
    assert!(!daemon.log.iter().any(|line| line.contains("few files may be open")), "{:?}", daemon.log);
}

#[test]
fn with_few_descriptors_fewer_namespaces_are_kept_open_and_nobody_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start_by(with_open_files(64, 64), dir.path());
    let said: Vec<_> = daemon.log.iter().filter(|line| line.contains("few files may be open")).collect();
    assert!(said.len() == 1 && said[0].contains("LimitNOFILE"), "{:?}", daemon.log);
    let answers = make_namespaces(&daemon, 150);
    assert_eq!(answers.iter().find(|(status, _)| *status != 200), None);
}

#[test]
fn files_that_are_not_opened_for_want_of_descriptors_are_not_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start_by(with_open_files(64, 64), dir.path());
    // The machine has fewer than it said at the start: enough for the connection.
    let pid = rustix::process::Pid::from_raw(daemon.child.id().try_into().unwrap());
    let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.child.id())).unwrap().count() as u64;
    let limit = rustix::process::Rlimit { current: Some(open + 3), maximum: Some(64) };
    rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit).unwrap();
    let mut answers = make_namespaces(&daemon, 150);
    let (_, node) = answers.pop().unwrap();
    let refused: Vec<_> = answers.iter().filter(|(status, _)| *status != 200).collect();
    assert!(!refused.is_empty());
    for (status, body) in refused {
        assert_eq!(
            (*status, &body["code"], &body["retryable"]),
            (503, &"too_many_open_files".into(), &true.into()),
            "{body}"
        );
        assert!(body["hint"].as_str().unwrap().contains("LimitNOFILE"), "{body}");
    }
    assert_eq!(node["damaged"].as_array().map(Vec::len), Some(0), "{node}");
}
