//! Names for a rescue without a store, from the manifests and indexes among the blobs. A blob gets the name
//! in its own annotations, or in those of a blob that refers to it, or else its digest as a name. The
//! result is a list that a person edits, and that [`choice`](super::choice) reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::blobs::{BlobFolder, MAX_MANIFEST_BYTES};
use super::manifest::{Content, Descriptor, ManifestKind};
use super::tree::{self, Loss};
use crate::admin::file;
use crate::api::descriptor::Descriptor as Target;
use crate::model::printable::is_visible;
use crate::model::{Error, Result};

/// The annotations that name a blob, the most trusted first.
const NAME_ANNOTATIONS: [&str; 2] =
    ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// An image that was found.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    /// A name, or the digest.
    pub(crate) name: String,
    /// The descriptor of the image.
    pub(crate) target: Target,
    /// The lost parts of the image.
    pub(crate) lost: Vec<Loss>,
    /// Whether the image can get its name.
    pub(crate) usable: bool,
    /// Whether a newer blob has the same name.
    pub(crate) is_older: bool,
}

/// Finds images among the blobs of `folder`: containerd's root, its content folder, or its blobs.
///
/// # Errors
/// If there is no such folder.
pub(crate) fn find(folder: &Path) -> Result<Vec<Candidate>> {
    let blobs = BlobFolder::of_content(&content_folder(folder)?)?;
    let nodes = nodes(&blobs)?;
    let mut named: BTreeMap<String, BTreeMap<&str, Target>> = BTreeMap::new();
    let mut referred = BTreeSet::new();
    for (digest, node) in &nodes {
        if let Some(name) = name(node.content.annotations.as_ref()) {
            named.entry(name).or_default().insert(digest, node.target(digest));
        }
        for child in node.content.manifests.iter().flatten() {
            referred.insert(child.digest.as_str());
            if let Some(name) = name(child.annotations.as_ref())
                && let Some((digest, found)) = nodes.get_key_value(&child.digest)
            {
                named.entry(name).or_default().insert(digest, found.target(digest));
            }
        }
    }
    let with_name: BTreeSet<&str> = named.values().flat_map(|v| v.keys().copied()).collect();
    // The index of an imported archive only lists images with names.
    let is_list = |node: &Node| {
        let mut children = node.content.manifests.iter().flatten().peekable();
        children.peek().is_some() && children.all(|c| with_name.contains(c.digest.as_str()))
    };
    let mut candidates = Vec::new();
    for (digest, node) in &nodes {
        let digest = digest.as_str();
        if !referred.contains(digest) && !with_name.contains(digest) && !is_list(node) {
            candidates.push(candidate(&blobs, digest.to_owned(), node.target(digest), false));
        }
    }
    for (name, targets) in &named {
        let time = |digest: &&str| nodes.get(*digest).map(|node| node.time);
        let newest = targets.keys().copied().max_by_key(time);
        for (digest, target) in targets {
            let is_older = newest != Some(*digest);
            candidates.push(candidate(&blobs, name.clone(), target.clone(), is_older));
        }
    }
    candidates.sort_by(|a, b| (&a.name, a.is_older).cmp(&(&b.name, b.is_older)));
    Ok(candidates)
}

fn candidate(blobs: &BlobFolder, name: String, target: Target, is_older: bool) -> Candidate {
    let tree = tree::walk(blobs, &target);
    Candidate { name, target, lost: tree.lost, usable: tree.usable, is_older }
}

/// A manifest or an index.
struct Node {
    media_type: String,
    size: i64,
    time: SystemTime,
    content: Content,
}

impl Node {
    fn target(&self, digest: &str) -> Target {
        let (media_type, digest) = (self.media_type.clone(), digest.to_owned());
        Target { media_type, digest, size: self.size, ..Target::default() }
    }
}

