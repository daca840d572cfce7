//! Memory, disk, and the time of a start.

use std::path::Path;
use std::sync::Arc;

use super::row::{Goal, Row};
use crate::burst::{self, Target, Until};
use crate::client::Protocol;
use crate::report::Unit;
use crate::server::{Kind, Server};
use crate::targets::{Both, fill, prepare};
use crate::{Result, store};

/// Connections whose memory is measured.
const CONNECTIONS: u64 = 256;

/// Memory and disk after all work, without connected clients.
pub async fn after_the_run(both: &Both) -> Result<[Row; 2]> {
    both.settle().await?;
    let mut memory = Row::new(
        "anonymous memory after the run",
        0,
        Unit::Bytes,
        Some(Goal::AtMost((24 << 20) as f64)),
    );
    let mut disk =
        Row::new("database on the disk after the run", 0, Unit::Bytes, Some(Goal::Ratio(4.0)));
    for (column, target) in both.targets.iter().take(2).enumerate() {
        memory.add(column, target.server.anonymous()? as f64, None);
        disk.add(column, target.server.disk()? as f64, None);
    }
    Ok([memory, disk])
}

/// Memory of connections, of servers that have freed none yet which could be used again.
pub async fn connections(containerd: &Kind, dir: &Path) -> Result<Row> {
    let mut row = Row::new("memory of a connection that has made a call", 0, Unit::Bytes, None);
    let columns = [
        (containerd, Protocol::Grpc),
        (&Kind::Ours, Protocol::Grpc),
        (&Kind::Ours, Protocol::Ttrpc),
    ];
    for (column, (kind, protocol)) in columns.into_iter().enumerate() {
        let server = Arc::new(Server::start(kind, &dir.join(column.to_string())).await?.0);
        let target = Target { server, protocol };
        // By one connection: what many had freed would be used again.
        let create = prepare(protocol, "Create", [store::create(0, 1)])?;
        burst::run(&target, 1, &create, Until::Once).await?;
        let get = protocol.images("Get", &store::get(0))?;
        let before = target.server.anonymous()?;
        let mut open = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut client = target.connect().await?;
            client.call(&get).await?;
            open.push(client);
        }
        let taken = target.server.anonymous()?.saturating_sub(before);
        row.add(column, taken as f64 / CONNECTIONS as f64, None);
    }
    Ok(row)
}

/// From the start of the process to its first answer.
pub async fn starts(dir: &Path, images: u32, turns: u32) -> Result<Row> {
    let operation = format!("start to first answer, {images} images");
    let mut row = Row::new(operation, 1, Unit::Time, Some(Goal::AtMost(0.1)));
    let server = Arc::new(Server::start(&Kind::Ours, dir).await?.0);
    let target = Target { server, protocol: Protocol::Grpc };
    fill(&target, 0, images, 10).await?;
    let Some(server) = Arc::into_inner(target.server) else {
        return Err("the server is still in use".into());
    };
    server.stop()?;
    for _ in 0..turns {
        let (server, time) = Server::start(&Kind::Ours, dir).await?;
        row.add(1, time.as_secs_f64(), None);
        server.stop()?;
    }
    Ok(row)
}
