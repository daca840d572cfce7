//! Calls and connections of clients.

use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::clients::{Clients, Program};
use super::names;

/// Metrics of calls and connections. Clones share the same values.
#[derive(Clone)]
pub struct Calls {
    ended: Family<EndedCall, Counter>,
    seconds: Family<Method, Histogram>,
    in_flight: Family<Method, Gauge>,
    connections: Family<Transport, Gauge>,
    /// Calls by program.
    pub clients: Clients,
    /// Connections closed at once because too many were open.
    pub refused: Counter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Transport {
    transport: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    service: &'static str,
    method: &'static str,
    transport: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndedCall {
    service: &'static str,
    method: &'static str,
    transport: &'static str,
    code: &'static str,
}

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Calls")
    }
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            ended: Family::default(),
            seconds: Family::new_with_constructor(super::seconds),
            in_flight: Family::default(),
            connections: Family::default(),
            clients: Clients::default(),
            refused: Counter::default(),
        }
    }
}

impl Calls {
    /// Counts the start of a call by `program`. The call ends when the returned value is dropped.
    pub fn begin(
        &self,
        program: &Program,
        transport: &'static str,
        service: &str,
        method: &str,
    ) -> Call {
        let (service, method) = names::known(service, method);
        let method = Method { service, method, transport };
        let in_flight = self.in_flight.get_or_create_owned(&method);
        in_flight.inc();
        let (calls, program) = (self.clone(), program.clone());
        Call { calls, program, method, started: Instant::now(), in_flight, code: None }
    }

    /// Counts an open connection until the returned value is dropped.
    pub fn connection(&self, transport: &'static str) -> OpenConnection {
        let open = self.connections.get_or_create_owned(&Transport { transport });
        open.inc();
        OpenConnection(open)
    }

    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("calls", "Calls that ended", self.ended.clone());
        registry.register("call_seconds", "Time of a call", self.seconds.clone());
        registry.register("calls_in_flight", "Calls under way", self.in_flight.clone());
        self.clients.register(registry);
        registry.register("connections", "Open connections", self.connections.clone());
        registry.register(
            "connections_refused",
            "Connections closed at once, as too many were open",
            self.refused.clone(),
        );
    }
}

/// An open connection.
#[derive(Debug)]
pub struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A call in flight. Dropping it counts its end: with the status code from [`Call::set_code`], or as
/// cancelled by the client if there is none.
#[derive(Debug)]
pub struct Call {
    calls: Calls,
    program: Program,
    method: Method,
    started: Instant,
    in_flight: Gauge,
    code: Option<i32>,
}

impl Call {
    /// Sets the status code with which the call ends.
    pub(crate) fn set_code(&mut self, code: i32) {
        self.code = Some(code);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let Method { service, method, transport } = self.method;
        self.in_flight.dec();
        self.calls
            .seconds
            .get_or_create(&self.method)
            .observe(self.started.elapsed().as_secs_f64());
        self.calls.clients.count(self.program.clone(), service, method);
        let code = code_name(self.code.unwrap_or(CANCELLED));
        self.calls.ended.get_or_create(&EndedCall { service, method, transport, code }).inc();
    }
}

const CANCELLED: i32 = 1;

/// Returns the name of a status code. gRPC and ttrpc share the codes.
fn code_name(code: i32) -> &'static str {
    match code {
        0 => "OK",
        CANCELLED => "CANCELLED",
        3 => "INVALID_ARGUMENT",
        4 => "DEADLINE_EXCEEDED",
        5 => "NOT_FOUND",
        6 => "ALREADY_EXISTS",
        7 => "PERMISSION_DENIED",
        8 => "RESOURCE_EXHAUSTED",
        9 => "FAILED_PRECONDITION",
        10 => "ABORTED",
        11 => "OUT_OF_RANGE",
        12 => "UNIMPLEMENTED",
        13 => "INTERNAL",
        14 => "UNAVAILABLE",
        15 => "DATA_LOSS",
        16 => "UNAUTHENTICATED",
        _ => "UNKNOWN",
    }
}
