//! Gets and Lists of each kind.

use std::sync::Arc;
use std::time::Duration;

use lmdb_images::api::images::ListImagesResponse;

use super::row::{Goal, Row};
use crate::burst::{self, Target, Until};
use crate::client::{Prepared, Protocol};
use crate::report::{Progress, Unit};
use crate::targets::{Both, MANY, prepare};
use crate::{Result, store};

/// How long a burst of reads lasts.
const BURST_TIME: Duration = Duration::from_millis(250);

/// The longest requested reply over gRPC, in bytes.
const MAX_GRPC_REPLY: u64 = 16 << 20;

/// The longest requested reply over ttrpc, in bytes.
const MAX_TTRPC_REPLY: u64 = 4 << 20;

/// The most bytes of an image in a reply.
const MAX_IMAGE_BYTES: u64 = 320;

/// A read that is measured.
pub struct Read {
    pub row: Row,
    method: &'static str,
    /// The filters of the requests, used in turn, so that the answers differ.
    filters: Vec<Option<String>>,
    /// The number of images that each filter finds.
    hits: usize,
}

pub fn reads(images: u32) -> Vec<Read> {
    let spread = |count: u32| (0..count).map(move |i| i * (images / count));
    let teams = (images / 1000).max(1);
    let list = |operation: String, goal, filters: Vec<String>, hits| Read {
        row: Row::new(operation, 1, Unit::Time, goal),
        method: "List",
        filters: filters.into_iter().map(Some).collect(),
        hits,
    };
    let get = |clients, unit, goal| Read {
        row: Row::new("Get", clients, unit, Some(goal)),
        method: "Get",
        filters: Vec::new(),
        hits: 0,
    };
    let team = (0..images).filter(|n| n % teams == 0).count();
    vec![
        get(1, Unit::Time, Goal::Ratio(1.2)),
        get(MANY, Unit::Rate, Goal::RatioAndCpu(1.3, 0.5)),
        Read {
            row: Row::new("List of all", 1, Unit::Time, Some(Goal::Ratio(4.0))),
            method: "List",
            filters: vec![None],
            hits: images as usize,
        },
        list(
            "List `name==`".into(),
            Some(Goal::Ratio(100.0)),
            spread(50).map(store::by_name).collect(),
            1,
        ),
        list(
            "List `target.digest==`".into(),
            Some(Goal::Ratio(100.0)),
            spread(50).map(store::by_digest).collect(),
            1,
        ),
        list(
            format!("List `name~=^literal…`, {} hits", store::TAGS),
            Some(Goal::Ratio(100.0)),
            (0..images / store::TAGS).map(store::by_prefix).collect(),
            store::TAGS as usize,
        ),
        list(
            format!("List `labels.team==`, {team} hits"),
            Some(Goal::Ratio(5.0)),
            vec![store::by_team(0)],
            team,
        ),
        list(
            format!("List `{}`, reads all", store::READS_ALL),
            Some(Goal::Ratio(4.0)),
            vec![store::READS_ALL.into()],
            store::found_by_reading_all(images),
        ),
    ]
}

/// The requests of a column; `None` if the reply would be too long for the protocol.
fn requests(read: &Read, target: &Target, images: u32) -> Result<Option<Arc<[Prepared]>>> {
    if read.method == "Get" {
        let gets = store::mixed(0, images).take(4096).map(store::get);
        return prepare(target.protocol, "Get", gets).map(Some);
    }
    let max = if target.protocol == Protocol::Grpc { MAX_GRPC_REPLY } else { MAX_TTRPC_REPLY };
    if read.hits as u64 * MAX_IMAGE_BYTES > max {
        return Ok(None);
    }
    prepare(target.protocol, "List", read.filters.iter().cloned().map(store::list)).map(Some)
}

/// Checks that all targets find the right number of images.
pub async fn verify(both: &Both, read: &Read, images: u32) -> Result<()> {
    if read.method != "List" {
        return Ok(());
    }
    for (_, target) in both.turn(0) {
        let Some(requests) = requests(read, target, images)? else { continue };
        let mut client = target.connect().await?;
        for request in requests.iter().take(3) {
            let found: ListImagesResponse = client.ask(request).await?;
            if found.images.len() != read.hits {
                return Err(format!(
                    "{}: {} hits instead of {} from {:?}",
                    read.row.operation,
                    found.images.len(),
                    read.hits,
                    target.server.socket(target.protocol)
                )
                .into());
            }
        }
    }
    Ok(())
}

pub async fn measure(
    both: &Both,
    read: &mut Read,
    images: u32,
    turns: u32,
    progress: &Progress,
) -> Result<()> {
    // The first turn is a warm-up.
    for turn in 0..=turns {
        for (column, target) in both.turn(turn) {
            let Some(requests) = requests(read, target, images)? else { continue };
            both.settle().await?;
            let time = if turn == 0 { BURST_TIME / 5 } else { BURST_TIME };
            let burst = burst::run(target, read.row.clients, &requests, Until::Time(time)).await?;
            if turn > 0 {
                let value = if read.row.unit == Unit::Rate { burst.rate() } else { burst.median() };
                read.row.add(column, value, Some(&burst));
            }
        }
        if turn > 0 {
            progress.step();
        }
    }
    Ok(())
}
