//! The byte stream under a ttrpc connection, inspected frame by frame.
//!
//! The library reads requests as fast as they arrive, and its queue of replies has no limit. So this
//! stream counts requests and replies, and gives the library no input while too many calls are in
//! flight: the server stops reading a client that does not read its replies. The stream also closes
//! connections that stall in the middle of a frame or of a reply, or that do not speak ttrpc.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep};
use ttrpc::proto::{MESSAGE_LENGTH_MAX, MESSAGE_TYPE_DATA, MESSAGE_TYPE_REQUEST, MessageHeader};

use crate::limits::decoded_size;
use crate::limits::memory::{MemoryBudget, OVERDUE_CHECK_INTERVAL, Reservation, SMALL};
use crate::log_throttle::throttled_log;
use crate::transport::Limits;
use crate::transport::conn::fair::{CALL_COST, FairShare, QUANTUM};
use crate::transport::conn::state::ConnectionState;
use crate::transport::ttrpc::envelope::FieldCounter;
use crate::transport::ttrpc::frames::{Event, FrameScanner};

/// The longest frame of a ttrpc client, in bytes. The library skips a payload above its own limit and
/// answers with an error. A larger frame means another protocol (HTTP reads as 1.3 GB).
const MAX_PLAUSIBLE_FRAME: u32 = 64 << 20;

/// The wait for the memory of a large request.
type Share = Pin<Box<dyn Future<Output = Option<Reservation>> + Send + Sync>>;

/// A stream that enforces the limits of its connection.
pub(crate) struct GuardedStream {
    stream: UnixStream,
    connection: Arc<ConnectionState>,
    calls: usize,
    requests: MemoryBudget,
    incoming: FrameScanner,
    envelope: FieldCounter,
    outgoing: FrameScanner,
    turns: FairShare,
    /// Requests that the stream has read and the server has not answered.
    in_flight: usize,
    /// The reader that waits for `in_flight` to fall.
    paused: Option<Waker>,
    share: Option<Share>,
    /// Runs while a request is incomplete.
    request_timer: Timer,
    /// Runs while the socket takes no reply.
    reply_timer: Timer,
    /// When to look whether other clients wait for the memory of an incomplete request.
    request_check: Interval,
    /// When to look whether other clients wait for the memory of a reply that the socket does not take.
    reply_check: Interval,
    /// Dropped with the stream.
    _end: oneshot::Sender<()>,
}

impl GuardedStream {
    /// Guards `stream`. The guard drops `end` when the connection closes.
    pub(crate) fn new(
        stream: UnixStream,
        connection: Arc<ConnectionState>,
        limits: &Limits,
        end: oneshot::Sender<()>,
    ) -> Self {
        Self {
            stream,
            connection,
            calls: limits.calls,
            requests: limits.request_memory.clone(),
            incoming: FrameScanner::default(),
            envelope: FieldCounter::default(),
            outgoing: FrameScanner::default(),
            turns: FairShare::default(),
            in_flight: 0,
            paused: None,
            share: None,
            request_timer: Timer::new(limits.message_time),
            reply_timer: Timer::new(limits.unread_time),
            request_check: overdue_check(),
            reply_check: overdue_check(),
            _end: end,
        }
    }

    /// Whether the stream may read one more request.
    fn may_begin(&self) -> bool {
        self.in_flight == 0
            || (self.in_flight < self.calls && self.connection.admission().can_admit())
    }

