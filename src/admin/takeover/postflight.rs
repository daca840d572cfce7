//! The checks after a takeover and after a release, through the address that clients use.

use std::path::Path;
use std::time::{Duration, Instant};

use protobuf::MessageField;
use protobuf::well_known_types::empty::Empty;

use super::TakeoverEvent;
use super::clients::Clients;
use super::cri;
use super::layout::{ADDRESS, SOCKET_UNIT, UPSTREAM};
use super::node::{Node, SocketOwner, socket_owner};
use crate::admin::containerd::await_reply;
use crate::admin::precondition::Check;
use crate::admin::{diff, health};
use crate::api::descriptor::Descriptor;
use crate::api::images::{DeleteImageRequest, Image};
use crate::containerd::client::GrpcClient;
use crate::model::{Error, Namespace, Result};

/// How long the daemon may take until it serves, and until it has every name.
const SERVING_TIMEOUT: Duration = Duration::from_secs(60);

/// How long containerd may take to answer after its restart.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Pause between two attempts.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Namespace of the image that is written and removed: clients that act on images have others.
const NAMESPACE: &str = "default";

/// Checks that clients of the address reach containerd through the daemon.
///
/// # Errors
/// The first check that failed.
pub(crate) async fn check_taken(
    store: &Path,
    node: &Node,
    clients: &Clients,
    each: &mut impl FnMut(TakeoverEvent<'_>),
) -> Result<()> {
    let mut tell = |subject, found: Result<String>| {
        let shown = found.clone().map_err(|e| e.message().to_owned());
        each(TakeoverEvent::Check(&Check { subject, found: shown }));
        found.map(drop)
    };
    tell("health", serving().await)?;
    tell("names", same_names(store).await)?;
    for path in clients.moved_paths() {
        tell("read", read(&path).await)?;
        tell("write", write(&path).await)?;
        tell("cri", cri::check(&path, Path::new(UPSTREAM)).await)?;
    }
    tell("owner", same_owner(ADDRESS, &node.owner))
}

/// Checks owner and mode of the socket at a path: the same users must be able to connect as before.
fn same_owner(path: &str, before: &SocketOwner) -> Result<String> {
    let now = socket_owner(path)?;
    if now == *before {
        return Ok(format!("{path} has {now}, as containerd's socket"));
    }
    Err(Error::FailedPrecondition(format!(
        "{path} has {now}, and containerd's socket had {before}: look for a drop-in at `systemctl cat {SOCKET_UNIT}`"
    )))
}

/// Checks that containerd answers at its own address.
///
/// # Errors
/// If it does not.
pub(crate) async fn check_released(each: &mut impl FnMut(TakeoverEvent<'_>)) -> Result<()> {
    let namespaces = retry(START_TIMEOUT, async || namespaces(Path::new(ADDRESS)).await).await?;
    let found = Ok(format!("answers at {ADDRESS}, {} namespaces", namespaces.len()));
    each(TakeoverEvent::Check(&Check { subject: "containerd", found }));
    Ok(())
}

/// Repeats a call until it succeeds, for at most `time`.
async fn retry<T>(time: Duration, mut call: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        match call().await {
            Err(_) if started.elapsed() < time => tokio::time::sleep(RETRY_INTERVAL).await,
            outcome => return outcome,
        }
    }
}

async fn serving() -> Result<String> {
    match health::wait(Path::new(ADDRESS), SERVING_TIMEOUT).await? {
        true => Ok(format!("SERVING at {ADDRESS}")),
        false => Err(Error::Unavailable(format!("{ADDRESS} is NOT_SERVING"))),
    }
}

async fn same_names(store: &Path) -> Result<String> {
    retry(SERVING_TIMEOUT, async || {
        let found = diff::run(store, Path::new(UPSTREAM)).await?;
        match found.differences.first() {
            None => Ok("the store and containerd have the same".to_owned()),
            Some(first) => Err(Error::FailedPrecondition(format!(
                "{} images differ between the store and containerd, {:?} for example: {}",
                found.differences.len(),
                first.name,
                first.kind
            ))),
        }
    })
    .await
}

async fn namespaces(address: &Path) -> Result<Vec<Namespace>> {
    let client = GrpcClient::connect(address).await?;
    let records = await_reply(&client, client.namespaces()).await?;
    records.iter().map(|record| Namespace::parse(&record.name)).collect()
}

/// Lists every image at the path of a client, and at containerd.
async fn read(path: &Path) -> Result<String> {
    let (through, direct) = (count(path).await?, count(Path::new(UPSTREAM)).await?);
    let path = path.display();
    if through != direct {
        return Err(Error::FailedPrecondition(format!(
            "{path} lists {through} images, and {UPSTREAM} {direct}"
        )));
    }
    Ok(format!("{through} images are listed at {path} and at containerd"))
}

async fn count(address: &Path) -> Result<u64> {
    let client = GrpcClient::connect(address).await?;
    let mut count = 0;
    for namespace in namespaces(address).await? {
        let mut listing = client.images(&namespace);
        while let Some(images) = await_reply(&client, listing.next()).await? {
            count += images.len() as u64;
        }
    }
    Ok(count)
}

/// Makes an image at the path of a client, sees it in containerd, and removes it.
async fn write(path: &Path) -> Result<String> {
    let namespace = Namespace::parse(NAMESPACE)?;
    let name = format!("lmdb-images.invalid/takeover:{}", std::process::id());
    let through = GrpcClient::connect(path).await?;
    let direct = GrpcClient::connect(Path::new(UPSTREAM)).await?;
    let target = Descriptor {
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        digest: format!("sha256:{:064x}", std::process::id()),
        size: 1,
        ..Descriptor::default()
    };
    let image = Image { name, target: MessageField::some(target), ..Image::default() };
    await_reply(&through, through.create_image(&namespace, &image)).await?;
    let found = await_reply(&direct, direct.image(&namespace, &image.name)).await;
    let request = DeleteImageRequest { name: image.name, ..DeleteImageRequest::default() };
    let delete = "/containerd.services.images.v1.Images/Delete";
    let _: Empty = through.call_with_timeout(delete, &namespace, request).await?;
    match found? {
        Some(_) => Ok("an image made here was in containerd, and is removed".into()),
        None => Err(Error::FailedPrecondition(
            "an image made here was not in containerd: the daemon is in front of another one"
                .into(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn owner_and_mode_of_the_socket_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&at).unwrap();
        fs::set_permissions(&at, Permissions::from_mode(0o660)).unwrap();
        let path = at.to_str().unwrap();
        let before = socket_owner(path).unwrap();
        assert!(same_owner(path, &before).unwrap().contains("has mode 0660, user "));
        for differing in [
            SocketOwner { uid: before.uid + 1, ..before.clone() },
            SocketOwner { gid: before.gid + 1, ..before.clone() },
            SocketOwner { mode: 0o600, ..before.clone() },
        ] {
            let error = same_owner(path, &differing).unwrap_err();
            assert!(error.message().contains(&format!("had {differing}")), "{error}");
        }
        fs::remove_file(&at).unwrap();
        assert!(same_owner(path, &before).is_err());
    }
}
