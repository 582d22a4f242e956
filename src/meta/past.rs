//! What the index knows of states that were replaced, and of incarnations that are more than a bound name.

use std::sync::atomic::Ordering;

use redb::{Durability, ReadableTable, WriteTransaction};
use uuid::Uuid;

use super::Meta;
use super::references::release;
use super::tables::{HISTORY, KIN, Kin, Past};
use crate::error::Result;
use crate::model::ids::Nsid;

impl Meta {
    /// Remembers a manifest that was replaced. Lazy.
    pub fn remember(&self, nsid: Nsid, generation: u64, past: &Past) -> Result<()> {
        self.write(Durability::None, |transaction| {
            transaction.open_table(HISTORY)?.insert((nsid.0.as_bytes(), generation), past.encode().as_slice())?;
            Ok(())
        })
    }

    /// Forgets manifests of the past, and releases what they held; gives the objects that nobody references now. Lazy.
    pub fn forget(&self, nsid: Nsid, generations: &[u64], released: &[String]) -> Result<Vec<String>> {
        self.has_let_go.store(true, Ordering::Relaxed);
        self.write(Durability::None, |transaction| {
            {
                let mut history = transaction.open_table(HISTORY)?;
                for generation in generations {
                    history.remove((nsid.0.as_bytes(), *generation))?;
                }
            }
            release(transaction, released)
        })
    }

    /// The manifests of an incarnation's past, oldest first.
    pub fn history(&self, nsid: Nsid) -> Result<Vec<(u64, Past)>> {
        self.read(|transaction| {
            let id = nsid.0.as_bytes();
            let mut found = Vec::new();
            for row in transaction.open_table(HISTORY)?.range((id, 0)..=(id, u64::MAX))? {
                let (key, past) = row?;
                found.extend(Past::decode(past.value()).map(|past| (key.value().1, past)));
            }
            Ok(found)
        })
    }

    /// Every manifest of the past: when it was replaced as its commit says it, whose it is, its generation, and what is known of it.
    pub fn whole_history(&self) -> Result<Vec<(u64, Nsid, u64, Past)>> {
        self.read(|transaction| {
            let mut found = Vec::new();
            for row in transaction.open_table(HISTORY)?.iter()? {
                let (key, past) = row?;
                let (id, generation) = key.value();
                let Some(past) = Past::decode(past.value()) else { continue };
                found.push((past.replaced_ms, Nsid(Uuid::from_bytes(*id)), generation, past));
            }
            Ok(found)
        })
    }

    /// Follows what is known of an incarnation; `None` forgets it. Lazy.
    pub fn set_kin(&self, nsid: Nsid, kin: Option<&Kin>) -> Result<()> {
        self.write(Durability::None, |transaction| put_kin(transaction, nsid, kin))
    }

    /// Every incarnation that is more than a bound name.
    pub fn all_kin(&self) -> Result<Vec<(Nsid, Kin)>> {
        self.read(|transaction| {
            let mut found = Vec::new();
            for row in transaction.open_table(KIN)?.iter()? {
                let (id, kin) = row?;
                let nsid = Nsid(Uuid::from_bytes(*id.value()));
                found.extend(Kin::decode(kin.value()).map(|kin| (nsid, kin)));
            }
            Ok(found)
        })
    }
}

pub(super) fn put_kin(transaction: &WriteTransaction, nsid: Nsid, kin: Option<&Kin>) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(KIN)?;
    match kin {
        Some(kin) => table.insert(nsid.0.as_bytes(), kin.encode().as_slice())?,
        None => table.remove(nsid.0.as_bytes())?,
    };
    Ok(())
}
