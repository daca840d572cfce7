//! Where a containerd keeps its files, by what its plugins tell of themselves.

use std::path::PathBuf;

use http::HeaderMap;

use crate::api::introspection::{Plugin, PluginsRequest, PluginsResponse};
use crate::containerd::client::GrpcClient;
use crate::model::{Error, Result};

/// Where a containerd keeps its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The folder of the content plugin; `blobs` is in it.
    pub content: PathBuf,
    /// The database, `meta.db`.
    pub database: PathBuf,
    /// Whether a namespace may take up a blob of the content folder that it did not bring.
    pub shares_content: bool,
    /// The snapshotters that run: name and folder.
    pub snapshotters: Vec<(String, PathBuf)>,
}

impl GrpcClient {
    /// Asks where it keeps its files.
    ///
    /// # Errors
    /// If the call fails, or what answers is no containerd.
    pub async fn layout(&self) -> Result<Layout> {
        let path = "/containerd.services.introspection.v1.Introspection/Plugins";
        let found: PluginsResponse = self
            .call(path, None, &HeaderMap::new(), PluginsRequest::new())
            .await
            .map_err(|s| self.failed("listing plugins", &s))?;
        let export = |kind: &str, key: &str| {
            let plugin = found.plugins.iter().find(|plugin| plugin.type_ == kind)?;
            plugin.exports.get(key).cloned()
        };
        let missing = |what: &str| {
            Error::FailedPrecondition(format!(
                "what listens at {} does not say where its {what} is: name the socket of a containerd",
                self.socket().display()
            ))
        };
        let content = export("io.containerd.content.v1", "root");
        let database = export("io.containerd.metadata.v1", "path");
        let runs = |plugin: &&Plugin| {
            plugin.type_ == "io.containerd.snapshotter.v1" && plugin.init_err.is_none()
        };
        let snapshotters = found.plugins.iter().filter(runs).filter_map(|plugin| {
            Some((plugin.id.clone(), PathBuf::from(plugin.exports.get("root")?)))
        });
        Ok(Layout {
            content: content.ok_or_else(|| missing("content"))?.into(),
            database: database.ok_or_else(|| missing("database"))?.into(),
            shares_content: export("io.containerd.metadata.v1", "policy").as_deref()
                != Some("isolated"),
            snapshotters: snapshotters.collect(),
        })
    }
}