fn nodes(blobs: &BlobFolder) -> Result<BTreeMap<String, Node>> {
    let unread = |folder: &Path, e: std::io::Error| {
        Error::Unavailable(format!("reading {}: {e}: run this as root", folder.display()))
    };
    let mut nodes = BTreeMap::new();
    for algorithm in blobs.folder().read_dir().map_err(|e| unread(blobs.folder(), e))?.flatten() {
        let folder = algorithm.path();
        if !folder.is_dir() {
            continue;
        }
        let prefix = algorithm.file_name();
        for entry in folder.read_dir().map_err(|e| unread(&folder, e))?.flatten() {
            let hex = entry.file_name();
            let digest = format!("{}:{}", prefix.to_string_lossy(), hex.to_string_lossy());
            if let Some(node) = node(blobs, &digest) {
                nodes.insert(digest, node);
            }
        }
    }
    Ok(nodes)
}

/// Reads a blob if it is a manifest or an index.
fn node(blobs: &BlobFolder, digest: &str) -> Option<Node> {
    let path = blobs.path(digest)?;
    let found = path.symlink_metadata().ok()?;
    if !found.is_file() || found.len() > MAX_MANIFEST_BYTES || !begins_like_json(&path) {
        return None;
    }
    let size = i64::try_from(found.len()).ok()?;
    let mut content: Content = serde_json::from_slice(&blobs.read(digest, size).ok()?).ok()?;
    let media_type = media_type(&content)?;
    // The layers are read again later, so that not all of them are in memory.
    content.layers = None;
    Some(Node { media_type, size, time: found.modified().ok()?, content })
}

/// Most blobs are layers, so only the first bytes of a blob are read.
fn begins_like_json(path: &Path) -> bool {
    let mut first = [0; 1];
    let read = file::open_to_read(path).is_ok_and(|mut file| file.read_exact(&mut first).is_ok());
    read && (first == *b"{" || first[0].is_ascii_whitespace())
}

fn media_type(content: &Content) -> Option<String> {
    if let Some(own) = content
        .media_type
        .clone()
        .filter(|own| ManifestKind::from_media_type(own) != ManifestKind::Leaf)
    {
        return Some(own);
    }
    let docker = |config: &Descriptor| config.media_type.starts_with("application/vnd.docker.");
    let media_type = match (&content.manifests, &content.config, &content.layers) {
        (Some(_), None, None) => "application/vnd.oci.image.index.v1+json",
        (None, Some(config), Some(_)) if docker(config) => {
            "application/vnd.docker.distribution.manifest.v2+json"
        }
        (None, Some(_), Some(_)) => "application/vnd.oci.image.manifest.v1+json",
        _ => return None,
    };
    Some(media_type.to_owned())
}

/// A full name; a tag alone names nothing.
fn name(annotations: Option<&BTreeMap<String, String>>) -> Option<String> {
    let annotations = annotations?;
    let mut names = NAME_ANNOTATIONS.iter().filter_map(|key| annotations.get(*key));
    let is_full = |name: &&String| {
        name.contains('/') && name.chars().all(|c| is_visible(c) && !c.is_whitespace())
    };
    names.find(is_full).cloned()
}

fn content_folder(folder: &Path) -> Result<PathBuf> {
    let inner = folder.join("io.containerd.content.v1.content");
    let mut found = vec![inner, folder.to_owned()];
    found.extend(folder.parent().filter(|_| folder.ends_with("blobs")).map(Path::to_owned));
    found.into_iter().find(|folder| folder.join("blobs").is_dir()).ok_or_else(|| {
        Error::NotFound(format!(
            "{} has no blobs of a containerd: name its root (/var/lib/containerd)",
            folder.display()
        ))
    })
}

/// The comment at the top of a list.
pub(crate) const LIST_HEADER: &str = "\
# Images found among the blobs. Remove or add a # to choose; change namespaces and names as you like.
# Then: lmdb-images rescue --choice THIS-FILE
# namespace\tname\tdigest\tmedia type\tbytes";

/// A candidate as a line of the list, in a namespace.
#[derive(Debug)]
pub(crate) struct CandidateLine<'c> {
    /// The namespace.
    pub(crate) namespace: &'c str,
    /// The image.
    pub(crate) candidate: &'c Candidate,
}

