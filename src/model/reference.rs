//! Whether docker and CRI can show the name of an image: both take it for a reference of docker's form,
//! `DOMAIN/PATH:TAG@DIGEST`, and containerd itself does not.
//!
//! The grammar is that of the library `distribution/reference`, which both use.

use std::fmt;

/// The longest path of a reference, in bytes.
const MAX_PATH_BYTES: usize = 255;

/// The longest tag, in bytes.
const MAX_TAG_BYTES: usize = 128;

/// The domain of names that have none.
const DEFAULT_DOMAIN: &str = "docker.io";

/// Why docker and CRI cannot show a name, or cannot find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NameFault {
    /// The name is no reference.
    NotAReference(&'static str),
    /// The name has neither a tag nor a digest.
    NoTag,
    /// Lists show the name. A client that asks for it gets the image of this other name.
    Elsewhere(String),
}

impl fmt::Display for NameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAReference(why) => write!(f, "no reference of docker's form: {why}"),
            Self::NoTag => f.write_str("neither a tag nor a digest"),
            Self::Elsewhere(name) => write!(f, "docker and CRI look for it as {name}"),
        }
    }
}

/// Returns what is wrong with a name for docker and CRI; `None` if nothing is.
pub(crate) fn fault(name: &str) -> Option<NameFault> {
    // CRI's own: the digest of an image's configuration; and docker's for an image without a tag.
    let bare = name.strip_prefix("moby-dangling@").unwrap_or(name);
    if bare.strip_prefix("sha256:").is_some_and(|digits| digits.len() == 64 && is_hex(digits)) {
        return None;
    }
    check(name).err()
}

fn check(name: &str) -> Result<(), NameFault> {
    let (rest, digest) = match name.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (name, None),
    };
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return Err(NameFault::NotAReference("what follows \"@\" is no digest"));
    }
    // A colon behind the last slash begins a tag; one before it, a port.
    let slash = rest.rfind('/').map_or(0, |at| at + 1);
    let last = rest.get(slash..).unwrap_or_default();
    let (repository, tag) = match last.split_once(':') {
        Some((_, tag)) => (rest.get(..rest.len() - tag.len() - 1).unwrap_or_default(), Some(tag)),
        None => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(NameFault::NotAReference(
            "its tag has more than 128 characters, or others than letters, digits and \"_.-\"",
        ));
    }
    let (domain, path) = match repository.split_once('/') {
        Some((first, path)) if is_named_domain(first) => (Some(first), path),
        _ => (None, repository),
    };
    if domain.is_some_and(|domain| !is_domain(domain)) {
        return Err(NameFault::NotAReference("its first part is no address of a registry"));
    }
    if !is_path(path) {
        return Err(NameFault::NotAReference(
            "its path has other characters than a-z, 0-9 and separators between them",
        ));
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(NameFault::NotAReference("its path is longer than 255 characters"));
    }
    let normal = match domain {
        None if path.contains('/') => format!("{DEFAULT_DOMAIN}/{name}"),
        None => format!("{DEFAULT_DOMAIN}/library/{name}"),
        Some(DEFAULT_DOMAIN) if !path.contains('/') => {
            name.replacen(DEFAULT_DOMAIN, "docker.io/library", 1)
        }
        Some("index.docker.io") => name.replacen("index.docker.io", DEFAULT_DOMAIN, 1),
        Some(_) => name.to_owned(),
    };
    if tag.is_none() && digest.is_none() {
        return Err(NameFault::NoTag);
    }
    if normal == name { Ok(()) } else { Err(NameFault::Elsewhere(normal)) }
}

/// Whether the first part of a name is a domain, and not a part of the path.
fn is_named_domain(part: &str) -> bool {
    part == "localhost" || part.contains(['.', ':']) || part.chars().any(|c| c.is_ascii_uppercase())
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (domain, None),
    };
    let is_number = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    if port.is_some_and(|port| !is_number(port)) {
        return false;
    }
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
    }
    host.split('.').all(|part| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        !part.is_empty()
            && part.bytes().all(inner)
            && !part.starts_with('-')
            && !part.ends_with('-')
    })
}

/// Components of a-z and 0-9, with one ".", one or two "_", or any number of "-" between.
fn is_path(path: &str) -> bool {
    path.split('/').all(|component| {
        let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let separators = component.split(|c: char| c.is_ascii() && is_inner(c as u8));
        let count = separators.clone().count();
        count > 1
            && separators.enumerate().all(|(number, separator)| {
                let is_edge = number == 0 || number == count - 1;
                match separator {
                    "" => true,
                    _ if is_edge => false,
                    "." | "_" | "__" => true,
                    dashes => dashes.bytes().all(|b| b == b'-'),
                }
            })
    })
}

fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= MAX_TAG_BYTES
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'-'))
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, digits)) = digest.split_once(':') else { return false };
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    digits.len() == length && is_hex(digits)
}

fn is_hex(digits: &str) -> bool {
    digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_docker_and_cri_show_have_no_fault() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for name in [
            "docker.io/library/nginx:1.25",
            "registry.example.com:5000/team/app_x--y.z:V1.0-rc_1",
            "localhost/a:1",
            "[2001:db8::1]:5000/a/b:1",
            &format!("quay.io/a/b@{digest}"),
            &format!("quay.io/a/b:1@{digest}"),
            &digest,
            &format!("moby-dangling@{digest}"),
        ] {
            assert_eq!(fault(name), None, "{name}");
        }
    }

    #[test]
    fn each_fault_is_said() {
        for (name, says) in [
            ("", "its path has other"),
            ("docker.io/library/nginx", "neither a tag"),
            ("docker.io/Library/nginx:1", "its path has other"),
            ("docker.io/a__b___c/x:1", "its path has other"),
            ("docker.io/-a/x:1", "its path has other"),
            ("docker.io//x:1", "its path has other"),
            ("docker.io/library/x:-1", "its tag"),
            ("docker.io/library/x:", "its tag"),
            ("docker.io/library/x@sha256:abc", "no digest"),
            ("my_host.example/x:1", "its first part"),
            ("host:port/x:1", "its first part"),
            ("two words:1", "its path has other"),
            ("ü/x:1", "its path has other"),
            ("nginx:1", "look for it as docker.io/library/nginx:1"),
            ("team/nginx:1", "look for it as docker.io/team/nginx:1"),
            ("docker.io/nginx:1", "look for it as docker.io/library/nginx:1"),
            ("index.docker.io/a/b:1", "look for it as docker.io/a/b:1"),
        ] {
            let found = fault(name).map(|fault| fault.to_string()).unwrap_or_default();
            assert!(found.contains(says), "{name}: {found}");
        }
        let long = format!("docker.io/{}:1", "a".repeat(256));
        assert!(fault(&long).unwrap().to_string().contains("longer than 255"));
        let tag = format!("docker.io/library/a:{}", "a".repeat(129));
        assert!(fault(&tag).unwrap().to_string().contains("its tag"));
    }
}
