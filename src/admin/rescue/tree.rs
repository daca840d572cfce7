//! The blobs of an image: its index, its manifests and the blobs that these refer to, by the files alone.
//!
//! A client pulls one platform of an index, so a manifest of an index may be missing. All blobs of a manifest
//! must be there. An image comes back if its target is there and, if that is an index, one manifest
//! with all its blobs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use super::blobs::{BlobFault, BlobFolder};
use super::manifest::{Content, Descriptor, ManifestKind, REFERENCE_LABEL};
use crate::api::descriptor::Descriptor as Target;

/// The most nested indexes. Two are usual; a hostile file could have any number.
const MAX_DEPTH: usize = 8;

/// The name of the target in sentences.
const TARGET: &str = "the target";

/// A blob on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BlobInfo {
    /// The digest.
    pub(crate) digest: String,
    /// The size in bytes.
    pub(crate) size: i64,
    /// The labels with which it refers to other blobs.
    pub(crate) labels: BTreeMap<String, String>,
}

/// A missing or damaged blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loss {
    /// The digest.
    pub(crate) digest: String,
    /// The role of the blob in the image.
    pub(crate) part: String,
    /// The fault.
    pub(crate) fault: BlobFault,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}) {}", self.digest, self.part, self.fault)
    }
}

/// The blobs of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    /// The blobs on disk. A blob comes after the blobs that it refers to.
    pub(crate) blobs: Vec<BlobInfo>,
    /// The missing and damaged blobs.
    pub(crate) lost: Vec<Loss>,
    /// Whether the image can be used on some platform, and so can get its name.
    pub(crate) usable: bool,
}

/// The state of a descriptor after a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// All its blobs are there.
    Whole,
    /// All layers of the manifest, or the blob itself, are missing.
    Absent,
    /// Some of its blobs are lost.
    Broken,
}

/// Walks the blobs of an image from its target on.
pub(crate) fn walk(blobs: &BlobFolder, target: &Target) -> Tree {
    let top = Descriptor {
        media_type: target.media_type.clone(),
        digest: target.digest.clone(),
        size: target.size,
        platform: None,
        annotations: None,
    };
    let mut walk =
        Walk { blobs, seen: HashMap::new(), listed: BTreeSet::new(), tree: Tree::default() };
    let state = walk.descriptor(&top, TARGET, MAX_DEPTH);
    walk.tree.usable = state == State::Whole;
    walk.tree
}

struct Walk<'b> {
    blobs: &'b BlobFolder,
    /// The state of each descriptor: a hostile index may name one blob any number of times.
    seen: HashMap<(String, i64, ManifestKind), State>,
    listed: BTreeSet<String>,
    tree: Tree,
}

