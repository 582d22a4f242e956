//! What reclaiming leaves in a bucket: fences in manifests, lists of what they condemned, and holds on others' objects.
//!
//! Invariant: each is created once and never changed; a later one says what holds now.

use serde::{Deserialize, Serialize};

use super::envelope;
use super::manifest::is_key;
use crate::error::{Error, Result};
use crate::model::ids::Nsid;

/// Of lists and holds.
pub const VERSION: u32 = 1;
/// The most objects that one fence condemns.
pub const CONDEMNED_MAX: usize = 10_000;
/// The most objects that one hold names: all that a first manifest can name of others.
pub const HELD_MAX: usize = 16_384;

/// The newest fence of a chain, in every manifest from its own on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fence {
    /// The manifest that announced it.
    pub generation: u64,
    /// The key of the list of what it condemned; in generation 0 of none.
    pub sweep: String,
    /// The oldest generation that is retained; what only earlier ones need may go. One above `generation`: not even that
    /// manifest's objects are, since the namespace was deleted, or never came to be where `generation` is 0.
    pub retained: u64,
    pub at_ms: u64,
}

/// What a fence condemned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepFile {
    pub format: u32,
    pub nsid: Nsid,
    /// The manifest that was to announce it: it counts when that one names it.
    pub generation: u64,
    /// The fence before it.
    pub before: Option<Fence>,
    /// Keys of objects.
    pub condemned: Vec<String>,
}

/// What one namespace needs of another's objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldFile {
    pub format: u32,
    /// Who needs them, and its name.
    pub holder: Nsid,
    pub name: String,
    /// Whose they are.
    pub owner: Nsid,
    pub rev: u64,
    pub at_ms: u64,
    /// Keys of objects.
    pub objects: Vec<String>,
}

pub fn encode_sweep(file: &SweepFile) -> Result<Vec<u8>> {
    check_sweep(file).map_err(|what| Error::internal(format!("encode a list of the condemned: {what}")))?;
    envelope::seal(file).map(|(bytes, _)| bytes)
}

pub fn decode_sweep(bytes: &[u8], name: &str) -> Result<SweepFile> {
    let (file, _) = envelope::open::<SweepFile>(bytes, VERSION, name)?;
    check_sweep(&file).map_err(|what| Error::corrupt(format!("{name}: {what}")))?;
    Ok(file)
}

pub fn encode_hold(file: &HoldFile) -> Result<Vec<u8>> {
    check_hold(file).map_err(|what| Error::internal(format!("encode a hold: {what}")))?;
    envelope::seal(file).map(|(bytes, _)| bytes)
}

pub fn decode_hold(bytes: &[u8], name: &str) -> Result<HoldFile> {
    let (file, _) = envelope::open::<HoldFile>(bytes, VERSION, name)?;
    check_hold(&file).map_err(|what| Error::corrupt(format!("{name}: {what}")))?;
    Ok(file)
}

fn check_sweep(file: &SweepFile) -> std::result::Result<(), String> {
    if let Some(before) = &file.before {
        check_fence(before)?;
        if before.generation >= file.generation {
            return Err(format!("the fence before {} is {}", file.generation, before.generation));
        }
    }
    check_keys(&file.condemned, CONDEMNED_MAX)
}

fn check_hold(file: &HoldFile) -> std::result::Result<(), String> {
    check_keys(&file.objects, HELD_MAX)
}

/// What must hold in every fence.
pub(super) fn check_fence(fence: &Fence) -> std::result::Result<(), String> {
    if !is_key(&fence.sweep) {
        return Err(format!("the fence's list {:?} is no key", fence.sweep));
    }
    let is_first = fence.generation == 0 && fence.retained != 1;
    if is_first || fence.retained > fence.generation.saturating_add(1) {
        return Err(format!("fence {} retains from {} on", fence.generation, fence.retained));
    }
    Ok(())
}

fn check_keys(keys: &[String], keys_max: usize) -> std::result::Result<(), String> {
    if keys.len() > keys_max {
        return Err(format!("{} objects, expected at most {keys_max}", keys.len()));
    }
    match keys.iter().find(|key| !is_key(key)) {
        Some(key) => Err(format!("object key {key:?} is not a relative path of A-Za-z0-9._=-")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Fence, HoldFile, SweepFile, VERSION, decode_hold, decode_sweep, encode_hold, encode_sweep};
    use crate::format::envelope;
    use crate::model::ids::Nsid;
    use uuid::Uuid;

    fn sweep() -> SweepFile {
        let before = Fence { generation: 7, sweep: "a/sweeps/1.json".into(), retained: 5, at_ms: 3 };
        let condemned = vec!["a/segments/b/data.seg".into()];
        SweepFile { format: VERSION, nsid: Nsid(Uuid::from_u128(1)), generation: 9, before: Some(before), condemned }
    }

    fn hold() -> HoldFile {
        let (holder, owner) = (Nsid(Uuid::from_u128(2)), Nsid(Uuid::from_u128(1)));
        let objects = vec!["a/segments/b/data.seg".into()];
        HoldFile { format: VERSION, holder, name: "a/b/c".into(), owner, rev: 4, at_ms: 5, objects }
    }

    #[test]
    fn lists_and_holds_come_back_as_they_were_written() {
        assert_eq!(decode_sweep(&encode_sweep(&sweep()).unwrap(), "sweep").unwrap(), sweep());
        assert_eq!(decode_hold(&encode_hold(&hold()).unwrap(), "hold").unwrap(), hold());
    }

    #[test]
    fn what_contradicts_itself_is_neither_written_nor_read() {
        let after = Fence { generation: 9, ..sweep().before.unwrap() };
        let beyond = Fence { retained: 9, ..sweep().before.unwrap() };
        for wrong in [
            SweepFile { condemned: vec!["../x".into()], ..sweep() },
            SweepFile { condemned: vec!["x".into(); 10_001], ..sweep() },
            SweepFile { before: Some(after), ..sweep() },
            SweepFile { before: Some(beyond), ..sweep() },
        ] {
            assert!(encode_sweep(&wrong).is_err());
            assert!(decode_sweep(&envelope::seal(&wrong).unwrap().0, "sweep").is_err());
        }
        let wrong = HoldFile { objects: vec!["/x".into()], ..hold() };
        assert!(encode_hold(&wrong).is_err() && decode_hold(&envelope::seal(&wrong).unwrap().0, "hold").is_err());
    }
}
