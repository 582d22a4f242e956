//! Commits in the bucket: one object per generation, created once, whatever the network does to the answers.
//!
//! 1. Create the object of the next generation under the condition that its key is free. `Done` is the only answer: won.
//! 2. Anything else is a question, since a request may be repeated on its way, and its answer lost: read the key.
//!    Ours: won. Another's: lost. Nothing: back to 1, with the same bytes.
//! 3. At the deadline the outcome is unknown, and is said to be. The caller asks again with the same bytes, or reads the key.
//!
//! - Each generation has one winner at most, and only who won is told so: the store lets one object take the key, and the bytes
//!   say whose it is.
//! - Objects that a commit names are in the bucket before it: that is the caller's part.

use bytes::Bytes;
use object_store::path::Path as StorePath;

use super::bucket::{Bucket, Created};
use super::failure::{Failure, UNREACHABLE};
use super::list::PAGE_KEYS_MAX;
use super::patience::{Patience, Turns};
use super::read::GET_BYTES_MAX;
use super::traffic::{Ending, Request};
use crate::error::{Error, Kind, Result};

/// The code of the error that says that a commit may have happened, or may happen yet.
pub const COMMIT_UNKNOWN: &str = "commit_unknown";
/// How many manifests are read one after another from a hint on, before a listing is cheaper: a listing of 1,000 keys costs
/// about as much as ten reads.
const READS_MAX: u64 = 16;
/// How often the newest manifest is looked for anew when it is gone by the time it is read.
const LISTINGS_MAX: u32 = 8;
/// A hint is a number of at most 20 digits and a newline.
const HINT_BYTES_MAX: u64 = 64;

/// The key of each generation. Its order is that of the keys.
pub type KeyOf<'a> = &'a (dyn Fn(u64) -> String + Sync);
/// Whether bytes are those that this commit wrote: by their token, never by when they came.
pub type IsMine<'a> = &'a (dyn Fn(&[u8]) -> Result<bool> + Sync);

/// What a commit came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The generation is ours, durably.
    Won,
    /// The generation is another's, whose bytes these are.
    Lost(Bytes),
}

/// Commits `bytes` as `generation`.
///
/// Errors: `commit_unknown` (Unavailable) when the patience ended without an answer; Invalid or Unsupported when the bucket
/// refused before anything could have been committed; the error of `is_mine` about what stands under the key.
pub async fn commit(
    bucket: &Bucket,
    key_of_generation: KeyOf<'_>,
    generation: u64,
    bytes: Bytes,
    is_mine: IsMine<'_>,
    patience: &Patience,
) -> Result<Outcome> {
    let key = key_of_generation(generation);
    let path = bucket.path(&key)?;
    let mut turns = patience.for_body(bytes.len() as u64).begin();
    // Whether any request so far may have been carried out.
    let mut asked = false;
    loop {
        let created = bucket.create_by(&path, bytes.clone(), &mut turns).await;
        let why = match created {
            Ok(Created::Done) => return Ok(Outcome::Won),
            Ok(Created::Exists) => Error::unavailable("the store says that the key is taken"),
            Ok(Created::Unknown(error)) => error,
            // Nothing was committed by this request, but one before it may have been.
            Err(error) if !asked => return Err(error.context(format_args!("commit {key}"))),
            Err(error) => return Err(unknown(&key, &turns, &error)),
        };
        asked = true;
        match read_back(bucket, &key, &path, is_mine, &mut turns, why).await? {
            Some(outcome) => return Ok(outcome),
            None => continue,
        }
    }
}

/// What stands under the key; none when nothing does, and it is time to send again.
async fn read_back(
    bucket: &Bucket,
    key: &str,
    path: &StorePath,
    is_mine: IsMine<'_>,
    turns: &mut Turns,
    mut why: Error,
) -> Result<Option<Outcome>> {
    loop {
        let found = bucket.read_once(path, turns).await;
        let failure = match found {
            Ok(found) => {
                let mine =
                    is_mine(&found).map_err(|error| error.context(format_args!("commit {key}: read it back")))?;
                return Ok(Some(if mine { Outcome::Won } else { Outcome::Lost(found) }));
            }
            Err(failure) => failure,
        };
        let absent = matches!(failure, Failure::Absent);
        let failure = match absent {
            true => {
                Failure::Passing { error: why.duplicate(), ending: Ending::Lost, retry_after: None, silent: false }
            }
            false => failure,
        };
        match bucket.next(turns, failure).await {
            Ok(()) if absent => return Ok(None),
            Ok(()) => {}
            Err(failure) => {
                why = failure.into_error(bucket.name());
                return Err(unknown(key, turns, &why));
            }
        }
    }
}

fn unknown(key: &str, turns: &Turns, why: &Error) -> Error {
    let error = Error::unavailable(format!(
        "commit {key}: the outcome is unknown after {} attempts in {:?}: {why}",
        turns.attempts() + 1,
        turns.whole()
    ));
    error
        .with_code(COMMIT_UNKNOWN)
        .with_hint("nothing is lost here; the next sync reads what the bucket holds and goes on from it")
}

