//! The way over HTTP, against a server on this machine that answers as it is told: refusals, waits, lost and hostile answers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use shoal::error::{Error, Kind};
use shoal::platform::clock::ManualClock;
use shoal::store::{
    Bucket, BucketConfig, COMMIT_UNKNOWN, Created, Ending, MISCONFIGURED, Outcome, Patience, Request, UNREACHABLE,
    commit,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Short waits: these tests run on the real clock.
const PATIENCE: Patience = Patience {
    whole: Duration::from_secs(5),
    attempt: Duration::from_secs(5),
    wait_first: Duration::from_millis(5),
    wait_max: Duration::from_millis(20),
};
const SECRET: &str = "notToBeSeen123456";

pub struct Asked {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

/// What is sent back, byte for byte; the connection ends after it. Nothing: it just ends.
type Answer = Arc<dyn Fn(u64, &Asked) -> Vec<u8> + Send + Sync>;

pub async fn serve(
    answer: impl Fn(u64, &Asked) -> Vec<u8> + Send + Sync + 'static,
) -> (BucketConfig, tempfile::TempDir) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (answer, count): (Answer, _) = (Arc::new(answer), Arc::new(AtomicU64::new(0)));
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            let (answer, number) = (Arc::clone(&answer), count.fetch_add(1, Ordering::SeqCst));
            tokio::spawn(async move { one(stream, number, &answer).await });
        }
    });
    serve_at(address)
}

/// A bucket's configuration that leads there.
pub fn serve_at(address: std::net::SocketAddr) -> (BucketConfig, tempfile::TempDir) {
    let endpoint = format!("http://{address}");
    let dir = tempfile::tempdir().unwrap();
    let credentials = dir.path().join("credentials");
    std::fs::write(&credentials, format!("aws_access_key_id = id\naws_secret_access_key = {SECRET}\n")).unwrap();
    let config = BucketConfig {
        url: "s3://data/root".into(),
        endpoint: Some(endpoint),
        allow_http: true,
        credentials_file: Some(credentials),
        ..BucketConfig::default()
    };
    (config, dir)
}

async fn one(mut stream: TcpStream, number: u64, answer: &Answer) -> Option<()> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).ok()?;
    let mut lines = head.lines();
    let mut words = lines.next()?.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    while bytes.len() < head_end + 4 + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let asked = Asked { method, path, headers, body: bytes[head_end + 4..].to_vec() };
    stream.write_all(&answer(number, &asked)).await.ok()?;
    stream.shutdown().await.ok()
}

pub fn reply(status: u16, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

pub const OBJECT: &str = "ETag: \"1\"\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n";

fn refusal(code: &str, more: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>because</Message>{more}<StringToSign>{SECRET}</StringToSign></Error>"
    )
}

fn bucket(config: &BucketConfig) -> Bucket {
    crate::open(config, 5)
}

async fn refused(status: u16, headers: &'static str, body: String) -> Error {
    let (config, _dir) = serve(move |_, _| reply(status, headers, &body)).await;
    let bucket = bucket(&config);
    let error = bucket.get("a", &PATIENCE).await.unwrap_err();
    assert_eq!(bucket.traffic().snapshot().count(Request::Get, Ending::Refused), 1, "told at once: {error}");
    assert!(!format!("{error} {:?}", error.hint()).contains(SECRET), "{error}");
    error
}

