//! Copies bytes between the connections of a socket and another socket, and reads none of them: the least
//! that any program in front of containerd costs. `scripts/bench everyday` shows its figures beside ours.
//!
//! ```text
//! pump OUR-SOCKET CONTAINERD-SOCKET
//! ```

use std::error::Error;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{UnixListener, UnixStream};

/// The bytes of one read and one write.
const BUFFER_BYTES: usize = 256 << 10;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut sockets = std::env::args_os().skip(1);
    let (Some(ours), Some(theirs), None) = (sockets.next(), sockets.next(), sockets.next()) else {
        return Err("usage: pump OUR-SOCKET CONTAINERD-SOCKET".into());
    };
    let listener = UnixListener::bind(ours)?;
    loop {
        let (mut client, _) = listener.accept().await?;
        let theirs = theirs.clone();
        tokio::spawn(async move {
            let Ok(mut server) = UnixStream::connect(theirs).await else { return };
            // A client that leaves ends its connection.
            let _ =
                copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER_BYTES, BUFFER_BYTES)
                    .await;
        });
    }
}
