//! `lmdb-images check --names`: names that docker and CRI cannot show or find.

use std::path::Path;

use serde_json::json;

use crate::api::images::Image;
use crate::model::reference::{self, NameFault};
use crate::model::{Namespace, Result};
use crate::service::codec::decode;
use crate::store::{Kind, ReadOnlyStore, Records};

/// A name with its fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Namespace of the image.
    pub(crate) namespace: Namespace,
    /// Name of the image.
    pub(crate) name: String,
    /// The fault of the name.
    pub(crate) fault: NameFault,
}

impl Finding {
    /// The finding as a line of JSON.
    pub(crate) fn json(&self) -> String {
        let (namespace, fault) = (self.namespace.as_str(), self.fault.to_string());
        json!({ "namespace": namespace, "name": self.name, "fault": fault }).to_string()
    }
}

/// Looks at each name of the store in `root`. Damaged records are `check`'s to report.
///
/// # Errors
/// If the store cannot be opened or read.
pub(crate) fn run(root: &Path) -> Result<Vec<Finding>> {
    ReadOnlyStore::open(root)?.read(|snapshot| {
        let mut found = Vec::new();
        for namespace in snapshot.namespaces()? {
            for entry in snapshot.scan(&namespace, Kind::Image)? {
                let entry = entry?;
                let Ok(message) = entry.message() else { continue };
                let name = decode::<Image>(message)?.name;
                if let Some(fault) = reference::fault(&name) {
                    found.push(Finding { namespace: namespace.clone(), name, fault });
                }
            }
        }
        Ok(found)
    })
}
