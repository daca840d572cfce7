//! A guess at the labels with the repositories that a blob came from. The lost database had these labels. With
//! them, a push to the same registry can mount a blob instead of sending it.

use std::collections::{BTreeMap, BTreeSet};

use super::tree::BlobInfo;

/// The prefix of the key of such a label. The host of the registry follows.
const SOURCE_LABEL: &str = "containerd.io/distribution.source.";

/// The most bytes of a label in containerd, key and value together.
const MAX_LABEL_BYTES: usize = 4096;

/// Labels the blobs of each image with the repository of its name. `images` are names with the digests of
/// their blobs.
pub(crate) fn label<'i>(
    images: impl Iterator<Item = (&'i str, &'i [String])>,
    blobs: &mut BTreeMap<String, BlobInfo>,
) {
    let mut repositories: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for (name, digests) in images {
        let Some((host, repository)) = repository(name) else { continue };
        for digest in digests {
            repositories.entry((digest, host)).or_default().insert(repository);
        }
    }
    for ((digest, host), repositories) in repositories {
        let key = format!("{SOURCE_LABEL}{host}");
        let value = repositories.into_iter().collect::<Vec<_>>().join(",");
        if let Some(blob) = blobs.get_mut(digest)
            && key.len() + value.len() <= MAX_LABEL_BYTES
        {
            blob.labels.insert(key, value);
        }
    }
}

/// The registry and the repository of a full name such as `docker.io/library/hello:1`.
fn repository(name: &str) -> Option<(&str, &str)> {
    let (host, path) = name.split_once('/')?;
    let is_host = host.contains(['.', ':']) || host == "localhost";
    let path = path.split('@').next().unwrap_or_default();
    // A colon in the last part begins the tag.
    let end = path.rfind('/').map_or(0, |slash| slash + 1);
    let tag = path.get(end..).and_then(|last| last.find(':')).map(|colon| end + colon);
    let path = path.get(..tag.unwrap_or(path.len()))?;
    (is_host && !path.is_empty()).then_some((host, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_name_says_registry_and_repository() {
        for (name, expected) in [
            ("docker.io/library/hello:1", Some(("docker.io", "library/hello"))),
            ("docker.io/library/hello@sha256:00", Some(("docker.io", "library/hello"))),
            ("localhost:5000/a/b:1@sha256:00", Some(("localhost:5000", "a/b"))),
            ("localhost/a", Some(("localhost", "a"))),
            ("sha256:00", None),
            ("hello:1", None),
            ("library/hello:1", None),
            ("quay.io/", None),
        ] {
            assert_eq!(repository(name), expected, "{name}");
        }
    }
}
