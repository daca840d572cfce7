//! The calls that the kubelet and crictl make: containerd has their service, CRI, as a plugin that may be off.

use std::path::Path;
use std::time::{Duration, Instant};

use protobuf::Message;
use protobuf::UnknownValueRef;
use protobuf::well_known_types::empty::Empty;

use crate::containerd::client::GrpcClient;
use crate::model::{Error, Namespace, Result};

const IMAGES: &str = "/runtime.v1.ImageService/ListImages";
const VERSION: &str = "/runtime.v1.RuntimeService/Version";

/// The namespace in which CRI works.
const NAMESPACE: &str = "k8s.io";

/// The field of both replies that is counted: the images, and the version of the interface.
const FIRST_FIELD: u32 = 1;

/// gRPC's code of a service that is not there.
const UNIMPLEMENTED: i32 = 12;

/// How long containerd's plugin may take to be ready after containerd's start.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause between two attempts.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Checks that CRI calls at `through` reach the containerd at `direct`, if it has CRI.
///
/// # Errors
/// The call that containerd answers and `through` does not.
pub(crate) async fn check(through: &Path, direct: &Path) -> Result<String> {
    let containerd = GrpcClient::lazy(direct);
    if let Err(e) = ready(&containerd).await {
        return Ok(match e {
            Error::Upstream(UNIMPLEMENTED, _) | Error::Unavailable(_) => {
                "skipped, containerd has no CRI".into()
            }
            e => format!("skipped, containerd's CRI does not answer: {}", e.message()),
        });
    }
    let daemon = GrpcClient::connect(through).await?;
    let through = through.display();
    let failed = |path: &str, e: Error| {
        Error::FailedPrecondition(format!(
            "containerd answers {path}, and {through} does not: {}",
            e.message()
        ))
    };
    call(&daemon, VERSION).await.map_err(|e| failed(VERSION, e))?;
    let images = call(&daemon, IMAGES).await.map_err(|e| failed(IMAGES, e))?;
    Ok(format!("containerd's CRI answers at {through}, with {images} images"))
}

/// Awaits that containerd answers both calls. It refuses them for a moment after its start.
async fn ready(containerd: &GrpcClient) -> Result<()> {
    let started = Instant::now();
    loop {
        let answered = match call(containerd, VERSION).await {
            Ok(_) => call(containerd, IMAGES).await,
            failed => failed,
        };
        match answered {
            Ok(_) => return Ok(()),
            Err(e @ Error::Upstream(UNIMPLEMENTED, _)) => return Err(e),
            Err(e) if started.elapsed() >= READY_TIMEOUT => return Err(e),
            Err(_) => tokio::time::sleep(RETRY_INTERVAL).await,
        }
    }
}

/// Makes a call with an empty request, and returns how often the reply has [`FIRST_FIELD`]. The two messages of CRI
/// are not built in: the library keeps fields that it does not know.
async fn call(client: &GrpcClient, path: &'static str) -> Result<usize> {
    let namespace = Namespace::parse(NAMESPACE)?;
    client.call_with_timeout::<_, Empty>(path, &namespace, Empty::new()).await.map(|r| count(&r))
}

fn count(reply: &Empty) -> usize {
    let fields = reply.special_fields().unknown_fields().iter();
    let of_first = |found: &(u32, UnknownValueRef<'_>)| {
        found.0 == FIRST_FIELD && matches!(found.1, UnknownValueRef::LengthDelimited(_))
    };
    fields.filter(of_first).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_images_of_a_reply_are_counted() {
        // Two images with their id "a" and "b", and a field of a later version.
        let reply = Empty::parse_from_bytes(b"\x0a\x03\x0a\x01a\x0a\x03\x0a\x01b\x12\x00").unwrap();
        assert_eq!(count(&reply), 2);
        assert_eq!(count(&Empty::new()), 0);
    }
}
