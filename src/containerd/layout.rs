//! The paths of a containerd's files, from its Introspection service.

use std::fs;
use std::path::{Path, PathBuf};

use http::HeaderMap;
use protobuf::well_known_types::empty::Empty;

use crate::api::introspection::{Plugin, PluginsRequest, PluginsResponse, ServerResponse};
use crate::containerd::client::GrpcClient;
use crate::model::Result;

const METADATA_PLUGIN: &str = "io.containerd.metadata.v1";
const CONTENT_PLUGIN: &str = "io.containerd.content.v1";
const SNAPSHOTTER_PLUGIN: &str = "io.containerd.snapshotter.v1";

/// The file below containerd's root in which it keeps its identity.
const IDENTITY_FILE: &str = "io.containerd.grpc.v1.introspection/uuid";

/// The longest identity, in bytes: a UUID and a line end.
const MAX_IDENTITY_BYTES: u64 = 64;

/// The paths of a containerd's files.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Layout {
    /// The database, `meta.db`; `None` if containerd does not say where it is.
    pub(crate) database: Option<PathBuf>,
    /// The folder of the content store, with `blobs` in it; `None` if containerd keeps content in another
    /// way.
    pub(crate) content: Option<PathBuf>,
    /// Whether a namespace may take up a blob of the content folder that it did not bring.
    pub(crate) shares_content: bool,
    /// The snapshotters that run: name and folder.
    pub(crate) snapshotters: Vec<(String, PathBuf)>,
    /// The identity of the containerd, a UUID.
    pub(crate) uuid: String,
}

impl GrpcClient {
    /// Asks containerd where it keeps its files.
    ///
    /// # Errors
    /// If containerd does not answer.
    pub(crate) async fn layout(&self) -> Result<Layout> {
        let headers = HeaderMap::new();
        let path = "/containerd.services.introspection.v1.Introspection/Plugins";
        let plugins = self.call(path, None, &headers, PluginsRequest::new()).await;
        let plugins: PluginsResponse = plugins.map_err(|s| self.failed("listing plugins", &s))?;
        let path = "/containerd.services.introspection.v1.Introspection/Server";
        let server = self.call(path, None, &headers, Empty::new()).await;
        let server: ServerResponse =
            server.map_err(|s| self.failed("asking for the identity", &s))?;
        Ok(layout(&plugins, server.uuid))
    }
}

fn layout(reply: &PluginsResponse, uuid: String) -> Layout {
    let loaded = |kind: &'static str| {
        reply.plugins.iter().filter(move |p| p.type_ == kind && p.init_err.is_none())
    };
    let export = |plugin: &Plugin, key: &str| plugin.exports.get(key).map(PathBuf::from);
    let database = loaded(METADATA_PLUGIN).find(|plugin| plugin.id == "bolt");
    let mut stores = loaded(CONTENT_PLUGIN);
    // With several, containerd does not say which of them the database uses.
    let content = stores.next().filter(|_| stores.next().is_none());
    let policy = database.and_then(|plugin| plugin.exports.get("policy"));
    Layout {
        database: database.and_then(|plugin| export(plugin, "path")),
        content: content.and_then(|plugin| export(plugin, "root")),
        shares_content: policy.is_none_or(|policy| policy != "isolated"),
        snapshotters: loaded(SNAPSHOTTER_PLUGIN)
            .filter_map(|plugin| Some((plugin.id.clone(), export(plugin, "root")?)))
            .collect(),
        uuid,
    }
}

impl Layout {
    /// Whether this process sees the same containerd's files at these paths. In another mount namespace
    /// a path may lead to the files of another containerd.
    pub(crate) fn are_here(&self) -> bool {
        let root = self.database.as_deref().and_then(Path::parent).and_then(Path::parent);
        let Some(file) = root.map(|root| root.join(IDENTITY_FILE)) else { return false };
        let is_short = fs::metadata(&file)
            .is_ok_and(|found| found.is_file() && found.len() <= MAX_IDENTITY_BYTES);
        let found =
            if is_short { fs::read_to_string(&file).unwrap_or_default() } else { String::new() };
        !self.uuid.is_empty() && found.trim() == self.uuid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(type_: &str, id: &str, exports: &[(&str, &str)]) -> Plugin {
        let exports = exports.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Plugin { type_: type_.into(), id: id.into(), exports, ..Plugin::default() }
    }

    fn from_plugins(plugins: Vec<Plugin>) -> Layout {
        layout(&PluginsResponse { plugins, ..Default::default() }, "u".into())
    }

    #[test]
    fn the_layout_has_the_paths_of_the_plugins() {
        let database =
            plugin(METADATA_PLUGIN, "bolt", &[("path", "/r/m/meta.db"), ("policy", "shared")]);
        let content = plugin(CONTENT_PLUGIN, "content", &[("root", "/r/c")]);
        let overlay = plugin(SNAPSHOTTER_PLUGIN, "overlayfs", &[("root", "/r/s")]);
        let mut broken = plugin(SNAPSHOTTER_PLUGIN, "zfs", &[("root", "/r/z")]);
        broken.init_err = Some(Default::default()).into();
        let found = from_plugins(vec![content.clone(), database.clone(), overlay, broken]);
        let here = Layout {
            database: Some("/r/m/meta.db".into()),
            content: Some("/r/c".into()),
            shares_content: true,
            snapshotters: vec![("overlayfs".into(), "/r/s".into())],
            uuid: "u".into(),
        };
        assert_eq!(found, here);
        let remote = plugin(CONTENT_PLUGIN, "remote", &[("address", "/run/x.sock")]);
        assert_eq!(from_plugins(vec![database.clone(), remote.clone()]).content, None);
        assert_eq!(from_plugins(vec![database, content.clone(), remote]).content, None);
        assert_eq!(from_plugins(vec![content]).database, None);
        let isolated = plugin(METADATA_PLUGIN, "bolt", &[("policy", "isolated")]);
        assert!(!from_plugins(vec![isolated]).shares_content);
    }

    #[test]
    fn files_of_another_containerd_are_not_those_of_this_one() {
        let dir = tempfile::tempdir().unwrap();
        let layout = |uuid: &str| Layout {
            database: Some(dir.path().join("m/meta.db")),
            uuid: uuid.into(),
            ..from_plugins(Vec::new())
        };
        assert!(!layout("u").are_here(), "there is no identity");
        let file = dir.path().join(IDENTITY_FILE);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "u\n").unwrap();
        assert!(layout("u").are_here());
        assert!(!layout("v").are_here());
        fs::write(&file, "").unwrap();
        assert!(!layout("").are_here());
        assert!(!from_plugins(Vec::new()).are_here(), "there is no database");
    }
}
