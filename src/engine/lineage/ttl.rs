//! Namespaces that are deleted by themselves after some time.
//!
//! A manifest says when, by the wall clock of the node that set it. That node also keeps what its clock had jumped by until then
//! ([`Wall::jumps_ms`]), and moves the time by what it jumped since: so it counts the time that passed, whatever the clock shows. Where
//! another node set it the wall clock decides, while that is believed.
//!
//! Invariant: a time to live is set, moved and acted on behind the door of its name, and who acts on it looks at it there. So what is
//! answered to who sets it holds: it was set before the namespace was due for deletion, or there was none any more.
//!
//! [`Wall::jumps_ms`]: crate::platform::wall::Wall::jumps_ms

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::engine::Engine;
use crate::engine::merge::settings;
use crate::engine::namespace::head::Head;
use crate::engine::namespace::{Namespace, not_found};
use crate::error::Result;
use crate::format::manifest::Manifest;
use crate::format::names::parse_name;
use crate::meta::tables::Deadline;
use crate::model::ids::{NamespaceName, Nsid};
use crate::platform::clock::UNSET_BEFORE_MS;

/// What becomes of a namespace with a time to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Stays,
    /// Its time was up then, by the clock as it is now.
    IsDue(u64),
    /// It stays until then; what its manifest says is by a clock that jumped since.
    Moves(u64),
}

/// Decides by what the wall shows, what it has jumped by, and the time that is believed. `set`: what this node kept when it set the
/// time that the manifest says.
fn verdict(expires_ms: u64, set: Option<Deadline>, (wall_ms, jumps_ms): (u64, i64), now: Option<u64>) -> Verdict {
    match set.filter(|set| set.expires_ms == expires_ms) {
        Some(set) => {
            let moved = expires_ms.saturating_add_signed(jumps_ms.saturating_sub(set.jumps_ms));
            match moved <= wall_ms {
                true => Verdict::IsDue(moved),
                false if moved != expires_ms && now.is_some() => Verdict::Moves(moved),
                false => Verdict::Stays,
            }
        }
        // No clock that was set says so.
        None if expires_ms < UNSET_BEFORE_MS && wall_ms >= UNSET_BEFORE_MS => Verdict::Stays,
        None if now.is_some_and(|now| expires_ms <= now) => Verdict::IsDue(expires_ms),
        None => Verdict::Stays,
    }
}

impl Engine {
    /// Sets when a namespace is deleted by itself, so many milliseconds from now; `None`: never. Gives that time.
    pub async fn set_ttl(self: &Arc<Self>, name: &NamespaceName, ttl_ms: Option<u64>) -> Result<Option<u64>> {
        let namespace = self.namespace_to_change(name)?;
        self.to_the_end(|engine| async move {
            let door = engine.door(&namespace.name);
            let _door = door.lock().await;
            if engine.catalog.find(&namespace.name) != Some(namespace.nsid) {
                return Err(not_found(&namespace.name));
            }
            let what = || format!("a time to live of {}", namespace.name);
            match ttl_ms {
                Some(_) => engine.context.check_last_room(what)?,
                None => engine.context.check_space(0, what)?,
            }
            let expires_ms = tokio::task::block_in_place(|| engine.context.expire_in(namespace.nsid, ttl_ms))?;
            let now = engine.context.clock.now_millis();
            namespace.edit_head(|manifest| manifest.set_expiry(expires_ms, now)).await?;
            engine.follow_expiry(namespace.nsid, &namespace.name, expires_ms);
            Ok(expires_ms)
        })
        .await
    }

    fn follow_expiry(&self, nsid: Nsid, name: &NamespaceName, expires_ms: Option<u64>) {
        let mut known = self.context.kin().get(&nsid).cloned().unwrap_or_default();
        known.name = name.to_string();
        known.expires_ms = expires_ms;
        self.context.set_kin(nsid, known);
    }

    /// Deletes namespaces whose time is up. `now`: the time that is believed. Counts of references need not be right for that: a name and a
    /// mark change.
    pub(super) async fn delete_expired(self: &Arc<Self>, now: Option<u64>) -> Result<()> {
        let context = &self.context;
        let all: Vec<(Nsid, String, u64)> = context
            .kin()
            .iter()
            .filter(|(_, kin)| kin.deleted_ms.is_none())
            .filter_map(|(nsid, kin)| Some((*nsid, kin.name.clone(), kin.expires_ms?)))
            .collect();
        let set: BTreeMap<Nsid, Deadline> = context.meta.deadlines()?.into_iter().collect();
        let clock = context.look_at_wall();
        for (nsid, name, expires_ms) in all {
            let verdict = verdict(expires_ms, set.get(&nsid).copied(), clock, now);
            let named = parse_name(&name).filter(|name| self.catalog.find(name) == Some(nsid));
            let Some(name) = named.filter(|_| verdict != Verdict::Stays) else { continue };
            let moves = !matches!(verdict, Verdict::IsDue(at) if at == expires_ms);
            if let Err(error) = self.act_on_time(&name, nsid, moves, now).await {
                tracing::warn!(namespace = %name, %error, "its time to live could not be acted on, it is tried again");
            }
        }
        if !self.context.may_reclaim() {
            // Until all is counted not everything is known that there is.
            return Ok(());
        }
        let gone: Vec<Nsid> = set.into_keys().filter(|nsid| !context.kin().contains_key(nsid)).collect();
        gone.into_iter().try_for_each(|nsid| context.meta.set_deadline(nsid, None))
    }