/// The newest generation and its bytes; none when there is none.
///
/// Reads forward from `from`, a hint that may lag or lead nowhere, until a key is free. Without a hint, or when it is gone, or
/// far behind, lists the keys below `list_prefix`, of which only those that `key_of_generation` gives count. Old generations may
/// be gone, the oldest first and never the one before the newest: a lone one below them is none of the chain, and no hint.
pub async fn newest(
    bucket: &Bucket,
    key_of_generation: KeyOf<'_>,
    from: Option<u64>,
    list_prefix: &str,
    patience: &Patience,
) -> Result<Option<(u64, Bytes)>> {
    let mut hint = from;
    let mut is_given = true;
    for _ in 0..LISTINGS_MAX {
        if let Some(start) = hint
            && let Some(bytes) = bucket.get(&key_of_generation(start), patience).await?
        {
            let mut newest = (start, bytes);
            loop {
                let Some(next) = newest.0.checked_add(1) else { return Ok(Some(newest)) };
                if next - start > READS_MAX {
                    break;
                }
                match bucket.get(&key_of_generation(next), patience).await? {
                    Some(bytes) => newest = (next, bytes),
                    None if is_given
                        && next == start + 1
                        && !follows(bucket, key_of_generation, start, list_prefix, patience).await? =>
                    {
                        break;
                    }
                    None => return Ok(Some(newest)),
                }
            }
            is_given = false;
            // Far behind: the listing gives a better hint. A stale one gives none, and the next round reads on from here.
            let after = key_of_generation(newest.0);
            let listed = newest_listed(bucket, key_of_generation, list_prefix, Some(&after), patience).await?;
            hint = Some(listed.unwrap_or(newest.0));
            continue;
        }
        match newest_listed(bucket, key_of_generation, list_prefix, None, patience).await? {
            None => return Ok(None),
            listed => (hint, is_given) = (listed, false),
        }
    }
    Err(Error::unavailable(format!("{}: find the newest below {list_prefix}: it moves on too fast", bucket.name()))
        .with_code(UNREACHABLE))
}

/// Whether a generation that is there is one of the chain's: the one before it is there, too, as long as none follows it. The first
/// has none before it, and the next one, if any, right behind it.
pub async fn follows(
    bucket: &Bucket,
    key_of_generation: KeyOf<'_>,
    generation: u64,
    list_prefix: &str,
    patience: &Patience,
) -> Result<bool> {
    let Some(before) = generation.checked_sub(1) else {
        let page = bucket.list(list_prefix, Some(&key_of_generation(0)), 1, patience).await?;
        return Ok(page.objects.first().is_none_or(|next| next.key == key_of_generation(1)));
    };
    Ok(bucket.size(&key_of_generation(before), patience).await?.is_some())
}

/// The newest generation that a listing shows.
async fn newest_listed(
    bucket: &Bucket,
    key_of_generation: KeyOf<'_>,
    list_prefix: &str,
    after: Option<&str>,
    patience: &Patience,
) -> Result<Option<u64>> {
    let mut newest = None;
    let mut after = after.map(str::to_owned);
    loop {
        let page = bucket.list(list_prefix, after.as_deref(), PAGE_KEYS_MAX, patience).await?;
        for listed in page.objects.iter().rev() {
            if let Some(generation) = generation_of(key_of_generation, &listed.key) {
                newest = newest.max(Some(generation));
                break;
            }
        }
        match page.objects.last() {
            Some(last) if page.more => after = Some(last.key.clone()),
            _ => return Ok(newest),
        }
    }
}

/// The generation that a key is the key of.
fn generation_of(key_of_generation: KeyOf<'_>, key: &str) -> Option<u64> {
    let name = key.rsplit('/').next()?;
    let digits = name.split(|c: char| !c.is_ascii_digit()).next()?;
    let generation = digits.parse().ok()?;
    (key_of_generation(generation) == key).then_some(generation)
}

/// Writes the hint that `generation` is the newest known. It may be overwritten by an older one, and may be lost.
pub async fn write_hint(bucket: &Bucket, key: &str, generation: u64, patience: &Patience) -> Result<()> {
    bucket.put(key, Bytes::from(format!("{generation}\n")), patience).await
}

/// The hint; none when there is none, or it makes no sense: it is never trusted, so it is never an error either.
pub async fn read_hint(bucket: &Bucket, key: &str, patience: &Patience) -> Result<Option<u64>> {
    let bytes = match bucket.get(key, patience).await {
        Err(error) if error.kind() == Kind::Corrupt => None,
        read => read?,
    };
    Ok(bytes.as_deref().filter(|bytes| bytes.len() as u64 <= HINT_BYTES_MAX).and_then(parse_hint))
}

fn parse_hint(bytes: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

impl Bucket {
    /// One read within a commit's turns.
    async fn read_once(&self, path: &StorePath, turns: &mut Turns) -> Result<Bytes, Failure> {
        let fetched = self.attempt(Request::Get, GET_BYTES_MAX, turns, self.fetch(path)).await?;
        fetched.whole(self.name()).map_err(Failure::Lasting)
    }
}

#[cfg(test)]
mod tests {
    use super::{generation_of, parse_hint};

    #[test]
    fn a_hint_is_a_number_and_a_newline() {
        assert_eq!(parse_hint(b"0\n"), Some(0));
        assert_eq!(parse_hint(b"18446744073709551615\n"), Some(u64::MAX));
        for bytes in
            [&b""[..], b"\n", b"1", b"+1\n", b"-1\n", b"1 \n", b"1\n\n", b"18446744073709551616\n", b"\xff\n"]
        {
            assert_eq!(parse_hint(bytes), None);
        }
    }

    #[test]
    fn only_keys_of_generations_count() {
        let key = |generation: u64| format!("m/{generation:020}.json");
        assert_eq!(generation_of(&key, &key(17)), Some(17));
        for other in ["m/17.json", "m/00000000000000000017.json.bak", "m/x", "n/00000000000000000017.json", ""] {
            assert_eq!(generation_of(&key, other), None);
        }
    }
}
