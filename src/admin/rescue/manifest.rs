//! Manifests and indexes, as far as a rescue reads them.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The label by which containerd's collector goes from a blob to another.
pub(crate) const REFERENCE_LABEL: &str = "containerd.io/gc.ref.content";

/// A reference from one blob to another, as manifests and indexes have it.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    /// The media type of the blob.
    #[serde(default)]
    pub(crate) media_type: String,
    /// The digest of the blob.
    pub(crate) digest: String,
    /// The size of the blob in bytes.
    #[serde(default)]
    pub(crate) size: i64,
    /// The platform of the image that the blob belongs to.
    pub(crate) platform: Option<Platform>,
    /// Annotations.
    #[serde(default)]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

/// The platform of a manifest.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
pub(crate) struct Platform {
    /// The processor, by Go's name.
    #[serde(default)]
    pub(crate) architecture: String,
    /// The system, by Go's name.
    #[serde(default)]
    pub(crate) os: String,
}

/// The fields of a manifest or an index that a rescue reads.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Content {
    /// The media type.
    pub(crate) media_type: Option<String>,
    /// The configuration of a manifest.
    pub(crate) config: Option<Descriptor>,
    /// The layers of a manifest.
    pub(crate) layers: Option<Vec<Descriptor>>,
    /// The children of an index.
    pub(crate) manifests: Option<Vec<Descriptor>>,
    /// Annotations.
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

/// The kind of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ManifestKind {
    /// The blob lists manifests.
    Index,
    /// The blob has a configuration and layers.
    Manifest,
    /// Any other blob, which refers to no others.
    Leaf,
}

impl ManifestKind {
    /// The kind of a media type.
    pub(crate) fn from_media_type(media_type: &str) -> Self {
        match media_type {
            "application/vnd.oci.image.index.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json" => Self::Index,
            "application/vnd.oci.image.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v2+json" => Self::Manifest,
            _ => Self::Leaf,
        }
    }
}

impl Descriptor {
    /// Whether it names an attestation of BuildKit's. They lie beside the manifests of an index, and no
    /// machine runs them.
    pub(crate) fn is_attestation(&self) -> bool {
        let kind = self.annotations.as_ref().and_then(|a| a.get("vnd.docker.reference.type"));
        kind.is_some_and(|kind| kind == "attestation-manifest")
            || self
                .platform
                .as_ref()
                .is_some_and(|p| p.os == "unknown" && p.architecture == "unknown")
    }

    /// Whether the descriptor names a manifest for the processor and the system of this machine.
    pub(crate) fn is_for_this_machine(&self) -> bool {
        let own = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        self.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == own)
    }

    /// The label with which an index refers to this child, its `number`th.
    pub(crate) fn reference_label(&self, number: usize) -> String {
        match ManifestKind::from_media_type(&self.media_type) {
            ManifestKind::Leaf => format!("{REFERENCE_LABEL}.{number}"),
            _ => format!("{REFERENCE_LABEL}.m.{number}"),
        }
    }

    /// Name of this child of an index, its `number`th, in sentences.
    pub(crate) fn part(&self, number: usize) -> String {
        if self.is_attestation() {
            return format!("attestation {number}");
        }
        match &self.platform {
            Some(platform) => format!("the manifest for {}/{}", platform.os, platform.architecture),
            None => format!("manifest {number}"),
        }
    }
}