    /// Handles the head of a request: checks it, and starts the wait for its memory.
    fn begin(&mut self, head: MessageHeader) -> io::Result<()> {
        if head.length > MAX_PLAUSIBLE_FRAME {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a frame claims {} bytes: this is no ttrpc client", head.length),
            ));
        }
        if !self.connection.open(head.stream_id) {
            let why = format!(
                "a ttrpc client is disconnected: it sent a frame on stream {}, whose call is not \
                 answered yet; give each call a stream of its own",
                head.stream_id
            );
            throttled_log!(Warn, "{why}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        self.turns.charge(CALL_COST);
        self.envelope = FieldCounter::default();
        let skipped = head.length as usize > MESSAGE_LENGTH_MAX;
        if !skipped && head.length as usize > SMALL {
            let (budget, client) = (self.requests.clone(), self.connection.client());
            let bytes = decoded_size::max_decoded_size(head.length as usize);
            self.share = Some(Box::pin(async move { budget.reserve(client, bytes).await }));
        }
        Ok(())
    }

    /// Handles a part of a request's payload: counts its fields.
    fn inspect(&mut self, part: &[u8]) -> io::Result<()> {
        let skipped = self.incoming.head.length as usize > MESSAGE_LENGTH_MAX;
        if skipped || self.envelope.feed(part) {
            return Ok(());
        }
        let why = "a request has too many fields: this is no ttrpc client";
        Err(io::Error::new(io::ErrorKind::InvalidData, why))
    }

    /// Handles the end of a request: counts its call as in flight.
    fn finish(&mut self, head: MessageHeader) {
        // The library ignores every other frame without an answer.
        let is_answered = matches!(head.type_, MESSAGE_TYPE_REQUEST | MESSAGE_TYPE_DATA)
            || head.stream_id.is_multiple_of(2)
            || head.length as usize > MESSAGE_LENGTH_MAX;
        if is_answered {
            self.in_flight += 1;
            self.connection.admission().admit(1);
        } else {
            self.connection.detach(head.stream_id);
        }
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.incoming.is_between() && !this.may_begin() {
            // The connection has calls in flight, and the end of one wakes this task.
            this.paused = Some(cx.waker().clone());
            return Poll::Pending;
        }
        ready!(this.turns.poll_ready(cx));
        if let Some(share) = &mut this.share {
            let reservation = ready!(share.as_mut().poll(cx));
            this.share = None;
            this.connection.attach_request(this.incoming.head.stream_id, reservation);
        }
        let before = buf.filled().len();
        let piece = buf.remaining().min(QUANTUM);
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(piece));
        match Pin::new(&mut this.stream).poll_read(cx, &mut part) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
            Poll::Pending => {
                this.turns.refill();
                if this.incoming.is_between() {
                    return Poll::Pending;
                }
                let stream = this.incoming.head.stream_id;
                while this.request_check.poll_tick(cx).is_ready() {
                    if this.connection.is_request_overdue(stream) {
                        return Poll::Ready(Err(disconnected(
                            "a request stopped on its way while others waited for its memory",
                        )));
                    }
                }
                return this.request_timer.poll(cx, "a request did not arrive whole in time");
            }
        }
        let count = part.filled().len();
        buf.advance(count);
        this.turns.charge(count);
        let mut read = buf.filled().get(before..).unwrap_or_default();
        while let Some(event) = this.incoming.take(&mut read) {
            match event {
                Event::Head(head) => this.begin(head)?,
                Event::Part(part) => this.inspect(part)?,
                Event::End(head) => this.finish(head),
            }
        }
        if this.incoming.is_between() {
            this.request_timer.stop();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = match Pin::new(&mut this.stream).poll_write(cx, buf) {
            Poll::Ready(count) => count?,
            Poll::Pending => {
                while this.reply_check.poll_tick(cx).is_ready() {
                    if this.connection.is_reply_overdue() {
                        return Poll::Ready(Err(disconnected(
                            "replies were left unread while others waited for their memory",
                        )));
                    }
                }
                return this
                    .reply_timer
                    .poll(cx, "replies were left unread too long")
                    .map_ok(|()| 0);
            }
        };
        this.reply_timer.stop();
        let mut written = buf.get(..count).unwrap_or_default();
        while let Some(event) = this.outgoing.take(&mut written) {
            if let Event::End(head) = event {
                this.connection.detach(head.stream_id);
                if this.in_flight > 0 {
                    this.in_flight -= 1;
                    this.connection.admission().release(1);
                }
                if let Some(reader) = this.paused.take() {
                    reader.wake();
                }
            }
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// A timeout that runs from the first poll to the next stop.
struct Timer {
    time: Duration,
    running: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    fn new(time: Duration) -> Self {
        Self { time, running: None }
    }

    fn stop(&mut self) {
        self.running = None;
    }

    /// Pending until the timeout, then an error with the reason `why`.
    fn poll(&mut self, cx: &mut Context<'_>, why: &str) -> Poll<io::Result<()>> {
        let end = || Box::pin(tokio::time::sleep_until(Instant::now() + self.time));
        ready!(self.running.get_or_insert_with(end).as_mut().poll(cx));
        Poll::Ready(Err(disconnected(why)))
    }
}

/// The error that ends a connection whose client is too slow.
fn disconnected(why: &str) -> io::Error {
    throttled_log!(Warn, "a ttrpc client is disconnected: {why}");
    io::Error::new(io::ErrorKind::TimedOut, why)
}

fn overdue_check() -> Interval {
    let mut interval = tokio::time::interval(OVERDUE_CHECK_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
