//! Calls by the program that made them.
//!
//! A client chooses its program's name. So the number of names that become label values is limited; all further
//! programs share [`names::OTHER`].

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::names;
use crate::model::printable::escaped;

/// Number of programs with a label value of their own: the first that connected.
const MAX_CLIENT_LABELS: usize = 32;

/// Label value of a process that has no name: it has ended, or the daemon cannot see it.
const UNKNOWN: &str = "unknown";

/// Calls by program. Clones share the same values.
#[derive(Debug, Clone, Default)]
pub struct Clients {
    programs: Arc<Mutex<BTreeSet<Arc<str>>>>,
    calls: Family<ClientCall, Counter>,
}

/// The label value of a program.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Program(Arc<str>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClientCall {
    client: Program,
    service: &'static str,
    method: &'static str,
}

impl Default for Program {
    fn default() -> Self {
        Self(UNKNOWN.into())
    }
}

impl EncodeLabelValue for Program {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.as_ref().encode(encoder)
    }
}

impl Clients {
    /// Returns the label value of the program `name`.
    pub fn program(&self, name: &str) -> Program {
        let name = escaped(name);
        let mut programs = self.programs.lock();
        if let Some(known) = programs.get(name.as_ref()) {
            return Program(Arc::clone(known));
        }
        if name.is_empty() {
            return Program::default();
        }
        if programs.len() >= MAX_CLIENT_LABELS {
            return Program(names::OTHER.into());
        }
        let name: Arc<str> = name.as_ref().into();
        programs.insert(Arc::clone(&name));
        Program(name)
    }

    /// Counts a call of `program`.
    pub(super) fn count(&self, program: Program, service: &'static str, method: &'static str) {
        self.calls.get_or_create(&ClientCall { client: program, service, method }).inc();
    }

    /// Adds them to a registry.
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Calls that ended, by the program that made them";
        registry.register("client_calls", help, self.calls.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_programs_are_bounded_and_printable() {
        let clients = Clients::default();
        for number in 0..1000 {
            let program = clients.program(&format!("p{number}"));
            let expected =
                if number < MAX_CLIENT_LABELS { format!("p{number}") } else { "other".into() };
            assert_eq!(*program.0, *expected);
            clients.count(program, "s", "m");
        }
        assert_eq!(*clients.program("p0").0, *"p0", "a known name stays");
        assert_eq!(*clients.program("").0, *UNKNOWN);
        assert_eq!(*Clients::default().program("a\n\u{1b}b").0, *"a\\n\\u001bb");
        let mut registry = Registry::default();
        clients.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let line = "client_calls_total{client=\"other\",service=\"s\",method=\"m\"} 968\n";
        assert!(text.contains(line), "{text}");
        assert_eq!(text.matches("client_calls_total{").count(), MAX_CLIENT_LABELS + 1);
    }
}
