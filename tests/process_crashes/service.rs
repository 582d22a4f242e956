//! What the daemon owes a service manager: notices, an orderly stop, a clear refusal, a unit that works.

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::daemon::{Daemon, Start, command, data_dir, read_answer};
use super::machine::{run, skipped};

const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/systemd/shoal.service");

/// A service manager's end of the notify socket.
struct Manager(UnixDatagram);

impl Manager {
    fn listen(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Manager(socket)
    }

    /// Waits for a notice with this line; all lines of it.
    fn expect(&self, line: &str) -> String {
        let mut bytes = [0; 4_096];
        loop {
            let length = self.0.recv(&mut bytes).unwrap_or_else(|error| panic!("{line} does not come: {error}"));
            let notice = String::from_utf8_lossy(&bytes[..length]).into_owned();
            if notice.lines().any(|found| found == line) {
                return notice;
            }
        }
    }
}

fn managed(folder: &Path, dir: &Path) -> (Manager, Daemon) {
    let path = folder.join("notify");
    let manager = Manager::listen(&path);
    let environment = vec![("NOTIFY_SOCKET", path.display().to_string()), ("WATCHDOG_USEC", "200000".to_owned())];
    (manager, Start { environment, ..Start::default() }.run(dir))
}

#[test]
fn the_service_manager_hears_of_ready_alive_and_stopping() {
    let (folder, dir) = data_dir();
    let (manager, daemon) = managed(folder.path(), &dir);
    let ready = manager.expect("READY=1");
    assert!(ready.contains(&format!("STATUS=listening on {}", daemon.address)), "{ready}");
    for _ in 0..3 {
        manager.expect("WATCHDOG=1");
    }
    daemon.terminate();
    manager.expect("STOPPING=1");
    let (ended, said) = daemon.ended();
    assert_eq!(ended.code(), Some(0), "{said}");
}

#[test]
fn asked_to_stop_it_finishes_requests_under_way_seals_the_log_and_exits_with_0() {
    let (folder, dir) = data_dir();
    let (manager, daemon) = managed(folder.path(), &dir);
    daemon.client().must("/v2/namespaces/docs", &json!({"upsert_rows": [{"id": 1, "n": 1}]}));
    assert_eq!(files(&dir.join("log")), 1, "an open log");
    let body = json!({"upsert_rows": [{"id": 2, "n": 2}]}).to_string();
    let mut stream = BufReader::new(TcpStream::connect(daemon.address).unwrap());
    stream.get_ref().set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let head = format!(
        "POST /v2/namespaces/docs HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         expect: 100-continue\r\n\r\n",
        daemon.address,
        body.len()
    );
    stream.get_mut().write_all(head.as_bytes()).unwrap();
    // The daemon asks for the body: the request is under way.
    let mut interim = String::new();
    while !interim.ends_with("\r\n\r\n") {
        assert!(std::io::BufRead::read_line(&mut stream, &mut interim).unwrap() > 0, "{interim}");
    }
    assert!(interim.starts_with("HTTP/1.1 100"), "{interim}");
    daemon.terminate();
    manager.expect("STOPPING=1");
    stream.get_mut().write_all(body.as_bytes()).unwrap();
    let (status, answer) = read_answer(&mut stream).unwrap();
    assert_eq!(status, 200, "{answer}");
    let (ended, said) = daemon.ended();
    assert_eq!(ended.code(), Some(0), "{said}");
    assert_eq!(files(&dir.join("log")), 0, "the log is sealed");
    let daemon = Daemon::start(&dir);
    assert!(!daemon.said().contains("rebuilt"), "after an orderly stop nothing is rebuilt: {}", daemon.said());
    let answer = daemon.client().must("/v2/namespaces/docs/query", &json!({"rank_by": ["id", "asc"], "limit": 9}));
    assert_eq!(answer["rows"].as_array().unwrap().len(), 2, "{answer}");
}

#[test]
fn a_second_daemon_on_the_same_directory_says_so_and_exits() {
    let (_folder, dir) = data_dir();
    let daemon = Daemon::start(&dir);
    for words in [&["serve", "--listen", "127.0.0.1:0"][..], &["check"]] {
        let (is_done, said) = command(words, &dir);
        assert!(!is_done, "{words:?}: {said}");
        assert!(said.contains("in use by another process") && said.contains(dir.to_str().unwrap()), "{said}");
        assert!(said.contains("hint: "), "{said}");
    }
    daemon.client().must("/v2/namespaces/docs", &json!({"upsert_rows": [{"id": 1}]}));
    daemon.stop();
}

#[test]
fn the_packaged_unit_starts_the_daemon_again_however_often_it_failed() {
    let unit = std::fs::read_to_string(UNIT).unwrap();
    let setting = |key: &str| {
        let values = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        values.collect::<Vec<_>>()
    };
    // 0 turns the limit of starts off; a wrong configuration is not tried again.
    assert_eq!(setting("StartLimitIntervalSec"), ["0"]);
    assert_eq!((setting("Restart"), setting("RestartPreventExitStatus")), (vec!["on-failure"], vec!["78"]));
    assert_eq!(setting("StartLimitBurst"), Vec::<&str>::new());
    // Where the data is, as `StateDirectory` and `DynamicUser` have it.
    assert_eq!(setting("RequiresMountsFor"), ["/var/lib/shoal /var/lib/private/shoal"]);
    let pause: u32 = setting("RestartSec")[0].parse().unwrap();
    assert!((5..=60).contains(&pause), "{pause}");
}

#[test]
fn the_packaged_unit_is_valid_and_scores_below_2() {
    if let Err(why) = run("systemd-analyze", &["--version"]) {
        return skipped("the unit's verification", &why);
    }
    // The unit names the installed binary; the copy names the one that was built.
    let folder = tempfile::tempdir().unwrap();
    let unit = std::fs::read_to_string(UNIT).unwrap();
    let copy = folder.path().join("shoal.service");
    std::fs::write(&copy, unit.replace("/usr/bin/shoal", env!("CARGO_BIN_EXE_shoal"))).unwrap();
    let said = run("systemd-analyze", &["verify", "--man=no", copy.to_str().unwrap()]).unwrap();
    assert_eq!(said, "", "systemd-analyze verify");
    // The threshold is in tenths.
    let said = run("systemd-analyze", &["security", "--offline=true", "--threshold=20", "--no-pager", UNIT]).unwrap();
    let verdict = said.lines().find(|line| line.contains("Overall exposure level")).unwrap();
    eprintln!("{}", verdict.trim());
}

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}