#[tokio::test]
async fn refusals_are_told_at_once_and_in_words() {
    for (status, headers, body, text) in [
        (
            403,
            "",
            refusal("InvalidAccessKeyId", ""),
            "wrong or expired credentials: InvalidAccessKeyId: because (status 403)",
        ),
        (403, "", refusal("SignatureDoesNotMatch", ""), "wrong or expired credentials"),
        (404, "", refusal("NoSuchBucket", ""), "there is no such bucket"),
        (
            400,
            "",
            refusal("AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>"),
            "wrong region: the bucket is in eu-west-1",
        ),
        (301, "x-amz-bucket-region: eu-west-3\r\n", String::new(), "wrong region: the bucket is in eu-west-3"),
        (403, "", refusal("RequestTimeTooSkewed", ""), "this machine's clock is wrong"),
        (400, "", String::new(), "the request was refused: status 400"),
    ] {
        let error = refused(status, headers, body).await;
        assert_eq!((error.kind(), error.code()), (Kind::Invalid, MISCONFIGURED), "{error}");
        assert!(error.message().contains(text), "{error}");
    }
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_noticed_by_requests_whose_answers_have_no_body() {
    let (config, _dir) = serve(|_, asked| match asked.method.as_str() {
        "HEAD" => b"HTTP/1.1 404 X\r\nConnection: close\r\n\r\n".to_vec(),
        _ => reply(404, "", &refusal("NoSuchBucket", "")),
    })
    .await;
    let error = bucket(&config).size("a", &PATIENCE).await.unwrap_err();
    assert!(error.message().contains("there is no such bucket"), "{error}");
}

/// What Azure answers to a deletion, of which it is asked in a batch: the batch was read, and this is what became of it.
fn batched(status: u16) -> Vec<u8> {
    let part =
        format!("Content-Type: application/http\r\nContent-ID: 0\r\n\r\nHTTP/1.1 {status} because\r\n\r\n\r\n");
    reply(202, "Content-Type: multipart/mixed; boundary=b\r\n", &format!("--b\r\n{part}--b--\r\n"))
}

#[tokio::test]
async fn what_became_of_a_deletion_in_a_batch_is_told_as_if_there_were_no_batch() {
    let statuses = [503, 202, 404, 403];
    let (config, dir) = serve(move |number, asked| {
        assert!(asked.method == "POST" && asked.path.contains("comp=batch"), "{} {}", asked.method, asked.path);
        batched(statuses[usize::try_from(number).unwrap()])
    })
    .await;
    let credentials = dir.path().join("azure");
    std::fs::write(&credentials, "azure_storage_account_name = me\nazure_storage_account_key = c2VjcmV0\n").unwrap();
    let config = BucketConfig { url: "az://data/root".into(), credentials_file: Some(credentials), ..config };
    let bucket = bucket(&config);
    bucket.delete("a", &PATIENCE).await.unwrap();
    bucket.delete("a", &PATIENCE).await.unwrap();
    let error = bucket.delete("a", &PATIENCE).await.unwrap_err();
    assert!(error.code() == MISCONFIGURED && error.message().contains("not allowed"), "{error}");
}

#[tokio::test]
async fn the_wait_that_a_store_asks_for_is_obeyed() {
    let (config, _dir) = serve(|number, _| match number {
        0 => reply(503, "Retry-After: 1\r\n", &refusal("SlowDown", "")),
        _ => reply(200, OBJECT, "bytes"),
    })
    .await;
    let (bucket, start) = (bucket(&config), Instant::now());
    assert_eq!(bucket.get("a", &PATIENCE).await.unwrap(), Some(Bytes::from_static(b"bytes")));
    assert!(start.elapsed() >= Duration::from_secs(1));
    let snapshot = bucket.traffic().snapshot();
    assert_eq!(
        (snapshot.count(Request::Get, Ending::Overloaded), snapshot.count(Request::Get, Ending::Done)),
        (1, 1)
    );
}

#[tokio::test]
async fn answers_that_break_off_are_asked_for_again() {
    for broken in [
        Vec::new(),
        b"HTTP/1.1 2".to_vec(),
        b"HTTP/1.1 200 X\r\nETag: \"1\"\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 5\r\n\r\nby".to_vec(),
        reply(429, "", ""),
        reply(500, "", "not XML"),
        b"SSH-2.0-OpenSSH\r\n\r\n".to_vec(),
    ] {
        let (config, _dir) = serve(move |number, _| match number {
            0 | 1 => broken.clone(),
            _ => reply(200, OBJECT, "bytes"),
        })
        .await;
        assert_eq!(bucket(&config).get("a", &PATIENCE).await.unwrap(), Some(Bytes::from_static(b"bytes")));
    }
}

#[tokio::test]
async fn an_answer_longer_than_announced_or_asked_for_is_not_taken_in() {
    let (config, _dir) = serve(|_, asked| {
        let listing = asked.path.contains("list-type");
        let mut answer = reply(200, OBJECT, "");
        if listing {
            // Twenty megabytes of a listing that never ends.
            answer = b"HTTP/1.1 200 X\r\nConnection: close\r\n\r\n".to_vec();
            answer.resize(20 << 20, b' ');
        } else {
            let text = String::from_utf8(answer).unwrap().replace("Content-Length: 0", "Content-Length: 99999999999");
            answer = text.into_bytes();
        }
        answer
    })
    .await;
    let bucket = bucket(&config);
    let patience = PATIENCE.within(Duration::from_millis(1_500));
    let error = bucket.get("a", &patience).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "told at once, since ranges are the way: {error}");
    assert!(error.message().contains("of which at most"), "{error}");
    let down = || bucket.traffic().snapshot().bytes_down;
    assert!(down() < 1 << 20);
    let error = bucket.list("", None, 10, &patience).await.unwrap_err();
    assert!(error.message().contains("longer than asked for") || error.message().contains("no answer"), "{error}");
    let attempts = bucket.traffic().snapshot().count(Request::List, Ending::Lost);
    assert!(attempts > 0 && down() < attempts * (17 << 20), "{} bytes in {attempts} attempts", down());
}

