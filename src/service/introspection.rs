//! Introspection: the identity of this server, and its services.

use std::os::unix::fs::MetadataExt;

use crate::api::introspection::{Plugin, ServerResponse};
use crate::model::filter::{Fields, Filter};
use crate::model::{Error, Result, image};
use crate::service::cancel::Cancel;

/// The services of `images.sock`, each as the plugin that offers it in containerd.
const SERVICES: [&str; 8] = [
    "events",
    "healthcheck",
    "images",
    "introspection",
    "leases",
    "namespaces",
    "transfer",
    "version",
];

/// The reply about this server: the UUID of the store, which never changes, and the process.
pub(crate) fn server(uuid: &str) -> ServerResponse {
    // The number of the PID namespace is the inode of its file; without /proc it stays 0.
    let pidns = std::fs::metadata("/proc/self/ns/pid").map_or(0, |m| m.ino());
    ServerResponse {
        uuid: uuid.to_owned(),
        pid: std::process::id().into(),
        pidns,
        ..ServerResponse::default()
    }
}

/// The plugins that match any of the filters.
pub(crate) fn plugins(filters: &[String], root: &str, mut cancel: Cancel) -> Result<Vec<Plugin>> {
    // containerd repeats the sentence.
    let filter = cancel.compile(filters, |filters| {
        Filter::parse(filters).map_err(|e| {
            Error::InvalidArgument(format!("invalid argument: {}", Error::invalid_argument(e)))
        })
    })?;
    let mut step = || cancel.check();
    let plugin = |id: &str| {
        let mut plugin =
            Plugin { type_: "io.containerd.grpc.v1".into(), id: id.into(), ..Plugin::default() };
        if id == "images" {
            let server = format!("lmdb-images {}", env!("CARGO_PKG_VERSION"));
            plugin.exports = [("root".into(), root.into()), ("server".into(), server)].into();
        }
        plugin
    };
    let mut found = Vec::new();
    for plugin in SERVICES.into_iter().map(plugin) {
        if filter.try_matches(&plugin, &mut step)? {
            found.push(plugin);
        }
    }
    Ok(found)
}

impl Fields for Plugin {
    fn field(&self, path: &[Vec<u8>]) -> Option<&[u8]> {
        match path.first()?.as_slice() {
            b"type" => image::non_empty(&self.type_),
            b"id" => image::non_empty(&self.id),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_does_not_parse_is_refused_in_containerds_words() {
        let refused = plugins(&["id==".into()], "/", Cancel::never()).unwrap_err();
        assert!(
            refused.message().starts_with("invalid argument: filters: parse error: "),
            "{refused}"
        );
        assert!(refused.message().ends_with(": invalid argument"), "{refused}");
    }
}
