//! What passing calls on costs: the same calls made of a containerd directly and through
//! `containerd.sock`, in turn. Run by `scripts/bench forward`.
//!
//! ```text
//! forward_cost CONTAINERD-SOCKET OUR-SOCKET [MIB [TURNS]]
//! ```
//!
//! Prints a table in Markdown. Content's messages are written by hand: they are small, and this is
//! the only place that wants them.

use std::error::Error;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lmdb_images::api::descriptor::Descriptor;
use lmdb_images::api::images::{CreateImageRequest, GetImageRequest, Image};
use protobuf::{CodedOutputStream, Message, MessageField};
use sha2::{Digest, Sha256};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

type Result<T> = std::result::Result<T, Box<dyn Error>>;
type Sent = http_body_util::combinators::UnsyncBoxBody<Bytes, std::convert::Infallible>;

const CONTENT: &str = "containerd.services.content.v1.Content";
const IMAGES: &str = "containerd.services.images.v1.Images";
const VERSION: &str = "containerd.services.version.v1.Version";
/// Unary calls in a row before it is the other's turn.
const CALLS: usize = 300;
/// As containerd's own client has it.
const CHUNK: usize = 1 << 20;

/// One connection.
struct Client(SendRequest<Sent>);

impl Client {
    async fn connect(socket: &str) -> Result<Self> {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .handshake(TokioIo::new(UnixStream::connect(socket).await?))
            .await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// Begins a call; messages are sent by the sender, which ends the request when dropped.
    async fn begin(
        &mut self,
        service: &str,
        method: &str,
        first: &[u8],
    ) -> Result<(mpsc::UnboundedSender<Bytes>, Answer)> {
        let (sender, mut messages) = mpsc::unbounded_channel();
        sender.send(framed(first))?;
        let messages = futures_util::stream::poll_fn(move |cx| {
            messages.poll_recv(cx).map(|m: Option<Bytes>| m.map(|m| Ok(Frame::data(m))))
        });
        let request = Request::post(format!("http://localhost/{service}/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("containerd-namespace", "bench")
            .body(StreamBody::new(messages).boxed_unsync())?;
        let response = self.0.send_request(request).await?;
        let (head, body) = response.into_parts();
        check(&head.headers)?;
        Ok((sender, Answer { body, rest: BytesMut::new() }))
    }

    /// Sends a call of one message. Returns the body of the response.
    async fn send(&mut self, service: &str, method: &str, message: &[u8]) -> Result<Incoming> {
        let request = Request::post(format!("http://localhost/{service}/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("containerd-namespace", "bench")
            .body(
                http_body_util::Full::new(framed(message)).map_err(|never| never).boxed_unsync(),
            )?;
        let (head, body) = self.0.send_request(request).await?.into_parts();
        check(&head.headers)?;
        Ok(body)
    }

    /// A call of one message by one message.
    async fn unary(&mut self, service: &str, method: &str, message: &[u8]) -> Result<()> {
        let body = self.send(service, method, message).await?.collect().await?;
        body.trailers().map_or(Ok(()), check)
    }

    /// Reads a whole blob in one stream; gives back how many bytes came.
    async fn read(&mut self, digest: &str) -> Result<usize> {
        let mut request = Vec::new();
        let mut out = CodedOutputStream::vec(&mut request);
        out.write_string(1, digest)?;
        out.flush()?;
        drop(out);
        // A containerd of a newer grpc-go answers after the end of the request only.
        let mut body = self.send(CONTENT, "Read", &request).await?;
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            match frame?.into_data() {
                Ok(data) => bytes += data.len(),
                Err(frame) => frame.trailers_ref().map_or(Ok(()), check)?,
            }
        }
        Ok(bytes)
    }

    /// Writes a number of chunks in one stream, each answered before the next is sent, as containerd's
    /// own client does; commits it as `digest`, or aborts it.
    async fn write(&mut self, chunks: usize, chunk: &Bytes, digest: Option<&str>) -> Result<()> {
        let name = format!("bench-{:?}", Instant::now());
        let total = (chunks * CHUNK) as i64;
        let (sender, mut answer) =
            self.begin(CONTENT, "Write", &write(0, &name, total, "", 0, &[])?).await?;
        answer.message().await?;
        for number in 0..chunks {
            let offset = (number * CHUNK) as i64;
            sender.send(framed(&write(1, &name, total, "", offset, chunk)?))?;
            answer.message().await?;
        }
        if let Some(digest) = digest {
            sender.send(framed(&write(2, &name, total, digest, total, &[])?))?;
            answer.message().await?;
            return Ok(());
        }
        drop((sender, answer));
        let mut abort = Vec::new();
        let mut out = CodedOutputStream::vec(&mut abort);
        out.write_string(1, &name)?;
        out.flush()?;
        drop(out);
        self.unary(CONTENT, "Abort", &abort).await
    }
}

/// A WriteContentRequest.
fn write(
    action: i32,
    name: &str,
    total: i64,
    digest: &str,
    offset: i64,
    data: &[u8],
) -> Result<Vec<u8>> {
    let mut message = Vec::with_capacity(data.len() + 200);
    let mut out = CodedOutputStream::vec(&mut message);
    out.write_enum(1, action)?;
    out.write_string(2, name)?;
    out.write_int64(3, total)?;
    out.write_string(4, digest)?;
    out.write_int64(5, offset)?;
    out.write_bytes(6, data)?;
    out.flush()?;
    drop(out);
    Ok(message)
}

/// The messages of an answer.
struct Answer {
    body: Incoming,
    rest: BytesMut,
}

impl Answer {
    async fn message(&mut self) -> Result<Bytes> {
        loop {
            if let Some(&[_, a, b, c, d]) = self.rest.first_chunk::<5>() {
                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                if self.rest.len() >= 5 + length {
                    self.rest.advance(5);
                    return Ok(self.rest.split_to(length).freeze());
                }
            }
            let frame = self.body.frame().await.ok_or("the answer ended")??;
            match frame.into_data() {
                Ok(data) => self.rest.extend_from_slice(&data),
                Err(frame) => frame.trailers_ref().map_or(Ok(()), check)?,
            }
        }
    }
}

fn framed(message: &[u8]) -> Bytes {
    Bytes::from([&[0][..], &(message.len() as u32).to_be_bytes(), message].concat())
}

fn check(headers: &http::HeaderMap) -> Result<()> {
    match headers.get("grpc-status").map(|v| v.as_bytes()) {
        None | Some(b"0") => Ok(()),
        Some(_) => Err(format!("{:?}", headers.get("grpc-message")).into()),
    }
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

async fn calls(
    client: &mut Client,
    service: &str,
    method: &str,
    message: &[u8],
) -> Result<Duration> {
    let mut all = Vec::new();
    for _ in 0..CALLS {
        let since = Instant::now();
        client.unary(service, method, message).await?;
        all.push(since.elapsed());
    }
    Ok(median(all))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (sockets, rest) = arguments.split_at(2.min(arguments.len()));
    let [direct, through] = sockets else { return Err("forward_cost CONTAINERD OURS".into()) };
    let number = |at: usize, default| rest.get(at).map_or(Ok(default), |n| n.parse::<usize>());
    let (chunks, turns) = (number(0, 256)?, number(1, 9)?);
    let mut clients = [Client::connect(direct).await?, Client::connect(through).await?];

    // The blob, and an image that names it.
    let chunk =
        Bytes::from_iter((0..CHUNK as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8));
    let mut hash = Sha256::new();
    (0..chunks).for_each(|_| hash.update(&chunk));
    let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let digest = format!("sha256:{digest}");
    let target = Descriptor {
        media_type: "application/octet-stream".into(),
        digest: digest.clone(),
        size: (chunks * CHUNK) as i64,
        ..Default::default()
    };
    let image =
        Image { name: "blob".into(), target: MessageField::some(target), ..Default::default() };
    let create = CreateImageRequest { image: MessageField::some(image), ..Default::default() };
    let [first, second] = &mut clients;
    first.write(chunks, &chunk, Some(&digest)).await?;
    second.unary(IMAGES, "Create", &create.write_to_bytes()?).await?;

    let mut info = Vec::new();
    let mut out = CodedOutputStream::vec(&mut info);
    out.write_string(1, &digest)?;
    out.flush()?;
    drop(out);
    let get = GetImageRequest { name: "blob".into(), ..Default::default() }.write_to_bytes()?;
    let unary = [
        ("Version/Version", VERSION, "Version", Vec::new()),
        ("Content/Info", CONTENT, "Info", info),
        ("Images/Get (answered here)", IMAGES, "Get", get),
    ];

    println!("| call | direct | through | difference |\n|---|---|---|---|");
    for (what, service, method, message) in &unary {
        let mut found = [Vec::new(), Vec::new()];
        for _ in 0..turns {
            for (client, found) in clients.iter_mut().zip(&mut found) {
                found.push(calls(client, service, method, message).await?);
            }
        }
        let [direct, through] = found.map(|all| median(all).as_secs_f64() * 1e3);
        println!("| {what} | {direct:.3} ms | {through:.3} ms | {:+.3} ms |", through - direct);
    }
    for what in ["Content/Read", "Content/Write"] {
        let mut found = [Vec::new(), Vec::new()];
        for _ in 0..turns {
            for (client, found) in clients.iter_mut().zip(&mut found) {
                let since = Instant::now();
                if what == "Content/Read" {
                    let bytes = client.read(&digest).await?;
                    assert!(bytes > chunks * CHUNK, "{bytes} bytes came");
                } else {
                    client.write(chunks, &chunk, None).await?;
                }
                found.push(since.elapsed());
            }
        }
        let [direct, through] = found.map(|all| chunks as f64 / median(all).as_secs_f64());
        println!(
            "| {what}, one stream of {chunks} MiB | {direct:.0} MiB/s | {through:.0} MiB/s | × {:.2} |",
            through / direct
        );
    }
    Ok(())
}