#[tokio::test]
async fn nobody_there_is_told_by_what_was_missing() {
    let (mut config, _dir) = serve(|_, _| Vec::new()).await;
    // One attempt, which a resolver may take its time for.
    let never = Duration::from_secs(100_000);
    let patience = Patience {
        whole: Duration::from_secs(12),
        attempt: Duration::from_secs(12),
        wait_first: never,
        wait_max: never,
    };
    for (endpoint, text) in [
        ("http://127.0.0.1:1", "cannot connect to 127.0.0.1:1"),
        ("http://nowhere.invalid", "nowhere.invalid:80 has no address"),
    ] {
        config.endpoint = Some(endpoint.into());
        let error = bucket(&config).get("a", &patience).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (Kind::Unavailable, UNREACHABLE));
        assert!(error.message().contains(text), "{error}");
        assert!(error.hint().is_some());
    }
}

#[tokio::test]
async fn a_host_that_does_not_speak_tls_is_told_so() {
    let (mut config, _dir) = serve(|_, _| b"HTTP/1.1 400 X\r\n\r\n".to_vec()).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = std::io::Write::write_all(&mut stream.unwrap(), b"HTTP/1.1 400 X\r\n\r\n");
        }
    });
    config.endpoint = Some(format!("https://{address}"));
    let error = bucket(&config).get("a", &PATIENCE.within(Duration::from_millis(500))).await.unwrap_err();
    assert!(error.message().contains("gives no trusted TLS connection"), "{error}");
}

