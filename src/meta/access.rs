//! How the database is used, and what becomes of it when that fails: it is opened anew, and begun anew where it is damaged.
//!
//! Invariant: what is begun anew is not trusted before anybody can read it, and only a rebuild makes it so. Who asks for trust and for a
//! count by [`Meta::is_free`] never takes an index that is empty yet for one that was counted.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{PoisonError, RwLockReadGuard, RwLockWriteGuard};

use redb::{Database, Durability, ReadableDatabase, WriteTransaction};

use super::backend::{from_redb, open_database};
use super::tables::{
    self, ANSWERS, COPIES, DEADLINES, HISTORY, KIN, MANIFESTS, NAMES, OBJECTS, PINS, REFERENCES, SEALED, STATE,
};
use super::{Meta, remove};
use crate::error::{Context, Error, Kind, Result};

impl Meta {
    pub(super) fn alone(&self) -> RwLockWriteGuard<'_, Option<Database>> {
        self.database.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The database, opened anew where it failed.
    pub(super) fn opened(&self) -> Result<RwLockReadGuard<'_, Option<Database>>> {
        loop {
            let held = self.database.read().unwrap_or_else(PoisonError::into_inner);
            if self.closed.load(Ordering::SeqCst) {
                return Err(Error::unavailable("the index is closed, the daemon is stopping"));
            }
            if held.is_some() {
                return Ok(held);
            }
            drop(held);
            let mut held = self.alone();
            if held.is_none() && !self.closed.load(Ordering::SeqCst) {
                *held = Some(self.open_anew()?);
            }
        }
    }

    /// Opens the file again, or begins an empty one where it is damaged. A disk that fails does not say that: it may pass.
    fn open_anew(&self) -> Result<Database> {
        self.trusted.store(false, Ordering::SeqCst);
        self.reopened.store(true, Ordering::SeqCst);
        let opened = || -> Result<Database> {
            let database = open_database(&*self.disk, &self.path, false)?;
            // The file may have been gone.
            caught(|| begin(&database))?;
            Ok(database)
        };
        match opened() {
            Err(error) if error.kind() == Kind::Corrupt => {
                tracing::warn!(%error, "the index meta.redb is damaged, it is rebuilt from the files, nothing is lost");
                remove(&*self.disk, &self.path)?;
                opened()
            }
            opened => opened,
        }
        .context(|| format!("open {}", self.path.display()))
    }

    pub(super) fn read<T>(&self, run: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>) -> Result<T> {
        self.with(|database| run(&database.begin_read()?))
    }

    pub(super) fn write<T>(
        &self,
        durability: Durability,
        run: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T> {
        self.with(|database| write(database, durability, run))
    }

    /// Runs on the database; one that failed is opened anew, and its counts are not trusted any more.
    pub(super) fn with<T>(&self, run: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T> {
        let held = self.opened()?;
        let Some(database) = held.as_ref() else { return Err(Error::internal("meta.redb is closed")) };
        let done = caught(|| run(database));
        drop(held);
        done.map_err(|error| self.give_up("use", error))
    }

    /// What failed is opened anew, and its counts are not trusted any more. Where that was done before, redb's check of the whole file
    /// found nothing, and what makes no sense nevertheless goes.
    pub(super) fn give_up(&self, what: &str, error: Error) -> Error {
        let mut held = self.alone();
        self.trusted.store(false, Ordering::SeqCst);
        give_back(held.take());
        if error.kind() == Kind::Corrupt && self.reopened.load(Ordering::SeqCst) {
            tracing::warn!(%error, "the index meta.redb makes no sense, it is rebuilt from the files, nothing is lost");
            // What stays of it is met again.
            let _ = remove(&*self.disk, &self.path);
        }
        error.context(format!("{what} {}", self.path.display()))
    }
}

pub(super) fn write<T>(
    database: &Database,
    durability: Durability,
    run: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
) -> Result<T, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(durability)?;
    let done = run(&transaction)?;
    transaction.commit()?;
    Ok(done)
}

/// Makes every table of a database that was just opened, and says that its stop was not clean yet.
pub(super) fn begin(database: &Database) -> Result<(), redb::Error> {
    write(database, Durability::Immediate, |transaction| {
        transaction.open_table(STATE)?.insert(tables::CLEAN, 0)?;
        transaction.open_table(COPIES)?;
        transaction.delete_table(ANSWERS)?;
        transaction.open_table(DEADLINES)?;
        transaction.open_table(SEALED)?;
        make_tables(transaction)
    })
}

/// Makes the tables that are derived from the files: readers need not ask whether one is there.
pub(super) fn make_tables(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(REFERENCES)?;
    transaction.open_table(NAMES)?;
    transaction.open_table(MANIFESTS)?;
    transaction.open_table(OBJECTS)?;
    transaction.open_table(PINS)?;
    transaction.open_table(HISTORY)?;
    transaction.open_table(KIN)?;
    Ok(())
}

/// Runs something of redb, which asserts what its checksums have already vouched for; a damaged page must not take the daemon along.
pub(super) fn caught<T>(run: impl FnOnce() -> Result<T, redb::Error>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(done) => done.map_err(from_redb),
        Err(_) => Err(Error::corrupt("a page does not make sense")),
    }
}

/// Closes a database. What it writes then may not make sense to it, as anything else; whether it did.
pub(super) fn give_back(database: Option<Database>) -> bool {
    catch_unwind(AssertUnwindSafe(|| drop(database))).is_ok()
}
