//! Where a containerd keeps its files, as its Introspection service tells.

use std::fs;
use std::path::{Path, PathBuf};

use http::HeaderMap;
use protobuf::well_known_types::empty::Empty;

use crate::api::introspection::{PluginsRequest, PluginsResponse, ServerResponse};
use crate::containerd::client::GrpcClient;
use crate::model::Result;

/// The plugin of the database, and the types of both plugins.
const DATABASE: (&str, &str) = ("io.containerd.metadata.v1", "bolt");
const CONTENT: &str = "io.containerd.content.v1";

/// The file below containerd's root in which it keeps its identity.
const IDENTITY_FILE: &str = "io.containerd.grpc.v1.introspection/uuid";

/// The longest identity, in bytes: a UUID and a line end.
const MAX_IDENTITY_BYTES: u64 = 64;

/// What a containerd says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Its database.
    pub database: Option<PathBuf>,
    /// The folder of its content store; `None` if it keeps content in another way.
    pub content: Option<PathBuf>,
    /// Its identity.
    pub uuid: String,
}

impl GrpcClient {
    /// Asks where containerd keeps its files.
    ///
    /// # Errors
    /// containerd does not answer.
    pub async fn places(&self) -> Result<Places> {
        let headers = HeaderMap::new();
        let path = "/containerd.services.introspection.v1.Introspection/Plugins";
        let request = PluginsRequest::new();
        let reply = self.call(path, None, &headers, request).await;
        let reply: PluginsResponse = reply.map_err(|s| self.failed("listing the plugins", &s))?;
        let path = "/containerd.services.introspection.v1.Introspection/Server";
        let server = self.call(path, None, &headers, Empty::new()).await;
        let server: ServerResponse =
            server.map_err(|s| self.failed("asking for the identity", &s))?;
        Ok(places(&reply, server.uuid))
    }
}

fn places(plugins: &PluginsResponse, uuid: String) -> Places {
    let loaded = || plugins.plugins.iter().filter(|plugin| plugin.init_err.is_none());
    let database = loaded().find(|p| (p.type_.as_str(), p.id.as_str()) == DATABASE);
    let mut stores = loaded().filter(|plugin| plugin.type_ == CONTENT);
    // With several, it is not said which of them the database uses.
    let content = stores.next().filter(|_| stores.next().is_none());
    Places {
        database: database.and_then(|p| p.exports.get("path")).map(PathBuf::from),
        content: content.and_then(|p| p.exports.get("root")).map(PathBuf::from),
        uuid,
    }
}

impl Places {
    /// Whether the file system that this process sees has the same containerd's files at that place. In
    /// another mount namespace the same path may lead to another containerd's.
    pub fn are_here(&self) -> bool {
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
    use crate::api::introspection::Plugin;

    fn plugin(type_: &str, id: &str, key: &str, value: &str) -> Plugin {
        let exports = [(key.to_owned(), value.to_owned())].into();
        Plugin { type_: type_.into(), id: id.into(), exports, ..Plugin::default() }
    }

    fn of(plugins: Vec<Plugin>) -> Places {
        places(&PluginsResponse { plugins, ..Default::default() }, "u".into())
    }

    #[test]
    fn the_places_are_those_of_the_plugins() {
        let database = plugin(DATABASE.0, "bolt", "path", "/r/m/meta.db");
        let content = plugin(CONTENT, "content", "root", "/r/c");
        let found = of(vec![content.clone(), database.clone()]);
        let here = Places {
            database: Some("/r/m/meta.db".into()),
            content: Some("/r/c".into()),
            uuid: "u".into(),
        };
        assert_eq!(found, here);
        let remote = plugin(CONTENT, "remote", "address", "/run/x.sock");
        assert_eq!(of(vec![database.clone(), remote.clone()]).content, None);
        assert_eq!(of(vec![database, content.clone(), remote]).content, None);
        assert_eq!(of(vec![content]).database, None);
    }

    #[test]
    fn files_of_another_containerd_are_not_here() {
        let dir = tempfile::tempdir().unwrap();
        let places = |uuid: &str| Places {
            database: Some(dir.path().join("m/meta.db")),
            content: None,
            uuid: uuid.into(),
        };
        assert!(!places("u").are_here(), "there is no identity");
        let file = dir.path().join(IDENTITY_FILE);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "u\n").unwrap();
        assert!(places("u").are_here());
        assert!(!places("v").are_here());
        fs::write(&file, "").unwrap();
        assert!(!places("").are_here());
        assert!(!Places { database: None, ..places("u") }.are_here());
    }
}
