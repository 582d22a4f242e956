//! A bucket on Google Cloud Storage, against a stand-in: no server of Google's, nor anybody else's, but what its public description of
//! the XML API says of the requests that a bucket makes, as strictly as it is said there. No emulator that could be had honours
//! `x-goog-if-generation-match` and uploads in parts.
//!
//! It shows that requests are shaped and signed as described (tokens are JWTs that the service account's key signed), and what is told
//! of refusals. It cannot show that Google does what Google describes.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use ring::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use serde_json::{Value, json};
use shoal::error::Kind;
use shoal::store::{Bucket, BucketConfig, MISCONFIGURED, PART_BYTES, Patience, probe};

use crate::conformance::conforms;
use crate::http::{Asked, reply, serve};
use crate::started::program;
use crate::{clock, open, random};

const WRITER: &str = "writer@project.iam.gserviceaccount.com";
/// Who may read and list.
const READER: &str = "reader@project.iam.gserviceaccount.com";
/// Fewer than Google's 1,000, so that listings have several pages.
const PAGE_KEYS: usize = 5;
/// Of all parts but the last.
const PART_BYTES_MIN: usize = 5 << 20;

#[derive(Default)]
struct Stored {
    /// With their generations.
    objects: BTreeMap<String, (Vec<u8>, u64)>,
    /// By id: of which object, and the parts by number.
    uploads: BTreeMap<String, (String, BTreeMap<usize, Vec<u8>>)>,
    generation: u64,
}

struct Google {
    public_key: Vec<u8>,
    stored: Mutex<Stored>,
}

type Answered = Result<Vec<u8>, (u16, &'static str)>;

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            b'+' => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).unwrap()
}

fn etag(bytes: &[u8]) -> String {
    format!("\"{:08x}\"", crc32c::crc32c(bytes))
}

fn object(status: u16, headers: &str, (all, generation): &(Vec<u8>, u64), body: &[u8]) -> Vec<u8> {
    let headers = format!(
        "{headers}ETag: {}\r\nx-goog-generation: {generation}\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
        etag(all)
    );
    let mut answer = reply(status, &headers, "");
    let length = format!("Content-Length: {}\r\n\r\n", body.len());
    answer.truncate(answer.len() - "Content-Length: 0\r\n\r\n".len());
    [answer, length.into_bytes(), body.to_vec()].concat()
}

impl Google {
    fn answer(&self, asked: &Asked) -> Vec<u8> {
        self.answered(asked).unwrap_or_else(|(status, code)| {
            let xml = format!(
                "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>because</Message></Error>"
            );
            let body = if asked.method == "HEAD" { "" } else { &xml };
            reply(status, "Content-Type: application/xml; charset=UTF-8\r\n", body)
        })
    }

    /// Who asks: the issuer of a token that it signed itself, within the hour that it is good for.
    fn who(&self, asked: &Asked) -> Option<String> {
        let token = asked.headers.get("authorization")?.strip_prefix("Bearer ")?;
        let (signed, signature) = token.rsplit_once('.')?;
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.public_key);
        key.verify(signed.as_bytes(), &BASE64_URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
        let (head, claims) = signed.split_once('.')?;
        let read = |part| serde_json::from_slice::<Value>(&BASE64_URL_SAFE_NO_PAD.decode(part).ok()?).ok();
        let (head, claims) = (read(head)?, read(claims)?);
        let now = clock().now_millis() / 1_000;
        let (from, until) = (claims["iat"].as_u64()?, claims["exp"].as_u64()?);
        let is_good = head["alg"] == "RS256"
            && claims["iss"] == claims["sub"]
            && claims["scope"] == "https://www.googleapis.com/auth/cloud-platform"
            && (from..=from + 3_600).contains(&now)
            && until <= from + 3_600;
        claims["iss"].as_str().filter(|_| is_good).map(str::to_owned)
    }

