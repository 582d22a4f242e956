//! The real binary as a child process, and a client that keeps its connection.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value as Json;

/// No answer and no start takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running daemon; killed when dropped.
pub struct Daemon {
    child: Child,
    pub address: SocketAddr,
    said: Arc<Mutex<Vec<String>>>,
}

/// A daemon on its way: it may never answer.
pub struct Starting {
    child: Child,
    address: Receiver<SocketAddr>,
    said: Arc<Mutex<Vec<String>>>,
}

/// How the binary is started.
#[derive(Default)]
pub struct Start<'a> {
    /// A program and its arguments that run the binary, such as strace.
    pub under: Vec<String>,
    pub environment: Vec<(&'a str, String)>,
}

impl Start<'_> {
    pub fn begin(&self, data_dir: &Path) -> Starting {
        let binary = env!("CARGO_BIN_EXE_shoal").to_owned();
        let mut words = self.under.iter().cloned().chain([binary]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--data-dir"]);
        command.arg(data_dir).env_remove("NOTIFY_SOCKET").envs(self.environment.iter().map(|(k, v)| (k, v)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let said = Arc::new(Mutex::new(Vec::new()));
        let (found, address) = channel();
        let (lines, heard) = (BufReader::new(child.stderr.take().unwrap()), said.clone());
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let event: Json = serde_json::from_str(&line).unwrap_or_default();
                heard.lock().unwrap().push(line);
                if event["message"] == "shoal answers requests" {
                    let _ = found.send(event["address"].as_str().unwrap().parse().unwrap());
                }
            }
        });
        Starting { child, address, said }
    }

    pub fn run(&self, data_dir: &Path) -> Daemon {
        self.begin(data_dir).ready().unwrap_or_else(|said| panic!("no start: {said}"))
    }
}

impl Starting {
    /// The daemon once it answers; what it said when it ended before that.
    pub fn ready(mut self) -> Result<Daemon, String> {
        match self.address.recv_timeout(PATIENCE) {
            Ok(address) => Ok(Daemon { child: self.child, address, said: self.said }),
            Err(error) => {
                let _ = self.child.kill();
                let ended = self.child.wait();
                Err(format!("{error}, {ended:?}: {}", self.said.lock().unwrap().join("\n")))
            }
        }
    }

    /// Kills it wherever it is.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    pub fn start(data_dir: &Path) -> Daemon {
        Start::default().run(data_dir)
    }

    pub fn client(&self) -> Client {
        Client { address: self.address, stream: None }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it logged so far, as lines of JSON.
    pub fn said(&self) -> String {
        self.said.lock().unwrap().join("\n")
    }

    /// Kills it between any two instructions.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to stop.
    pub fn terminate(&self) {
        let done = Command::new("kill").arg("-TERM").arg(self.pid().to_string()).status().unwrap();
        assert!(done.success());
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(self) {
        self.terminate();
        let (ended, said) = self.ended();
        assert_eq!(ended.code(), Some(0), "signal {:?}: {said}", ended.signal());
    }

    /// How it ended, and all that it said.
    pub fn ended(mut self) -> (ExitStatus, String) {
        let ended = self.child.wait().unwrap();
        (ended, self.said())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends one request after the other on one connection, which is made anew when it broke.
pub struct Client {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

impl Client {
    /// The status and the body of the answer, or that there was none.
    pub fn send(&mut self, method: &str, path: &str, body: &Json) -> io::Result<(u16, Json)> {
        let answer = self.try_send(method, path, body);
        if answer.is_err() {
            self.stream = None;
        }
        answer
    }

    pub fn post(&mut self, path: &str, body: &Json) -> io::Result<(u16, Json)> {
        self.send("POST", path, body)
    }

    /// Posts what must succeed.
    pub fn must(&mut self, path: &str, body: &Json) -> Json {
        let (status, answer) = self.post(path, body).unwrap();
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    fn try_send(&mut self, method: &str, path: &str, body: &Json) -> io::Result<(u16, Json)> {
        if self.stream.is_none() {
            let stream = TcpStream::connect(self.address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            self.stream = Some(BufReader::new(stream));
        }
        let Some(stream) = &mut self.stream else { return Err(io::ErrorKind::NotConnected.into()) };
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        stream.get_mut().write_all(request.as_bytes())?;
        read_answer(stream)
    }
}

/// Reads one answer.
pub fn read_answer(stream: &mut impl BufRead) -> io::Result<(u16, Json)> {
    let torn = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let (mut status, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(torn());
        }
        let line = line.trim_end();
        if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
            status = rest.get(..3).and_then(|text| text.parse().ok());
        } else if let Some((name, value)) = line.split_once(": ") {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse().map_err(|_| torn())?;
            }
        } else if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let status: u16 = status.ok_or_else(torn)?;
    Ok((status, serde_json::from_slice(&body).unwrap_or(Json::Null)))
}

/// `shoal COMMAND --data-dir DIR ...`: whether it succeeded, and what it said.
pub fn command(words: &[&str], data_dir: &Path) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_shoal"))
        .args(words)
        .arg("--data-dir")
        .arg(data_dir)
        .env_remove("NOTIFY_SOCKET")
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// A directory for a daemon's data, gone when dropped.
pub fn data_dir() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    (folder, path)
}
