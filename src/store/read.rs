//! Reads objects: whole into memory, or piece by piece as they come.
//!
//! - What came of a range is kept when its answer breaks off: the next attempt asks for the rest. Objects never change.
//! - Never more is taken in than was announced, and never more is held than [`GET_BYTES_MAX`].

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use object_store::path::Path as StorePath;
use object_store::{GetOptions, GetRange, GetResult};

use super::bucket::{ANSWER_BYTES_MAX, Bucket, generic};
use super::failure::Failure;
use super::patience::Patience;
use super::traffic::Request;
use crate::error::{Error, Result};

/// The largest object or range that is fetched at once, since it is held in memory. What is larger is read piece by piece.
pub const GET_BYTES_MAX: u64 = 64 << 20;

impl Bucket {
    /// A whole object of at most [`GET_BYTES_MAX`]; none when it is not there.
    pub async fn get(&self, key: &str, patience: &Patience) -> Result<Option<Bytes>> {
        let path = self.path(key)?;
        let mut turns = patience.begin();
        let got = self
            .call(&mut turns, Request::Get, GET_BYTES_MAX, || self.fetch(&path))
            .await
            .and_then(|got| got.map(|got| got.whole(self.name())).transpose());
        got.map_err(|error| error.context(format_args!("get {key}")))
    }

    /// Exactly the bytes of `range`, at most [`GET_BYTES_MAX`] and at least one; none when the object is not there. An object
    /// that is shorter is Corrupt.
    pub async fn get_range(&self, key: &str, range: Range<u64>, patience: &Patience) -> Result<Option<Bytes>> {
        let bytes = range.end.saturating_sub(range.start);
        if !(1..=GET_BYTES_MAX).contains(&bytes) {
            return Err(Error::invalid(format!("get {key}: {bytes} bytes at once, expected 1 to {GET_BYTES_MAX}")));
        }
        let mut got = BytesMut::new();
        let take = |piece: Bytes| {
            got.extend_from_slice(&piece);
            Ok(())
        };
        let is_there = self.read(key, range, patience, take).await?;
        Ok(is_there.then(|| got.freeze()))
    }

    /// Hands exactly the bytes of `range` to `take`, in their order and as they come; false when the object is not there. An object
    /// that is shorter is Corrupt. After an error, which may be that of `take`, what was handed on is right as far as it goes.
    pub async fn read(
        &self,
        key: &str,
        range: Range<u64>,
        patience: &Patience,
        mut take: impl FnMut(Bytes) -> Result<()> + Send,
    ) -> Result<bool> {
        let path = self.path(key)?;
        let shorter = |size: u64| {
            let name = self.name();
            Error::corrupt(format!("get {key}: {name}: it has {size} bytes, expected at least {}", range.end))
        };
        let (mut turns, mut at) = (patience.begin(), range.start);
        while at < range.end {
            let (rest, mut refused) = (at..range.end, None);
            let attempt = async {
                let found = self.ask(&path, Some(rest.clone())).await?;
                if found.range != rest {
                    return Ok(Some(found.meta.size));
                }
                let taken = self.drain(found, |piece| {
                    at += piece.len() as u64;
                    take(piece).map_err(|error| {
                        refused = Some(error);
                        generic("what came could not be taken".to_owned())
                    })
                });
                taken.await.map(|()| None)
            };
            let answer_bytes_max = ANSWER_BYTES_MAX.max(rest.end - rest.start);
            let done = self.attempt(Request::Get, answer_bytes_max, &mut turns, attempt).await;
            if let Some(error) = refused {
                return Err(error);
            }
            let failure = match done {
                Ok(None) => return Ok(true),
                Ok(Some(size)) => return Err(shorter(size)),
                Err(failure) => failure,
            };
            // Memory and directories say of a range beyond the end nothing that could be told from a failed read; Azurite answers
            // one that begins at the end with nothing.
            let may_be_beyond = match &failure {
                Failure::Passing { silent, .. } => !silent && !self.inner.backend.over_http,
                failure => matches!(failure, Failure::Unfit(_)),
            };
            if may_be_beyond
                && let Ok(Some(size)) = self.size(key, patience).await
                && size < range.end
            {
                return Err(shorter(size));
            }
            match self.next(&mut turns, failure).await {
                Ok(()) => {}
                Err(Failure::Absent) => return Ok(false),
                Err(failure) => return Err(failure.into_error(self.name()).context(format_args!("get {key}"))),
            }
        }
        Ok(true)
    }

    /// Fetches an object into memory.
    pub(super) async fn fetch(&self, path: &StorePath) -> object_store::Result<Fetched> {
        let found = self.ask(path, None).await?;
        let size = found.meta.size;
        if found.range.end.saturating_sub(found.range.start) > GET_BYTES_MAX {
            return Ok(Fetched { bytes: None, size });
        }
        let mut bytes = BytesMut::new();
        let take = |piece: Bytes| {
            bytes.extend_from_slice(&piece);
            Ok(())
        };
        self.drain(found, take).await?;
        Ok(Fetched { bytes: Some(bytes.freeze()), size })
    }

    async fn ask(&self, path: &StorePath, range: Option<Range<u64>>) -> object_store::Result<GetResult> {
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        self.inner.backend.objects.get_opts(path, options).await
    }

    /// Hands on an answer as it comes, exactly as long as it was announced.
    async fn drain(
        &self,
        found: GetResult,
        mut take: impl FnMut(Bytes) -> object_store::Result<()>,
    ) -> object_store::Result<()> {
        let expected = found.range.end.saturating_sub(found.range.start);
        let (mut stream, mut came) = (found.into_stream(), 0);
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            self.count_received(piece.len() as u64);
            came += piece.len() as u64;
            if came > expected {
                return Err(generic(format!("more than the {expected} bytes came that were announced")));
            }
            take(piece)?;
        }
        match came == expected {
            true => Ok(()),
            false => Err(generic(format!("{came} bytes came, expected {expected}"))),
        }
    }
}

/// What came of an object.
pub(super) struct Fetched {
    /// None when it is more than [`GET_BYTES_MAX`].
    bytes: Option<Bytes>,
    /// Of the whole object.
    size: u64,
}

impl Fetched {
    /// All of an object.
    pub(super) fn whole(self, bucket: &str) -> Result<Bytes> {
        self.bytes.ok_or_else(|| {
            Error::invalid(format!(
                "{bucket}: it has {} bytes, of which at most {GET_BYTES_MAX} are fetched at once",
                self.size
            ))
        })
    }
}
