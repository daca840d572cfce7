//! A guess at the labels by which containerd knows from which repositories a blob came. They were in the
//! lost database. With them, a push to the same registry can mount a blob instead of sending it.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::PlannedNamespace;

/// What the key of such a label begins with; the registry's host follows.
const SOURCE_LABEL: &str = "containerd.io/distribution.source.";

/// Bytes that containerd allows a label: key and value together.
const MAX_LABEL_BYTES: usize = 4096;

/// Gives the blobs of each usable image a label with the repository that its name says.
pub fn label(namespace: &mut PlannedNamespace) {
    let mut repositories: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for image in namespace.images.iter().filter(|image| image.usable) {
        let Some((host, repository)) = repository(&image.wanted.image.name) else { continue };
        for digest in &image.blobs {
            let key = (digest.clone(), format!("{SOURCE_LABEL}{host}"));
            repositories.entry(key).or_default().insert(repository.to_owned());
        }
    }
    for ((digest, key), repositories) in repositories {
        let value = repositories.into_iter().collect::<Vec<_>>().join(",");
        if let Some(blob) = namespace.blobs.get_mut(&digest)
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
