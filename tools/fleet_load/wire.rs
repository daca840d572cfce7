//! A connection that counts its bytes.

use std::fmt;
use std::ops::{Add, Sub};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::{io, path::PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::Host;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::Result;

/// Bytes on the wire: those of TLS too, where there is TLS.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wire {
    pub sent: u64,
    pub received: u64,
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes sent and {} received", self.sent, self.received)
    }
}

impl Add for Wire {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { sent: self.sent + other.sent, received: self.received + other.received }
    }
}

impl Sub for Wire {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self { sent: self.sent - other.sent, received: self.received - other.received }
    }
}

#[derive(Debug, Default)]
struct Counted {
    sent: AtomicU64,
    received: AtomicU64,
}

struct Counting<S> {
    stream: S,
    counted: Arc<Counted>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counting<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.counted.received.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counting<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(bytes)) = written {
            self.counted.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// An open connection.
pub struct Connection {
    client: Client,
    counted: Arc<Counted>,
    /// The server's process of this connection.
    pid: i32,
    /// What connecting took.
    pub connect: Wire,
}

impl Connection {
    pub async fn open(url: &str) -> Result<Self> {
        let config: Config = url.parse()?;
        let Some(Host::Unix(folder)) = config.get_hosts().first() else {
            return Err("the URL names no folder of a unix socket".into());
        };
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let socket: PathBuf = folder.join(format!(".s.PGSQL.{port}"));
        let counted = Arc::new(Counted::default());
        let stream =
            Counting { stream: UnixStream::connect(socket).await?, counted: Arc::clone(&counted) };
        let (client, io) = config.connect_raw(stream, NoTls).await?;
        tokio::spawn(async { drop(io.await) });
        Self::of(client, counted).await
    }

    /// Over TLS. `files` has the names of the authority's certificate, the client's, and its key.
    pub async fn open_tls(url: &str, files: [&str; 3]) -> Result<Self> {
        let config: Config = url.parse()?;
        let (Some(Host::Tcp(host)), Some(port)) =
            (config.get_hosts().first(), config.get_ports().first())
        else {
            return Err("the URL names no host and port".into());
        };
        let [ca, cert, key] = files;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca)?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(cert)?],
                PrivateKeyDer::from_pem_file(key)?,
            )?;
        let counted = Arc::new(Counted::default());
        let stream = TcpStream::connect((host.as_str(), *port)).await?;
        let stream = Counting { stream, counted: Arc::clone(&counted) };
        let mut tls = MakeRustlsConnect::new(tls);
        let tls = MakeTlsConnect::<Counting<TcpStream>>::make_tls_connect(&mut tls, host)?;
        let (client, io) = config.connect_raw(stream, tls).await?;
        tokio::spawn(async { drop(io.await) });
        Self::of(client, counted).await
    }

    async fn of(client: Client, counted: Arc<Counted>) -> Result<Self> {
        let connect = Wire {
            sent: counted.sent.load(Ordering::Relaxed),
            received: counted.received.load(Ordering::Relaxed),
        };
        let rows = client.query_typed("SELECT pg_backend_pid()", &[]).await?;
        Ok(Self { pid: rows[0].try_get(0)?, client, counted, connect })
    }

    /// The processor time of the server's process, in milliseconds.
    pub fn processor_ms(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/schedstat", self.pid))?;
        let nanos: f64 = stat.split(' ').next().unwrap_or_default().parse()?;
        Ok(nanos / 1e6)
    }

    /// Hands a report on, as a collector does. The database must take it.
    pub async fn report(&self, node: &str, report: &str) -> Result<()> {
        let sql = "SELECT fleet.report_of($1, $2::text::jsonb)->>'ok'";
        let rows =
            self.client.query_typed(sql, &[(&node, Type::TEXT), (&report, Type::TEXT)]).await?;
        let ok: String = rows[0].try_get(0)?;
        if ok == "true" { Ok(()) } else { Err(format!("a report of {node} was refused").into()) }
    }

    pub fn wire(&self) -> Wire {
        Wire {
            sent: self.counted.sent.load(Ordering::Relaxed),
            received: self.counted.received.load(Ordering::Relaxed),
        }
    }
}
