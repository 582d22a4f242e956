//! Opens connections to the bucket's host: name, TCP, and TLS with the system's and the configured certificate authorities.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::facts::Broken;
use super::runtime;
use crate::error::{Context as _, Error, Result};

/// How long one address may take to accept, and TLS to agree. Satellite links need two seconds for each.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// How many of a name's addresses are tried.
const ADDRESSES_MAX: usize = 4;
/// What the kernel may hold of a body that is being sent. Unbounded, it would take megabytes at once and then send them over a
/// slow link for longer than [`super::connector::STALL`], during which nothing seems to move.
const SEND_BUFFER_BYTES: u32 = 256 << 10;

/// Why there is no connection.
#[derive(Debug)]
pub(super) struct DialError(pub(super) Broken, pub(super) String);

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.1)
    }
}

impl std::error::Error for DialError {}

/// What is needed to trust a host: the system's authorities, and those of `ca_file`.
pub(super) fn trust(ca_file: Option<&Path>) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    // Of the system's files some may not be readable; the others do.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let step = || format!("read bucket.ca_file {}", path.display());
        let bytes = std::fs::read(path).context(step)?;
        let mut found = 0;
        for certificate in CertificateDer::pem_slice_iter(&bytes) {
            let certificate = certificate.map_err(|e| Error::invalid(format!("{}: not PEM: {e}", step())))?;
            roots.add(certificate).map_err(|e| Error::invalid(format!("{}: not a certificate: {e}", step())))?;
            found += 1;
        }
        if found == 0 {
            return Err(Error::invalid(format!("{}: there is no certificate in it", step())));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::internal(format!("set up TLS: {e}")))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// Connects to any host.
#[derive(Clone)]
pub(super) struct Dialer {
    tls: TlsConnector,
}

impl Dialer {
    pub(super) fn new(trust: Arc<ClientConfig>) -> Self {
        Dialer { tls: TlsConnector::from(trust) }
    }

    async fn dial(self, uri: Uri) -> Result<Wire, DialError> {
        let secure = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let addresses = tokio::time::timeout(STEP_TIMEOUT, tokio::net::lookup_host((host.as_str(), port)))
            .await
            .map_err(|_| DialError(Broken::Name, format!("no answer within {STEP_TIMEOUT:?}")))?
            .map_err(|error| DialError(Broken::Name, error.to_string()))?;
        let mut last = DialError(Broken::Name, "the name has none".into());
        for address in addresses.take(ADDRESSES_MAX) {
            let connected = async {
                let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
                socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
                socket.set_nodelay(true)?;
                socket.connect(address).await
            };
            let refused = |what: &dyn fmt::Display| DialError(Broken::Connect, format!("{address}: {what}"));
            let stream = match tokio::time::timeout(STEP_TIMEOUT, connected).await {
                Err(_) => Err(refused(&format_args!("not accepted within {STEP_TIMEOUT:?}"))),
                Ok(Err(error)) => Err(refused(&error)),
                Ok(Ok(stream)) => Ok(stream),
            };
            match stream {
                Err(error) => last = error,
                Ok(stream) if !secure => return Ok(Wire::Plain(TokioIo::new(stream))),
                Ok(stream) => {
                    let name = ServerName::try_from(host.clone())
                        .map_err(|error| DialError(Broken::Tls, format!("{host}: {error}")))?;
                    return match tokio::time::timeout(STEP_TIMEOUT, self.tls.connect(name, stream)).await {
                        Ok(Ok(stream)) => Ok(Wire::Secure(Box::new(TokioIo::new(stream)))),
                        Ok(Err(error)) => Err(DialError(Broken::Tls, error.to_string())),
                        Err(_) => Err(DialError(Broken::Tls, format!("not agreed within {STEP_TIMEOUT:?}"))),
                    };
                }
            }
        }
        Err(last)
    }
}

impl tower_service::Service<Uri> for Dialer {
    type Response = Wire;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Wire, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        // There, since a connection belongs to the runtime that opened it.
        let dialled = runtime::handle().spawn(self.clone().dial(uri));
        let ended = |error| DialError(Broken::Connect, format!("opening the connection stopped: {error}"));
        Box::pin(async move { dialled.await.map_err(ended)? })
    }
}

/// A connection.
pub(super) enum Wire {
    Plain(TokioIo<tokio::net::TcpStream>),
    Secure(Box<TokioIo<TlsStream<tokio::net::TcpStream>>>),
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Wire::Secure(stream) => Pin::new(stream.as_mut()).poll_read(cx, buffer),
        }
    }
}

impl Write for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Wire::Secure(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Wire::Secure(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Wire::Secure(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}
