//! Answers that are written while they are sent: a thread writes, the socket takes, and little waits between the two.

use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::error::{Error, Result};

/// Bytes of one piece, and how many pieces may wait for the client.
const PIECE_BYTES: usize = 64 << 10;
const PIECES_WAITING: usize = 4;

/// The body of an answer.
pub enum Outgoing {
    Whole(Full<Bytes>),
    Stream(Pieces),
}

/// Pieces of a body that is still being written.
pub struct Pieces {
    first: Option<Bytes>,
    rest: Receiver<Result<Bytes>>,
}

impl Pieces {
    /// Runs `work` on a thread of its own, and waits for the first piece or the end: an error before that is an answer like
    /// any other. A later one cuts the body short, which clients see: its end is marked.
    pub async fn of(work: impl FnOnce(&mut Pipe) -> Result<()> + Send + 'static) -> Result<Pieces> {
        let (sender, mut rest) = channel(PIECES_WAITING);
        tokio::task::spawn_blocking(move || {
            let mut pipe = Pipe { buffer: Vec::with_capacity(PIECE_BYTES), sender };
            let done = work(&mut pipe).and_then(|()| pipe.flush().map_err(Error::from));
            if let Err(error) = done
                && !pipe.sender.is_closed()
            {
                tracing::warn!(%error, "an answer ended early");
                let _ = pipe.sender.blocking_send(Err(error));
            }
        });
        let first = rest.recv().await.transpose()?;
        Ok(Pieces { first, rest })
    }
}

/// Where the answer is written.
pub struct Pipe {
    buffer: Vec<u8>,
    sender: Sender<Result<Bytes>>,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    /// Waits while the client has enough to take. `BrokenPipe` when it went away.
    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE_BYTES)));
        self.sender.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Error>>> {
        match self.get_mut() {
            Outgoing::Whole(body) => Pin::new(body)
                .poll_frame(context)
                .map(|frame| frame.map(|frame| frame.map_err(|never| match never {}))),
            Outgoing::Stream(pieces) => match pieces.first.take() {
                Some(first) => Poll::Ready(Some(Ok(Frame::data(first)))),
                None => pieces.rest.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Outgoing::Whole(body) => body.is_end_stream(),
            Outgoing::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Outgoing::Whole(body) => body.size_hint(),
            Outgoing::Stream(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use http_body_util::BodyExt;

    use super::{Outgoing, PIECE_BYTES, Pieces};
    use crate::error::{Error, Kind};

    #[tokio::test]
    async fn what_is_written_arrives_whole() {
        let pieces = Pieces::of(|pipe| {
            for n in 0..100_000 {
                writeln!(pipe, "{n}")?;
            }
            Ok(())
        });
        let bytes = Outgoing::Stream(pieces.await.unwrap()).collect().await.unwrap().to_bytes();
        assert_eq!(bytes.len(), 588_890);
        assert!(bytes.ends_with(b"99999\n"));
    }

    #[tokio::test]
    async fn an_early_error_is_an_answer_and_a_late_one_cuts_the_body() {
        let early = Pieces::of(|_| Err(Error::corrupt("x"))).await;
        assert_eq!(early.map(drop).unwrap_err().kind(), Kind::Corrupt);
        let late = Pieces::of(|pipe| {
            pipe.write_all(&[0; PIECE_BYTES])?;
            Err(Error::corrupt("x"))
        });
        assert!(Outgoing::Stream(late.await.unwrap()).collect().await.is_err());
    }

    #[tokio::test]
    async fn a_client_that_goes_away_ends_the_work() {
        let (sender, ended) = tokio::sync::oneshot::channel();
        let pieces = Pieces::of(move |pipe| {
            let done = loop {
                if let Err(error) = pipe.write_all(&[0; PIECE_BYTES]) {
                    break error.kind();
                }
            };
            let _ = sender.send(done);
            Ok(())
        });
        drop(pieces.await.unwrap());
        assert_eq!(ended.await.unwrap(), std::io::ErrorKind::BrokenPipe);
    }
}
