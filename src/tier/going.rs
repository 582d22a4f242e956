//! Objects on their way to the bucket in parts: what it has of each, over restarts, so that an upload that broke off goes on.
//!
//! Invariant: an object never changes, so parts of two tries are parts of one object.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Tier, keys_below, remove_dir_of};
use crate::error::{Context as _, Error, Result};
use crate::format::uploads::{UploadFile, decode_upload, encode_upload};
use crate::platform::disk::{Disk, create_dirs, if_there, publish};
use crate::store::Ledger;

/// Of so many uploads it is remembered what the bucket has; others begin anew when they break off.
const KEPT_MAX: usize = 64;

/// What is known of one object's upload.
#[derive(Debug)]
pub struct Going {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    key: String,
}

impl Going {
    fn path(&self) -> PathBuf {
        self.root.join(&self.key)
    }
}

impl Ledger for Going {
    fn read(&self) -> Option<UploadFile> {
        let path = self.path();
        let name = path.display().to_string();
        let bytes = if_there(self.disk.read(&path)).context(|| format!("read {name}"));
        let found = bytes.and_then(|bytes| bytes.map(|bytes| decode_upload(&bytes, &name)).transpose());
        found.unwrap_or_else(|error| {
            tracing::warn!(%error, "an upload begins anew");
            None
        })
    }

    fn keep(&self, upload: &UploadFile) -> Result<()> {
        let path = self.path();
        let step = || format!("write {}", path.display());
        if if_there(self.disk.size(&path)).context(step)?.is_none() {
            if keys_below(&*self.disk, &self.root, "")?.len() >= KEPT_MAX {
                return Err(Error::busy(format!("{KEPT_MAX} uploads broke off already")));
            }
            create_dirs(&*self.disk, path.parent().unwrap_or(&self.root)).context(step)?;
        }
        publish(&*self.disk, &path, &encode_upload(upload)?).context(step)
    }

    fn forget(&self) -> Result<()> {
        let path = self.path();
        if_there(self.disk.remove(&path)).context(|| format!("remove {}", path.display()))?;
        remove_dir_of(&*self.disk, &path);
        Ok(())
    }
}

impl Tier {
    /// What is known of the upload of an object.
    pub fn going(&self, key: &str) -> Going {
        Going { disk: self.disk.clone(), root: self.going.clone(), key: key.to_owned() }
    }

    /// The objects whose upload broke off.
    pub fn all_going(&self) -> Result<Vec<String>> {
        Ok(keys_below(&*self.disk, &self.going, "")?.into_iter().map(|(key, _)| key).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::tier;
    use super::KEPT_MAX;
    use crate::format::uploads::{UploadFile, VERSION};
    use crate::platform::memory_disk::MemoryDisk;
    use crate::store::Ledger;

    fn upload(parts: usize) -> UploadFile {
        let parts = (0..parts).map(|at| format!("\"{at}\"")).collect();
        UploadFile { format: VERSION, bytes: 90, part_bytes: 10, upload: "u".into(), parts, idle_tries: 0 }
    }

    #[test]
    fn what_the_bucket_has_is_known_until_it_is_forgotten_and_of_a_bounded_number_of_objects() {
        let disk = MemoryDisk::default();
        let tier = tier(&disk);
        assert_eq!(tier.going("a/b").read(), None);
        tier.going("a/b").forget().unwrap();
        for parts in 0..4 {
            tier.going("a/b").keep(&upload(parts)).unwrap();
            assert_eq!(tier.going("a/b").read(), Some(upload(parts)));
        }
        for at in 0..2 * KEPT_MAX {
            assert_eq!(tier.going(&format!("a/{at}")).keep(&upload(1)).is_ok(), at < KEPT_MAX - 1);
        }
        tier.going("a/b").keep(&upload(9)).unwrap();
        assert_eq!((tier.going("a/b").read(), tier.all_going().unwrap().len()), (Some(upload(9)), KEPT_MAX));
        for key in tier.all_going().unwrap() {
            tier.going(&key).forget().unwrap();
        }
        assert_eq!((tier.going("a/b").read(), tier.all_going().unwrap()), (None, vec![]));
    }

    #[test]
    fn a_damaged_record_is_none() {
        let disk = MemoryDisk::default();
        let tier = tier(&disk);
        tier.going("a").keep(&upload(2)).unwrap();
        let path = std::path::Path::new("/data/going/a");
        let mut file =
            crate::platform::disk::Disk::create(&disk, &std::path::PathBuf::from("/data/going/b")).unwrap();
        file.write(b"nonsense").unwrap();
        crate::platform::disk::Disk::rename(&disk, std::path::Path::new("/data/going/b"), path).unwrap();
        assert_eq!(tier.going("a").read(), None);
    }
}
