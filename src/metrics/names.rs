//! Names of containerd's services and methods. Only these become values of labels.

/// Label value for all unknown names.
pub(crate) const OTHER: &str = "other";

/// The services of containerd 2.3 and of this program with their methods. The methods of the kubelet's runtime service all
/// count as `other`.
const SERVICES: &[(&str, &[&str])] = &[
    ("containerd.services.images.v1.Images", &["Get", "List", "Create", "Update", "Delete"]),
    (
        "containerd.services.namespaces.v1.Namespaces",
        &["Get", "List", "Create", "Update", "Delete"],
    ),
    (
        "containerd.services.leases.v1.Leases",
        &["Create", "Delete", "List", "AddResource", "DeleteResource", "ListResources"],
    ),
    ("containerd.services.events.v1.Events", &["Publish", "Forward", "Subscribe"]),
    ("containerd.services.events.ttrpc.v1.Events", &["Forward"]),
    ("containerd.services.transfer.v1.Transfer", &["Transfer"]),
    ("containerd.services.streaming.v1.Streaming", &["Stream"]),
    ("containerd.services.introspection.v1.Introspection", &["Plugins", "Server", "PluginInfo"]),
    ("containerd.services.version.v1.Version", &["Version"]),
    ("grpc.health.v1.Health", &["Check", "Watch"]),
    (
        "lmdbimages.v1.Catalog",
        &["Head", "Watch", "Changes", "History", "Undo", "List", "StreamList", "Count", "Apply"],
    ),
    (
        "containerd.services.content.v1.Content",
        &["Info", "Update", "List", "Delete", "Read", "Status", "ListStatuses", "Write", "Abort"],
    ),
    (
        "containerd.services.snapshots.v1.Snapshots",
        &[
            "Prepare", "View", "Mounts", "Commit", "Remove", "Stat", "Update", "List", "Usage",
            "Cleanup",
        ],
    ),
    (
        "containerd.services.containers.v1.Containers",
        &["Get", "List", "ListStream", "Create", "Update", "Delete"],
    ),
    (
        "containerd.services.tasks.v1.Tasks",
        &[
            "Create",
            "Start",
            "Delete",
            "DeleteProcess",
            "Get",
            "List",
            "Kill",
            "Exec",
            "ResizePty",
            "CloseIO",
            "Pause",
            "Resume",
            "ListPids",
            "Checkpoint",
            "Update",
            "Metrics",
            "Wait",
        ],
    ),
    ("containerd.services.diff.v1.Diff", &["Apply", "Diff"]),
    ("containerd.services.mounts.v1.Mounts", &["Activate", "Deactivate", "Info", "Update", "List"]),
    ("containerd.services.sandbox.v1.Store", &["Create", "Update", "Delete", "List", "Get"]),
    (
        "containerd.services.sandbox.v1.Controller",
        &["Create", "Start", "Platform", "Stop", "Wait", "Status", "Shutdown", "Metrics", "Update"],
    ),
    (
        "runtime.v1.ImageService",
        &["ListImages", "ImageStatus", "PullImage", "RemoveImage", "ImageFsInfo"],
    ),
    ("runtime.v1.RuntimeService", &[]),
];

/// Returns the two names as label values; [`OTHER`] for unknown ones.
pub(crate) fn known(service: &str, method: &str) -> (&'static str, &'static str) {
    let Some((service, methods)) = SERVICES.iter().find(|(name, _)| *name == service) else {
        return (OTHER, OTHER);
    };
    (service, methods.iter().find(|name| **name == method).unwrap_or(&OTHER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_no_label_value() {
        let images = "containerd.services.images.v1.Images";
        assert_eq!(known(images, "Get"), (images, "Get"));
        assert_eq!(known(images, "Gat"), (images, OTHER));
        assert_eq!(known("x", "Get"), (OTHER, OTHER));
    }
}
