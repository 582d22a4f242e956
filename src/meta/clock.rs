//! What must outlast a process of the time: what the wall clock showed last, and the times to live that were set by it. No file has
//! any of it, and nothing is lost with it but doubt: see `platform::wall` and `engine::lineage::ttl`.

use redb::{Durability, ReadableTable};
use uuid::Uuid;

use super::Meta;
use super::tables::{DEADLINES, DOUBTED, Deadline, JUMPS, STATE, WALL, WENT_BACK_FROM};
use crate::error::Result;
use crate::model::ids::Nsid;
use crate::platform::wall::Remembered;

impl Meta {
    /// What the process before this one saw of the wall clock.
    pub fn clock(&self) -> Result<Option<Remembered>> {
        self.read(|transaction| {
            let table = transaction.open_table(STATE)?;
            let Some(wall) = table.get(WALL)? else { return Ok(None) };
            let jumps_ms = table.get(JUMPS)?.map_or(0, |jumps| jumps.value().cast_signed());
            let from_ms = table.get(WENT_BACK_FROM)?.map(|from| from.value());
            let doubted = table.get(DOUBTED)?.map(|ran| (ran.value(), from_ms));
            Ok(Some(Remembered { wall_ms: wall.value(), jumps_ms, doubted }))
        })
    }

    /// Keeps what was seen of the wall clock.
    pub fn keep_clock(&self, seen: Remembered, durably: bool) -> Result<()> {
        let durability = if durably { Durability::Immediate } else { Durability::None };
        self.write(durability, |transaction| {
            let mut table = transaction.open_table(STATE)?;
            table.insert(WALL, seen.wall_ms)?;
            table.insert(JUMPS, seen.jumps_ms.cast_unsigned())?;
            let (ran_ms, from_ms) = seen.doubted.unzip();
            for (key, value) in [(DOUBTED, ran_ms), (WENT_BACK_FROM, from_ms.flatten())] {
                match value {
                    Some(value) => table.insert(key, value)?,
                    None => table.remove(key)?,
                };
            }
            Ok(())
        })
    }

    /// Keeps when this node is to delete an incarnation, durably; `None` forgets it.
    pub fn set_deadline(&self, nsid: Nsid, deadline: Option<Deadline>) -> Result<()> {
        self.write(Durability::Immediate, |transaction| {
            let mut table = transaction.open_table(DEADLINES)?;
            match deadline {
                Some(deadline) => table.insert(nsid.0.as_bytes(), (deadline.expires_ms, deadline.jumps_ms))?,
                None => table.remove(nsid.0.as_bytes())?,
            };
            Ok(())
        })
    }

    /// The time to live of an incarnation, where it was set here.
    pub fn deadline(&self, nsid: Nsid) -> Result<Option<Deadline>> {
        self.read(|transaction| {
            let row = transaction.open_table(DEADLINES)?.get(nsid.0.as_bytes())?.map(|row| row.value());
            Ok(row.map(|(expires_ms, jumps_ms)| Deadline { expires_ms, jumps_ms }))
        })
    }

    /// The times to live that were set here.
    pub fn deadlines(&self) -> Result<Vec<(Nsid, Deadline)>> {
        self.read(|transaction| {
            let mut found = Vec::new();
            for row in transaction.open_table(DEADLINES)?.iter()? {
                let (id, deadline) = row?;
                let (expires_ms, jumps_ms) = deadline.value();
                found.push((Nsid(Uuid::from_bytes(*id.value())), Deadline { expires_ms, jumps_ms }));
            }
            Ok(found)
        })
    }
}
