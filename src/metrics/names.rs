//! How the services of a containerd and their methods are called: the only names that become values
//! of labels.

/// What stands for every name that is not known.
pub const OTHER: &str = "other";

/// The services, by containerd 2.3; of the kubelet's runtime service no method is told apart.
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

/// The two names, or [`OTHER`] where they are not known.
pub fn known(service: &str, method: &str) -> (&'static str, &'static str) {
    let Some((service, methods)) = SERVICES.iter().find(|(name, _)| *name == service) else {
        return (OTHER, OTHER);
    };
    (service, methods.iter().find(|name| **name == method).unwrap_or(&OTHER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_clients_making_is_no_label() {
        let images = "containerd.services.images.v1.Images";
        assert_eq!(known(images, "Get"), (images, "Get"));
        assert_eq!(known(images, "Gat"), (images, OTHER));
        assert_eq!(known("x", "Get"), (OTHER, OTHER));
    }
}