    fn answered(&self, asked: &Asked) -> Answered {
        let who = self.who(asked).ok_or((401, "AuthenticationRequired"))?;
        let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let query: BTreeMap<String, String> = pairs.map(|(name, value)| (decoded(name), decoded(value))).collect();
        let (bucket, key) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
        let key = decoded(key);
        if bucket != "data" {
            return Err((404, "NoSuchBucket"));
        }
        if who != WRITER && !matches!(asked.method.as_str(), "GET" | "HEAD") {
            return Err((403, "AccessDenied"));
        }
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        let condition = asked.headers.get("x-goog-if-generation-match").map(|text| text.parse::<u64>().unwrap());
        match (asked.method.as_str(), query.get("uploadId")) {
            ("GET", None) if key.is_empty() => stored.list(&query),
            ("GET" | "HEAD", None) => stored.get(&key, asked),
            ("PUT", None) => stored.put(key, asked.body.clone(), condition),
            ("PUT", Some(id)) => {
                let number: usize =
                    query.get("partNumber").and_then(|text| text.parse().ok()).ok_or((400, "InvalidArgument"))?;
                let (of, parts) = stored.uploads.get_mut(id).ok_or((404, "NoSuchUpload"))?;
                assert!(*of == key && (1..=10_000).contains(&number), "part {number} of {of} for {key}");
                parts.insert(number, asked.body.clone());
                Ok(reply(200, &format!("ETag: {}\r\n", etag(&asked.body)), ""))
            }
            ("POST", None) if query.contains_key("uploads") => {
                stored.generation += 1;
                let id = format!("upload/{}+", stored.generation);
                let told = format!(
                    "<InitiateMultipartUploadResult><Bucket>data</Bucket><Key>{key}</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                );
                stored.uploads.insert(id, (key, BTreeMap::new()));
                Ok(reply(200, "", &told))
            }
            ("POST", Some(id)) => stored.complete(id, &asked.body),
            ("DELETE", Some(id)) => {
                stored.uploads.remove(id).map(|_| reply(204, "", "")).ok_or((404, "NoSuchUpload"))
            }
            ("DELETE", None) => stored.objects.remove(&key).map(|_| reply(204, "", "")).ok_or((404, "NoSuchKey")),
            _ => Err((405, "MethodNotAllowed")),
        }
    }
}

impl Stored {
    fn put(&mut self, key: String, bytes: Vec<u8>, condition: Option<u64>) -> Answered {
        let generation = self.objects.get(&key).map_or(0, |(_, generation)| *generation);
        if condition.is_some_and(|wanted| wanted != generation) {
            return Err((412, "PreconditionFailed"));
        }
        self.generation += 1;
        let headers = format!("ETag: {}\r\nx-goog-generation: {}\r\n", etag(&bytes), self.generation);
        self.objects.insert(key, (bytes, self.generation));
        Ok(reply(200, &headers, ""))
    }

    fn get(&self, key: &str, asked: &Asked) -> Answered {
        let found = self.objects.get(key).ok_or((404, "NoSuchKey"))?;
        let all = &found.0;
        if asked.method == "HEAD" {
            let mut answer = object(200, "", found, all);
            answer.truncate(answer.len() - all.len());
            return Ok(answer);
        }
        let Some(range) = asked.headers.get("range") else { return Ok(object(200, "", found, all)) };
        let (from, to) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).unwrap();
        let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
        if from >= all.len() {
            return Err((416, "InvalidRange"));
        }
        let to = to.min(all.len() - 1);
        Ok(object(206, &format!("Content-Range: bytes {from}-{to}/{}\r\n", all.len()), found, &all[from..=to]))
    }

    fn list(&self, query: &BTreeMap<String, String>) -> Answered {
        assert_eq!(query.get("list-type").map(String::as_str), Some("2"));
        let prefix = query.get("prefix").map_or("", String::as_str);
        let after = query.get("continuation-token").or(query.get("start-after")).cloned().unwrap_or_default();
        let mut found = self.objects.iter().filter(|(key, _)| key.starts_with(prefix) && **key > after).peekable();
        let (mut xml, mut last) = (String::new(), "");
        for (key, (bytes, generation)) in found.by_ref().take(PAGE_KEYS) {
            let (etag, size) = (etag(bytes), bytes.len());
            xml += &format!(
                "<Contents><Key>{key}</Key><Generation>{generation}</Generation><MetaGeneration>1</MetaGeneration><LastModified>2024-01-02T03:04:05.678Z</LastModified><ETag>{etag}</ETag><Size>{size}</Size></Contents>"
            );
            last = key;
        }
        let more = found.peek().map(|_| format!("<NextContinuationToken>{last}</NextContinuationToken>"));
        let truncated = format!("<IsTruncated>{}</IsTruncated>{}", more.is_some(), more.unwrap_or_default());
        let head =
            "<?xml version='1.0' encoding='UTF-8'?><ListBucketResult xmlns='http://doc.s3.amazonaws.com/2006-03-01'>";
        Ok(reply(
            200,
            "",
            &format!("{head}<Name>data</Name><Prefix>{prefix}</Prefix>{truncated}{xml}</ListBucketResult>"),
        ))
    }

    fn complete(&mut self, id: &str, body: &[u8]) -> Answered {
        let (_, sent) = self.uploads.get(id).ok_or((404, "NoSuchUpload"))?;
        let text = std::str::from_utf8(body).unwrap();
        let field = |part: &str, name: &str| {
            let (_, rest) = part.split_once(&format!("<{name}>"))?;
            Some(rest.split_once("</")?.0.to_owned())
        };
        let parts: Vec<&str> = text.split("<Part>").skip(1).collect();
        let mut whole = Vec::new();
        for (at, part) in parts.iter().enumerate() {
            let number: usize = field(part, "PartNumber").and_then(|text| text.parse().ok()).unwrap();
            let bytes = sent.get(&number).ok_or((400, "InvalidPart"))?;
            if number != at + 1 || field(part, "ETag") != Some(etag(bytes)) {
                return Err((400, "InvalidPart"));
            }
            if at + 1 < parts.len() && bytes.len() < PART_BYTES_MIN {
                return Err((400, "EntityTooSmall"));
            }
            whole.extend_from_slice(bytes);
        }
        let (key, _) = self.uploads.remove(id).unwrap();
        let told = format!(
            "<CompleteMultipartUploadResult><Key>{key}</Key><ETag>{}</ETag></CompleteMultipartUploadResult>",
            etag(&whole)
        );
        self.put(key, whole, None)?;
        Ok(reply(200, &format!("x-goog-generation: {}\r\n", self.generation), &told))
    }
}

