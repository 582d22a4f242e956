//! What writes to a directory left that broke off: files that are not in place yet, which the crate calls `NAME#NUMBER` and no listing
//! shows, and directories that nothing is in any more.
//!
//! Only what may be ours is touched, and only what was not written to for [`AGE`]: by then nobody is writing it. A writer whose file goes
//! all the same is told, and writes it again.

use std::fs::DirEntry;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::bucket::Bucket;
use super::facts::Facts;
use super::failure::explain;
use super::keys;
use crate::error::{Error, Result};

const AGE: Duration = Duration::from_secs(24 * 3_600);

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub files: u64,
    pub bytes: u64,
}

impl Bucket {
    /// Removes what writes to a directory left that broke off a day ago or more. Other stores show and end such uploads themselves.
    pub async fn sweep_staged(&self) -> Result<Swept> {
        let Some(directory) = self.inner.backend.directory.clone() else { return Ok(Swept::default()) };
        let named = |error| {
            explain(self.name(), &self.inner.backend.endpoint, &error, &Facts::default()).into_error(self.name())
        };
        let at = directory.hold().await.map_err(named)?;
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(self.inner.clock.now_millis());
        let swept = tokio::task::spawn_blocking(move || sweep(at.path(), now)).await;
        let swept = swept.map_err(|error| Error::internal(format!("{}: {error}", self.name())))?;
        swept.map_err(|error| Error::from(error).context(format!("look for broken uploads in {}", self.name())))
    }
}

/// All of a bucket's directory, as of `now`.
fn sweep(root: &Path, now: SystemTime) -> io::Result<Swept> {
    let mut swept = Swept::default();
    below(root, &mut Vec::new(), now, &mut swept)?;
    Ok(swept)
}

/// One directory, which is at `parts` below the root; gives whether it is empty by now. What goes meanwhile is gone.
fn below(dir: &Path, parts: &mut Vec<String>, now: SystemTime, swept: &mut Swept) -> io::Result<bool> {
    let mut is_empty = true;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            is_empty = false;
            continue;
        };
        let kind = entry.file_type()?;
        let is_gone = if kind.is_dir() && keys::check(&name).is_ok() && !name.starts_with('.') {
            let is_old = is_old(&entry, now);
            parts.push(name);
            let is_bare = match below(&entry.path(), parts, now, swept) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => true,
                Err(error) => {
                    // Of the others what is left is removed all the same.
                    tracing::warn!(%error, path = %entry.path().display(), "not looked through for broken uploads");
                    false
                }
                Ok(is_bare) => is_bare,
            };
            let goes = is_bare && is_old && is_of_an_incarnation(parts);
            parts.pop();
            goes && std::fs::remove_dir(entry.path()).is_ok()
        } else if kind.is_file() && is_staged(parts, &name) && is_old(&entry, now) {
            let bytes = entry.metadata().map_or(0, |metadata| metadata.len());
            let is_gone = std::fs::remove_file(entry.path()).is_ok();
            if is_gone {
                swept.files += 1;
                swept.bytes += bytes;
            }
            is_gone
        } else {
            false
        };
        is_empty &= is_gone;
    }
    Ok(is_empty)
}

fn is_old(entry: &DirEntry, now: SystemTime) -> bool {
    let written = entry.metadata().and_then(|metadata| metadata.modified());
    written.is_ok_and(|written| now.duration_since(written).is_ok_and(|since| since >= AGE))
}

/// Whether a directory is one of an incarnation's: `org/project/namespaces/nsid`, or below it.
fn is_of_an_incarnation(parts: &[String]) -> bool {
    parts.len() >= 4 && parts[2] == "namespaces" && uuid::Uuid::try_parse(&parts[3]).is_ok()
}

/// Whether a file is a staged one of a key of ours.
fn is_staged(parts: &[String], name: &str) -> bool {
    let Some((key, number)) = name.rsplit_once('#') else { return false };
    let is_ours = match parts {
        [] => key.starts_with('_'),
        [first, ..] if first.starts_with('_') => true,
        [_, _, kind, ..] => kind == "names" || is_of_an_incarnation(parts),
        _ => false,
    };
    is_ours && keys::check(key).is_ok() && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::{AGE, Swept, sweep};

    const NSID: &str = "a/b/namespaces/018bcfe5-6800-7046-8c52-c2d8a81dd694";

    fn put(root: &Path, file: &str) {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"12345").unwrap();
    }

    fn files(root: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut open = vec![root.to_owned()];
        while let Some(dir) = open.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let shown = path.strip_prefix(root).unwrap().display().to_string();
                match path.is_dir() {
                    true => {
                        found.push(format!("{shown}/"));
                        open.push(path);
                    }
                    false => found.push(shown),
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn what_broke_off_a_day_ago_goes_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let ours = [
            format!("{NSID}/segments/x/data.seg#1"),
            format!("{NSID}/manifests/00000000000000000000.json#12"),
            "a/b/names/docs/00000000000000000000.json#1".to_owned(),
            "_ids/00000000000000000000.json#1".to_owned(),
            "_probe/x/a/b#1".to_owned(),
            "_format.json#1".to_owned(),
        ];
        let others = [
            format!("{NSID}/segments/y/data.seg"),
            format!("{NSID}/segments/y/data.seg#"),
            format!("{NSID}/segments/y/data.seg#x"),
            "a/b/names/docs/00000000000000000000.json".to_owned(),
            "report#1".to_owned(),
            "a/b/report#1".to_owned(),
            "a/b/c/report#1".to_owned(),
            "a/b/namespaces/mine/report#1".to_owned(),
            "lost+found/report#1".to_owned(),
        ];
        ours.iter().chain(&others).for_each(|file| put(dir.path(), file));
        std::fs::create_dir_all(dir.path().join("empty/b/namespaces")).unwrap();
        let before = files(dir.path());
        let now = std::fs::metadata(dir.path()).unwrap().modified().unwrap();
        assert_eq!(sweep(dir.path(), now + AGE - Duration::from_secs(60)).unwrap(), Swept::default());
        assert_eq!(sweep(dir.path(), now - 2 * AGE).unwrap(), Swept::default(), "a clock that was set back");
        assert_eq!(files(dir.path()), before);
        let swept = sweep(dir.path(), now + AGE + Duration::from_secs(60)).unwrap();
        assert_eq!(swept, Swept { files: ours.len() as u64, bytes: 5 * ours.len() as u64 });
        let gone = [format!("{NSID}/segments/x/"), format!("{NSID}/manifests/")];
        let left: Vec<String> =
            before.into_iter().filter(|file| !ours.contains(file) && !gone.contains(file)).collect();
        assert_eq!(files(dir.path()), left);
    }
}
