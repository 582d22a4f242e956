//! A link to a server that does what links do: breaks in the middle of a request or an answer, closes one direction, falls silent,
//! is slow, answers for a server that is overloaded, or is away.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use shoal::platform::random::{Random, SeededRandom};

/// What a link does with every connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    Clear,
    /// Something else for each, most of it bad.
    Storm,
    /// Takes what is sent, and nothing is heard of it.
    Silent,
    /// Carries so many bytes a second in each direction.
    Slow(u64),
}

/// What becomes of one connection.
#[derive(Clone, Copy, Debug)]
enum Course {
    Carry,
    /// Breaks after so many bytes of what is asked.
    BreakUp(u64),
    /// Breaks after so many bytes of what is answered; with 0 the server has done what it was asked, and nobody hears of it.
    BreakDown(u64),
    /// Ends the direction to the server after so many bytes, and leaves the other one open.
    CloseUp(u64),
    /// Falls silent after so many bytes of what is answered.
    Silence(u64),
    Busy,
    Pace(u64),
}

/// How much of a request or an answer is carried at most before something happens: the bodies are some hundred bytes to some kilobytes.
const BYTES_MAX: u64 = 6_000;
/// What a slow link carries at once.
const PIECE_BYTES: u64 = 256;

struct State {
    weather: Weather,
    open: Vec<TcpStream>,
}

/// Ends with the test.
pub struct Proxy {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    /// How many connections something happened to.
    harmed: Arc<AtomicU64>,
}

impl Proxy {
    pub fn new(server: SocketAddr, seed: u64) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { weather: Weather::Clear, open: Vec::new() }));
        let harmed = Arc::new(AtomicU64::new(0));
        let (shared, count) = (Arc::clone(&state), Arc::clone(&harmed));
        thread::spawn(move || {
            let random = SeededRandom::new(seed);
            for client in listener.incoming().flatten() {
                let (shared, count, course) = (Arc::clone(&shared), Arc::clone(&count), draw(&shared, &random));
                thread::spawn(move || serve(client, server, course, &shared, &count));
            }
        });
        Proxy { address, state, harmed }
    }

    /// Changes what happens to connections from now on; those that are open end.
    pub fn set(&self, weather: Weather) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.weather = weather;
        for stream in state.open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// How many connections something happened to.
    pub fn harmed(&self) -> u64 {
        self.harmed.load(Ordering::SeqCst)
    }
}

/// `None`: the connection ends at once.
fn draw(state: &Mutex<State>, random: &SeededRandom) -> Option<Course> {
    let weather = state.lock().unwrap_or_else(PoisonError::into_inner).weather;
    let bytes = random.next_u64() % BYTES_MAX;
    Some(match weather {
        Weather::Clear => Course::Carry,
        Weather::Silent => Course::Silence(0),
        Weather::Slow(bytes) => Course::Pace(bytes),
        Weather::Storm => match random.next_u64() % 12 {
            // Connections are used again and again: none of them lives for ever.
            0..4 => Course::BreakDown(BYTES_MAX + bytes),
            4 | 5 => Course::BreakUp(bytes),
            6 => Course::BreakDown(0),
            7 => Course::BreakDown(bytes),
            8 => Course::CloseUp(bytes),
            9 => Course::Silence(bytes),
            10 => Course::Busy,
            _ => return None,
        },
    })
}

fn serve(
    mut client: TcpStream,
    server: SocketAddr,
    course: Option<Course>,
    state: &Mutex<State>,
    harmed: &Arc<AtomicU64>,
) -> Option<()> {
    let Some(course) = course else {
        harmed.fetch_add(1, Ordering::SeqCst);
        return None;
    };
    if matches!(course, Course::Busy) {
        harmed.fetch_add(1, Ordering::SeqCst);
        let mut head = [0; 1_024];
        let _ = client.read(&mut head);
        let answer = "HTTP/1.1 503 Slow Down\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        return client.write_all(answer.as_bytes()).ok();
    }
    let server = TcpStream::connect(server).ok()?;
    {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.open.extend([client.try_clone().ok()?, server.try_clone().ok()?]);
    }
    let (from, to) = (client.try_clone().ok()?, server.try_clone().ok()?);
    let count = Arc::clone(harmed);
    let up = thread::spawn(move || pump(from, to, course, true, &count));
    pump(server, client, course, false, harmed);
    let _ = up.join();
    Some(())
}

/// Carries one direction until it ends, or until what is to happen happens.
fn pump(mut from: TcpStream, mut to: TcpStream, course: Course, is_up: bool, harmed: &AtomicU64) -> Option<()> {
    let most = match (course, is_up) {
        (Course::BreakUp(bytes) | Course::CloseUp(bytes), true) => Some(bytes),
        (Course::BreakDown(bytes) | Course::Silence(bytes), false) => Some(bytes),
        _ => None,
    };
    let mut buffer = [0; 16 << 10];
    let mut left = most.unwrap_or(u64::MAX);
    loop {
        let room = if matches!(course, Course::Pace(_)) { PIECE_BYTES } else { buffer.len() as u64 };
        let read = from.read(&mut buffer[..room as usize]).unwrap_or(0);
        if read == 0 {
            let _ = to.shutdown(Shutdown::Write);
            return None;
        }
        let carried = left.min(read as u64);
        if carried > 0 && to.write_all(&buffer[..carried as usize]).is_err() {
            let _ = from.shutdown(Shutdown::Both);
            return None;
        }
        left -= carried;
        if let Course::Pace(bytes) = course {
            thread::sleep(Duration::from_micros(read as u64 * 1_000_000 / bytes.max(1)));
        }
        if left > 0 || most.is_none() {
            continue;
        }
        harmed.fetch_add(1, Ordering::SeqCst);
        match course {
            Course::CloseUp(_) => {
                let _ = to.shutdown(Shutdown::Write);
                return None;
            }
            // Whoever waits gives up, or the weather changes.
            Course::Silence(_) => {
                while from.read(&mut buffer).is_ok_and(|read| read > 0) {}
                return None;
            }
            _ => {
                let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                return None;
            }
        }
    }
}