/// An RSA key in PEM, and its public half; none where there is no openssl.
fn key() -> Option<(String, Vec<u8>)> {
    let openssl = program("SHOAL_OPENSSL", "openssl")?;
    let made = Command::new(openssl)
        .args("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048".split(' '))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let pem = String::from_utf8(made.stdout).unwrap();
    let der: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let pair = RsaKeyPair::from_pkcs8(&BASE64_STANDARD.decode(der).unwrap()).unwrap();
    Some((pem, pair.public_key().as_ref().to_vec()))
}

fn account(dir: &tempfile::TempDir, config: &BucketConfig, email: &str, pem: &str) -> BucketConfig {
    let file = dir.path().join(format!("{}.json", crc32c::crc32c(format!("{email}{pem}").as_bytes())));
    let account =
        json!({"type": "service_account", "client_email": email, "private_key_id": "1", "private_key": pem});
    std::fs::write(&file, account.to_string()).unwrap();
    BucketConfig { credentials_file: Some(file), ..config.clone() }
}

/// The stand-in with an empty bucket `data`, and the writer's key.
async fn google() -> Option<(BucketConfig, tempfile::TempDir, String)> {
    let (pem, public_key) = key()?;
    let google = Google { public_key, stored: Mutex::default() };
    let (config, dir) = serve(move |_, asked| google.answer(asked)).await;
    let config = BucketConfig { url: "gs://data/a/root".into(), ..config };
    Some((account(&dir, &config, WRITER, &pem), dir, pem))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stand_in_for_google_conforms() {
    let Some((config, _dir, _)) = google().await else { return };
    conforms(&open(&config, 1), 16).await;
    // A slash at the end of the endpoint is none of the path.
    let endpoint = config.endpoint.as_ref().map(|endpoint| format!("{endpoint}/"));
    let bucket = open(&BucketConfig { endpoint, ..config }, 2);
    bucket.put("slash", Bytes::from_static(b"x"), &Patience::ASKED).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_google_refuses_is_told_at_once_and_in_words() {
    let Some((config, dir, pem)) = google().await else { return };
    let patience = Patience::ASKED.within(Duration::from_secs(5));
    let (other_pem, _) = key().unwrap();
    for (config, told, hint) in [
        (
            account(&dir, &config, WRITER, &other_pem),
            "wrong or expired credentials: AuthenticationRequired",
            "GOOGLE_APPLICATION_CREDENTIALS",
        ),
        (account(&dir, &config, READER, &pem), "not allowed: AccessDenied", "need to read, write, delete and list"),
        (
            BucketConfig { url: "gs://missing/root".into(), ..config.clone() },
            "there is no such bucket: NoSuchBucket",
            "create the bucket",
        ),
    ] {
        let bucket = open(&config, 1);
        let large = Bytes::from(vec![1; usize::try_from(PART_BYTES).unwrap() + 1]);
        for error in [
            bucket.put("a", "x".into(), &patience).await.unwrap_err(),
            bucket.upload("a", std::sync::Arc::new(large), None, &patience).await.unwrap_err(),
            probe(&bucket, &patience).await.unwrap_err(),
        ] {
            assert!(error.code() == MISCONFIGURED && error.message().contains(told), "{error}");
            assert!(error.hint().unwrap().contains(hint), "{error}: {:?}", error.hint());
        }
    }
}

#[test]
fn credentials_of_google_that_are_none_are_refused_before_anything_is_asked_and_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("credentials");
    let config =
        BucketConfig { url: "gs://data".into(), credentials_file: Some(file.clone()), ..BucketConfig::default() };
    let account = json!({"type": "service_account", "client_email": WRITER, "private_key_id": "1", "private_key": "notToBeSeen"});
    for text in [None, Some(""), Some("google_key = notToBeSeen"), Some("{}"), Some(account.to_string().as_str())] {
        if let Some(text) = text {
            std::fs::write(&file, text).unwrap();
        }
        let Err(error) = Bucket::open(&config, clock(), random(1)) else { panic!("{text:?} was taken") };
        assert_eq!((error.kind(), error.code()), (Kind::Invalid, MISCONFIGURED), "{error}");
        assert!(
            error.message().starts_with("open gs://data: ") && !error.message().contains("notToBeSeen"),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("GOOGLE_APPLICATION_CREDENTIALS"));
        println!("RUN: {error}");
    }
}