impl Walk<'_> {
    fn descriptor(&mut self, descriptor: &Descriptor, part: &str, depth: usize) -> State {
        let kind = ManifestKind::from_media_type(&descriptor.media_type);
        let key = (descriptor.digest.clone(), descriptor.size, kind);
        if let Some(state) = self.seen.get(&key) {
            return *state;
        }
        let state = match kind {
            ManifestKind::Leaf => match self.blobs.check(&descriptor.digest, descriptor.size) {
                Ok(()) => {
                    self.list(descriptor, BTreeMap::new());
                    State::Whole
                }
                Err(fault) => self.lose(descriptor, part, fault),
            },
            ManifestKind::Index | ManifestKind::Manifest => match self.read(descriptor, depth) {
                Ok(content) if kind == ManifestKind::Index => {
                    self.index(descriptor, content, depth - 1)
                }
                Ok(content) => self.manifest(descriptor, content, part, depth - 1),
                Err(fault) => self.lose(descriptor, part, fault),
            },
        };
        self.seen.insert(key, state);
        state
    }

    fn read(&self, descriptor: &Descriptor, depth: usize) -> Result<Content, BlobFault> {
        if depth == 0 {
            return Err(BlobFault::Other(format!("lies below more than {MAX_DEPTH} others")));
        }
        let bytes = self.blobs.read(&descriptor.digest, descriptor.size)?;
        serde_json::from_slice(&bytes)
            .map_err(|e| BlobFault::Other(format!("cannot be read: it is no manifest: {e}")))
    }

    fn manifest(&mut self, own: &Descriptor, content: Content, part: &str, depth: usize) -> State {
        let of_part = if part == TARGET { String::new() } else { format!(" of {part}") };
        let (mut labels, mut found) = (BTreeMap::new(), Vec::new());
        if let Some(config) = &content.config {
            found.push(self.descriptor(config, &format!("the configuration{of_part}"), depth));
            labels.insert(format!("{REFERENCE_LABEL}.config"), config.digest.clone());
        }
        let config_only = found.len();
        for (number, layer) in content.layers.iter().flatten().enumerate() {
            found.push(self.descriptor(layer, &format!("layer {number}{of_part}"), depth));
            labels.insert(format!("{REFERENCE_LABEL}.l.{number}"), layer.digest.clone());
        }
        self.list(own, labels);
        let mut layers = found.iter().skip(config_only);
        if found.iter().all(|state| *state == State::Whole) {
            State::Whole
        } else if layers.all(|state| *state == State::Absent) && !found.contains(&State::Broken) {
            State::Absent
        } else {
            State::Broken
        }
    }

    /// An index is whole if one of its manifests is whole. A missing manifest is no loss: perhaps no client
    /// has pulled it. But it is a loss if every manifest for this machine is missing.
    fn index(&mut self, own: &Descriptor, content: Content, depth: usize) -> State {
        let mut labels = BTreeMap::new();
        let children = content.manifests.unwrap_or_default();
        let (mut is_usable, mut is_usable_here) = (children.is_empty(), false);
        let (mut absent, mut absent_here) = (Vec::new(), Vec::new());
        for (number, child) in children.iter().enumerate() {
            let before = self.tree.lost.len();
            let state = self.descriptor(child, &child.part(number), depth);
            if self.listed.contains(&child.digest) {
                labels.insert(child.reference_label(number), child.digest.clone());
            }
            let for_this_machine = child.is_for_this_machine();
            if state == State::Whole && !child.is_attestation() {
                is_usable = true;
                is_usable_here |= for_this_machine;
            }
            if state == State::Absent {
                let lost = self.tree.lost.drain(before..);
                if for_this_machine { absent_here.extend(lost) } else { absent.extend(lost) }
            }
        }
        self.list(own, labels);
        if !is_usable_here {
            self.tree.lost.extend(absent_here);
        }
        if is_usable {
            return State::Whole;
        }
        self.tree.lost.extend(absent);
        State::Broken
    }

    fn list(&mut self, descriptor: &Descriptor, labels: BTreeMap<String, String>) {
        if self.listed.insert(descriptor.digest.clone()) {
            let (digest, size) = (descriptor.digest.clone(), descriptor.size);
            self.tree.blobs.push(BlobInfo { digest, size, labels });
        }
    }

    fn lose(&mut self, descriptor: &Descriptor, part: &str, fault: BlobFault) -> State {
        let state = if fault == BlobFault::Missing { State::Absent } else { State::Broken };
        let (digest, part) = (descriptor.digest.clone(), part.to_owned());
        self.tree.lost.push(Loss { digest, part, fault });
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use sha2::{Digest, Sha256};

    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
            Self(dir)
        }

        fn path(&self, digest: &str) -> std::path::PathBuf {
            self.0.path().join("blobs").join(digest.replace(':', "/"))
        }

        /// Adds a blob, and returns its descriptor.
        fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
            let digest = format!("sha256:{:x}", Sha256::digest(bytes));
            std::fs::write(self.path(&digest), bytes).unwrap();
            json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
        }

        fn json(&self, media_type: &str, content: &Value) -> Value {
            self.blob(media_type, content.to_string().as_bytes())
        }

        /// A manifest of two layers whose blobs have this mark.
        fn manifest(&self, mark: &str, architecture: &str) -> Value {
            let blob = |kind: &str| self.blob(kind, format!("{kind} {mark}").as_bytes());
            let (config, layers) = (blob("config"), [blob("layer0"), blob("layer1")]);
            let content = json!({ "config": config, "layers": layers });
            let mut descriptor = self.json(MANIFEST, &content);
            descriptor["platform"] = json!({ "os": "linux", "architecture": architecture });
            descriptor
        }

        fn remove(&self, descriptor: &Value) {
            std::fs::remove_file(self.path(descriptor["digest"].as_str().unwrap())).unwrap();
        }

        fn walk(&self, target: &Value) -> Tree {
            let target = Target {
                media_type: target["mediaType"].as_str().unwrap().into(),
                digest: target["digest"].as_str().unwrap().into(),
                size: target["size"].as_i64().unwrap(),
                ..Target::default()
            };
            walk(&BlobFolder::of_content(self.0.path()).unwrap(), &target)
        }

        fn content(&self, descriptor: &Value) -> Value {
            let path = self.path(descriptor["digest"].as_str().unwrap());
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
        }
    }

    fn own() -> &'static str {
        if std::env::consts::ARCH == "x86_64" { "amd64" } else { "arm64" }
    }

    fn parts(tree: &Tree) -> Vec<String> {
        tree.lost.iter().map(|loss| format!("{} {}", loss.part, loss.fault)).collect()
    }

    #[test]
    fn the_blobs_of_a_manifest_come_before_it_and_are_labelled() {
        let folder = Folder::new();
        let manifest = folder.manifest("a", own());
        let tree = folder.walk(&manifest);
        assert!(tree.usable && tree.lost.is_empty());
        assert_eq!(tree.blobs.len(), 4);
        let top = tree.blobs.last().unwrap();
        assert_eq!(top.digest, manifest["digest"].as_str().unwrap());
        let content = folder.content(&manifest);
        for (key, value) in [
            ("config", &content["config"]),
            ("l.0", &content["layers"][0]),
            ("l.1", &content["layers"][1]),
        ] {
            let label = top.labels.get(&format!("containerd.io/gc.ref.content.{key}"));
            assert_eq!(label.unwrap(), value["digest"].as_str().unwrap(), "{key}");
        }
        assert_eq!(top.labels.len(), 3);
    }

    #[test]
    fn each_damage_is_named() {
        let folder = Folder::new();
        let manifest = folder.manifest("a", own());
        let content = folder.content(&manifest);
        let layer = folder.path(content["layers"][1]["digest"].as_str().unwrap());
        std::fs::write(&layer, "short").unwrap();
        let tree = folder.walk(&manifest);
        assert!(!tree.usable);
        assert_eq!(parts(&tree), ["layer 1 is damaged: 5 bytes instead of 8"]);
        folder.remove(&content["config"]);
        assert_eq!(parts(&folder.walk(&manifest))[0], "the configuration is missing");
        let path = folder.path(manifest["digest"].as_str().unwrap());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[3] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let expected = "the target is damaged: its content does not have this digest";
        assert_eq!(parts(&folder.walk(&manifest)), [expected]);
        folder.remove(&manifest);
        let tree = folder.walk(&manifest);
        assert_eq!(parts(&tree), ["the target is missing"]);
        assert!(!tree.usable && tree.blobs.is_empty());
    }

    #[test]
    fn one_complete_platform_of_an_index_is_enough() {
        let folder = Folder::new();
        let (ours, other) = (folder.manifest("a", own()), folder.manifest("b", "s390x"));
        let mut attestation = folder.manifest("c", "unknown");
        attestation["platform"]["os"] = json!("unknown");
        let index = folder.json(INDEX, &json!({ "manifests": [ours, other, attestation] }));
        assert_eq!(folder.walk(&index).blobs.len(), 13);

        // Never pulled: neither the manifest, nor the layers of one.
        folder.remove(&other);
        let tree = folder.walk(&index);
        assert!(tree.usable && tree.lost.is_empty(), "{tree:?}");
        let labels = &tree.blobs.last().unwrap().labels;
        assert_eq!(
            labels.keys().collect::<Vec<_>>(),
            ["containerd.io/gc.ref.content.m.0", "containerd.io/gc.ref.content.m.2"]
        );
        let other = folder.manifest("b", "s390x");
        for layer in folder.content(&other)["layers"].as_array().unwrap() {
            folder.remove(layer);
        }
        let tree = folder.walk(&index);
        assert!(tree.usable && tree.lost.is_empty(), "{tree:?}");

        // One layer of this machine's manifest: an attestation alone is of no use.
        folder.remove(&folder.content(&ours)["layers"][0]);
        let tree = folder.walk(&index);
        assert!(!tree.usable);
        let expected = format!("layer 0 of the manifest for linux/{} is missing", own());
        assert_eq!(parts(&tree)[0], expected);
    }

    #[test]
    fn a_manifest_for_this_machine_that_is_gone_is_a_loss_beside_another_that_is_there() {
        let folder = Folder::new();
        let (ours, other) = (folder.manifest("a", own()), folder.manifest("b", "s390x"));
        let index = folder.json(INDEX, &json!({ "manifests": [ours, other] }));
        folder.remove(&ours);
        let tree = folder.walk(&index);
        assert!(tree.usable);
        assert_eq!(parts(&tree), [format!("the manifest for linux/{} is missing", own())]);
        // A second variant of this machine's platform makes up for the first.
        let variant = folder.manifest("c", own());
        let index = folder.json(INDEX, &json!({ "manifests": [ours, other, variant] }));
        assert_eq!(parts(&folder.walk(&index)), [""; 0]);
    }

    #[test]
    fn a_hostile_index_costs_no_more_than_its_blobs() {
        let folder = Folder::new();
        let mut below = folder.manifest("a", own());
        for _ in 0..20 {
            below = folder.json(INDEX, &json!({ "manifests": vec![&below; 1000] }));
        }
        let tree = folder.walk(&below);
        assert!(!tree.usable);
        assert!(parts(&tree)[0].contains("lies below more than 8 others"), "{:?}", parts(&tree));
        let strange = json!({ "mediaType": MANIFEST, "digest": "sha256:../../x", "size": 3 });
        assert_eq!(parts(&folder.walk(&strange)), ["the target is no digest"]);
        let huge = json!({ "mediaType": MANIFEST, "digest": below["digest"], "size": i64::MAX });
        assert!(parts(&folder.walk(&huge))[0].contains("is damaged"));
        let text = folder.blob(MANIFEST, b"[1]");
        assert!(parts(&folder.walk(&text))[0].contains("it is no manifest"));
    }

    #[test]
    fn an_unknown_type_is_a_leaf() {
        let folder = Folder::new();
        let tree = folder.walk(&folder.blob("application/x", b"x"));
        assert!(tree.usable);
        assert_eq!(tree.blobs.len(), 1);
    }
}