#[tokio::test]
async fn an_own_success_that_is_reported_as_a_conflict_or_not_at_all_is_won() {
    for lost in [
        Vec::new(),
        reply(409, "", &refusal("ConditionalRequestConflict", "")),
        reply(412, "", &refusal("PreconditionFailed", "")),
        reply(500, "", ""),
        reply(503, "", ""),
    ] {
        let held: Arc<Mutex<Option<Vec<u8>>>> = Arc::default();
        let held_there = Arc::clone(&held);
        let (config, _dir) = serve(move |_, asked| {
            let mut held = held_there.lock().unwrap();
            match asked.method.as_str() {
                "PUT" => {
                    assert_eq!(asked.headers.get("if-none-match").map(String::as_str), Some("*"));
                    assert_eq!(asked.path, "/data/root/m/0");
                    if held.is_none() {
                        *held = Some(asked.body.clone());
                    }
                    lost.clone()
                }
                _ => match &*held {
                    Some(body) => reply(200, OBJECT, std::str::from_utf8(body).unwrap()),
                    None => reply(404, "", &refusal("NoSuchKey", "")),
                },
            }
        })
        .await;
        let bucket = bucket(&config);
        assert!(!matches!(
            bucket.create("m/0", Bytes::from_static(b"mine"), &PATIENCE).await.unwrap(),
            Created::Done
        ));
        let commit = |bytes: &'static [u8]| {
            let bucket = bucket.clone();
            async move {
                let is_mine = move |found: &[u8]| Ok(found == bytes);
                commit(&bucket, &|g| format!("m/{g}"), 0, Bytes::from_static(bytes), &is_mine, &PATIENCE)
                    .await
                    .unwrap()
            }
        };
        assert_eq!(commit(b"mine").await, Outcome::Won);
        assert_eq!(commit(b"other").await, Outcome::Lost(Bytes::from_static(b"mine")));
    }
}

#[tokio::test]
async fn a_refusal_is_an_answer_only_before_anything_could_have_been_committed() {
    // The second request is the first create repeated, or the read of its key: refused, either way.
    for unanswered in [0, 1, 2] {
        let (config, _dir) = serve(move |number, asked| match asked.method.as_str() {
            _ if number >= unanswered => reply(403, "", &refusal("AccessDenied", "")),
            "PUT" => Vec::new(),
            _ => reply(404, "", &refusal("NoSuchKey", "")),
        })
        .await;
        let bytes = Bytes::from_static(b"mine");
        let committed = commit(&bucket(&config), &|g| format!("m/{g}"), 0, bytes, &|_| Ok(true), &PATIENCE).await;
        let expected = if unanswered == 0 { MISCONFIGURED } else { COMMIT_UNKNOWN };
        assert_eq!(committed.unwrap_err().code(), expected, "{unanswered} unanswered");
    }
}

#[tokio::test]
async fn the_skew_of_this_machines_clock_is_seen() {
    let (config, _dir) =
        serve(|_, _| reply(404, "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n", &refusal("NoSuchKey", ""))).await;
    let clock = Arc::new(ManualClock::at((784_111_777 - 90) * 1_000));
    let bucket = Bucket::open(&config, clock, crate::random(1)).unwrap();
    assert_eq!(bucket.skew_seconds(), None);
    assert_eq!(bucket.get("a", &PATIENCE).await.unwrap(), None);
    assert_eq!(bucket.skew_seconds(), Some(-90));
}

#[tokio::test]
async fn bytes_are_paced_and_counted() {
    let (mut config, _dir) = serve(|_, asked| match asked.method.as_str() {
        "PUT" => reply(200, "ETag: \"1\"\r\n", ""),
        _ => reply(200, OBJECT, &"x".repeat(60_000)),
    })
    .await;
    (config.bytes_per_second_up, config.bytes_per_second_down) = (100_000, 100_000);
    let bucket = bucket(&config);
    for up in [true, false] {
        let start = Instant::now();
        for _ in 0..2 {
            match up {
                true => bucket.put("a", Bytes::from(vec![1; 60_000]), &PATIENCE).await.unwrap(),
                false => assert_eq!(bucket.get("a", &PATIENCE).await.unwrap().unwrap().len(), 60_000),
            }
        }
        // The last piece of each body is paid for by who comes next.
        let took = start.elapsed();
        assert!(took > Duration::from_millis(700) && took < Duration::from_secs(4), "{took:?}");
    }
    let snapshot = bucket.traffic().snapshot();
    assert_eq!((snapshot.bytes_up, snapshot.bytes_down), (120_000, 120_000));
}
