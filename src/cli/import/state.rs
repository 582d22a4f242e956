//! How far an import has come, in a file beside its input: for `--resume`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Result};

/// How far an import of one file into one namespace has come.
pub struct State {
    path: PathBuf,
    saved: Saved,
    /// Whether it must be there: the caller asked for it. Otherwise an input beside which nothing can be written is imported without.
    is_wanted: bool,
    /// Whether what it says is in its file.
    is_kept: bool,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    /// Random, of this import alone; versions before gave none.
    #[serde(default = "random_id")]
    id: String,
    url: String,
    namespace: String,
    rows: u64,
    /// BLAKE3 of these rows, so that another input is not taken for this one.
    rows_hash: String,
}

impl State {
    /// The state beside `file` where the import is to `resume`, and at zero when there is none. Refuses one of another destination.
    pub fn open(file: &Path, url: &str, namespace: &str, resume: bool) -> Result<Self> {
        let mut name = file.as_os_str().to_owned();
        name.push(".shoal-import");
        let path = PathBuf::from(name);
        let fresh = Saved {
            id: random_id(),
            url: url.into(),
            namespace: namespace.into(),
            rows: 0,
            rows_hash: blake3::hash(b"").to_string(),
        };
        if !resume {
            return Ok(State { path, saved: fresh, is_wanted: false, is_kept: false });
        }
        let saved = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => fresh,
            Err(error) => return Err(Error::from(error).context(format!("read {}", path.display()))),
            Ok(bytes) => {
                let saved: Saved = serde_json::from_slice(&bytes)
                    .map_err(|error| Error::invalid(format!("import state {}: {error}", path.display())))?;
                let is_of_another = (&saved.url, &saved.namespace) != (&fresh.url, &fresh.namespace);
                if is_of_another && saved.rows > 0 {
                    return Err(Error::conflict(format!(
                        "import state {} is of namespace {} at {}, expected {namespace} at {url}",
                        path.display(),
                        saved.namespace,
                        saved.url
                    ))
                    .with_hint("remove the state file to import from the first row on"));
                }
                // Nothing is known to be written there.
                if is_of_another { fresh } else { saved }
            }
        };
        let is_kept = saved.rows > 0;
        Ok(State { path, saved, is_wanted: true, is_kept })
    }

    /// What keys are made with, so that they are this import's alone.
    pub fn id(&self) -> &str {
        &self.saved.id
    }

    /// How many rows from the first on are known to be written.
    pub fn rows(&self) -> u64 {
        self.saved.rows
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Refuses an input whose first rows are not the ones that were written.
    pub fn check(&self, hash: blake3::Hash) -> Result<()> {
        if self.saved.rows_hash == hash.to_string() {
            return Ok(());
        }
        Err(Error::conflict(format!(
            "the first {} rows of the input are not the ones import state {} counts as written",
            self.saved.rows,
            self.path.display()
        ))
        .with_hint("remove the state file to import from the first row on"))
    }

    /// Losing the last saves to a crash is harmless: the rows are then written once more.
    pub fn save(&mut self, rows: u64, hash: blake3::Hash) -> Result<()> {
        if rows == self.saved.rows {
            return Ok(());
        }
        self.saved.rows = rows;
        self.saved.rows_hash = hash.to_string();
        self.keep()
    }

    /// Writes the file.
    pub fn keep(&mut self) -> Result<()> {
        let bytes = serde_json::to_vec(&self.saved).map_err(|error| Error::internal(error.to_string()))?;
        let temporary = self.path.with_extension("shoal-import.tmp");
        let saved = std::fs::write(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, &self.path));
        self.is_kept = saved.is_ok();
        match saved {
            Err(error) if self.is_wanted => Err(Error::from(error).context(format!("save {}", self.path.display()))),
            _ => Ok(()),
        }
    }

    pub fn remove(self) -> Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if self.is_wanted && error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::from(error).context(format!("remove {}", self.path.display())))
            }
            _ => Ok(()),
        }
    }
}

/// An id that no other import has.
pub fn random_id() -> String {
    Uuid::new_v4().to_string()
}