impl fmt::Display for CandidateLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, candidate } = self;
        let Candidate { name, target, lost, usable, is_older } = candidate;
        if *is_older {
            writeln!(f, "# an older one of this name:")?;
        }
        if let Some(loss) = lost.first() {
            let state = if *usable { "not all of it is there" } else { "lost" };
            let more = lost.len() - 1;
            writeln!(f, "# {state}: {loss}, and {more} more blobs:")?;
        }
        let mark = if *is_older || !*usable { "#" } else { "" };
        let Target { digest, media_type, size, .. } = target;
        write!(f, "{mark}{namespace}\t{name}\t{digest}\t{media_type}\t{size}")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};
    use sha2::{Digest, Sha256};

    use super::*;

    fn blob(root: &Path, content: &str) -> Value {
        let digest = format!("{:x}", Sha256::digest(content));
        fs::write(root.join("blobs/sha256").join(&digest), content).unwrap();
        json!({ "digest": format!("sha256:{digest}"), "size": content.len() })
    }

    fn manifest(root: &Path, mark: &str, annotations: &Value) -> Value {
        let mut config = blob(root, &json!({ "config": { "Env": [mark] } }).to_string());
        config["mediaType"] = json!("application/vnd.oci.image.config.v1+json");
        let layers = [blob(root, &format!("layer {mark}"))];
        let content = json!({ "config": config, "layers": layers, "annotations": annotations });
        let mut descriptor = blob(root, &content.to_string());
        descriptor["mediaType"] = json!("application/vnd.oci.image.manifest.v1+json");
        descriptor
    }

    #[test]
    fn images_have_the_names_that_blobs_give_them() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("blobs/sha256")).unwrap();
        let reference = "org.opencontainers.image.ref.name";
        let own = manifest(root, "own", &json!({ reference: "example.com/own:1" }));
        let tag = manifest(root, "tag", &json!({ reference: "1" }));
        let hostile = manifest(root, "hostile", &json!({ reference: "a/b\tc\n" }));
        let mut listed = manifest(root, "listed", &json!({}));
        let child = manifest(root, "child", &json!({}));
        let plain = listed.clone();
        listed["annotations"] =
            json!({ "io.containerd.image.name": "example.com/listed:1", reference: "1" });
        // An archive's list of images, and an image of several platforms.
        blob(root, &json!({ "manifests": [listed] }).to_string());
        let index = blob(root, &json!({ "manifests": [child] }).to_string());
        fs::remove_file(
            root.join("blobs/sha256").join(format!("{:x}", Sha256::digest("layer child"))),
        )
        .unwrap();

        let digest = |value: &Value| value["digest"].as_str().unwrap().to_owned();
        let mut expected = vec![
            ("example.com/listed:1".to_owned(), digest(&plain), true),
            ("example.com/own:1".to_owned(), digest(&own), true),
            (digest(&tag), digest(&tag), true),
            (digest(&hostile), digest(&hostile), true),
            (digest(&index), digest(&index), false),
        ];
        expected.sort();
        let found = find(root).unwrap();
        let named: Vec<_> =
            found.iter().map(|c| (c.name.clone(), c.target.digest.clone(), c.usable)).collect();
        assert_eq!(named, expected);
        let lost = found.iter().find(|candidate| !candidate.usable).unwrap();
        let line = CandidateLine { namespace: "n", candidate: lost }.to_string();
        assert!(line.contains("# lost: sha256:") && line.contains("\n#n\tsha256:"), "{line}");

        // A newer manifest of the same name.
        let newer = manifest(root, "newer", &json!({ reference: "example.com/own:1" }));
        let path = root.join("blobs").join(digest(&own).replace(':', "/"));
        let earlier = SystemTime::now() - std::time::Duration::from_secs(60);
        fs::File::options().append(true).open(path).unwrap().set_modified(earlier).unwrap();
        let found = find(root).unwrap();
        let both: Vec<_> = found
            .iter()
            .filter(|candidate| candidate.name == "example.com/own:1")
            .map(|candidate| (candidate.target.digest.clone(), candidate.is_older))
            .collect();
        assert_eq!(both, [(digest(&newer), false), (digest(&own), true)]);
    }
}