    /// Does what a time to live asks for as it is by now: somebody may have changed it since it was found to be due. What is to be moved is
    /// open by then.
    async fn act_on_time(
        self: &Arc<Self>,
        name: &NamespaceName,
        nsid: Nsid,
        moves: bool,
        now: Option<u64>,
    ) -> Result<()> {
        let namespace = if moves { Some(self.namespace(name)?) } else { None };
        let name = name.clone();
        self.to_the_end(move |engine| async move {
            let door = engine.door(&name);
            let _door = door.lock().await;
            let expires_ms = engine.context.kin().get(&nsid).and_then(|kin| kin.expires_ms);
            let Some(expires_ms) = expires_ms.filter(|_| engine.catalog.find(&name) == Some(nsid)) else {
                return Ok(());
            };
            let set = engine.context.meta.deadline(nsid)?;
            let clock = engine.context.look_at_wall();
            let verdict = verdict(expires_ms, set, clock, now);
            if let Verdict::Moves(to) | Verdict::IsDue(to) = verdict
                && to != expires_ms
            {
                // Its state says what sync needs to know: when it ended by its time. One that is not open has its turn the next time.
                let Some(namespace) = namespace.filter(|namespace| namespace.nsid == nsid) else { return Ok(()) };
                engine.move_expiry(&namespace, Deadline { expires_ms: to, jumps_ms: clock.1 }).await?;
            }
            if let Verdict::IsDue(_) = verdict {
                engine.delete_behind_door(&name, nsid).await?;
                tracing::info!(namespace = %name, "deleted, its time was up");
            }
            Ok(())
        })
        .await
    }

    /// Whether the time of an incarnation is up of which the bucket has `theirs`, whatever that says besides: when it was deleted here, or at
    /// `now`, the time that is believed. What somebody set there or here since both were the same counts. Blocking.
    pub fn is_over(&self, theirs: &Manifest, now: Option<u64>) -> Result<bool> {
        let (context, nsid) = (&self.context, theirs.nsid);
        let expires_ms = match Head::load(context, nsid)? {
            Some(head) => settings::join(theirs, &head.manifest, self.common(nsid)?.as_ref()).expires_ms,
            None => theirs.expires_ms,
        };
        let Some(expires_ms) = expires_ms else { return Ok(false) };
        // By the clock that both are by.
        if context.kin().get(&nsid).and_then(|kin| kin.deleted_ms).is_some_and(|deleted_ms| expires_ms <= deleted_ms)
        {
            return Ok(true);
        }
        let set = context.meta.deadline(nsid)?;
        Ok(matches!(verdict(expires_ms, set, context.look_at_wall(), now), Verdict::IsDue(_)))
    }

    /// Writes down when a namespace ends by the clock as it is now, for who reads that and for other nodes. The caller holds its door.
    async fn move_expiry(&self, namespace: &Namespace, deadline: Deadline) -> Result<()> {
        let (nsid, to) = (namespace.nsid, deadline.expires_ms);
        // Nobody set it anew: what another node sets since then counts.
        namespace.edit_head(|manifest| manifest.expires_ms = Some(to)).await?;
        tokio::task::block_in_place(|| self.context.meta.set_deadline(nsid, Some(deadline)))?;
        self.follow_expiry(nsid, &namespace.name, Some(to));
        tracing::info!(namespace = %namespace.name, "the clock jumped since its time to live was set, which is counted on");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Verdict, verdict};
    use crate::meta::tables::Deadline;
    use crate::platform::clock::UNSET_BEFORE_MS;

    const T: u64 = UNSET_BEFORE_MS + 1_000_000;

    #[test]
    fn a_time_that_was_set_here_counts_what_passed_whatever_the_clock_shows() {
        let set = Some(Deadline { expires_ms: 50, jumps_ms: 2 });
        assert_eq!(verdict(50, set, (49, 2), Some(49)), Verdict::Stays);
        assert_eq!(verdict(50, set, (50, 2), None), Verdict::IsDue(50));
        // The clock was set since.
        assert_eq!(verdict(50, set, (T + 49, 2 + T as i64), None), Verdict::Stays);
        assert_eq!(verdict(50, set, (T + 49, 2 + T as i64), Some(T + 49)), Verdict::Moves(T + 50));
        assert_eq!(verdict(50, set, (T + 50, 2 + T as i64), None), Verdict::IsDue(T + 50));
        assert_eq!(
            verdict(T, Some(Deadline { expires_ms: T, jumps_ms: 0 }), (60, 50 - T as i64), None),
            Verdict::IsDue(50)
        );
    }

    #[test]
    fn a_time_that_another_node_set_counts_while_the_clock_is_believed_and_where_a_clock_was_set() {
        let other = Some(Deadline { expires_ms: T - 1, jumps_ms: 0 });
        for set in [None, other] {
            assert_eq!(verdict(T, set, (T, 0), None), Verdict::Stays);
            assert_eq!(verdict(T, set, (T, 0), Some(T - 1)), Verdict::Stays);
            assert_eq!(verdict(T, set, (T, 0), Some(T)), Verdict::IsDue(T));
            assert_eq!(verdict(50, set, (T, 0), Some(T)), Verdict::Stays);
        }
    }
}
