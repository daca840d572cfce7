//! Reports all images of the node: for its first report, and when its log no longer has the missing changes.

use protobuf::MessageField;
use uuid::Uuid;

use crate::api::catalog::watch_response::Is;
use crate::api::catalog::{Kind, WatchResponse};
use crate::fleet::catalog::Catalog;
use crate::fleet::report::{Answer, Body, ImageRow, LogPosition, MAX_REPORT_BYTES, NodeReport};
use crate::fleet::shipment::Shipment;
use crate::model::{Error, Result};

/// The most images of a part.
const MAX_PAGE_ROWS: usize = 1000;

/// The images that were read and not yet sent.
#[derive(Debug)]
struct PageBuffer {
    token: String,
    log: String,
    rows: Vec<ImageRow>,
    bytes: usize,
    page: u64,
    count: u64,
}

impl PageBuffer {
    async fn push(&mut self, row: ImageRow, to: &mut Shipment) -> Result<()> {
        let bytes = row.json_bytes();
        let is_full =
            self.rows.len() >= MAX_PAGE_ROWS || self.bytes.saturating_add(bytes) > MAX_REPORT_BYTES;
        if is_full && !self.rows.is_empty() {
            self.flush(to).await?;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.rows.push(row);
        Ok(())
    }

    async fn flush(&mut self, to: &mut Shipment) -> Result<()> {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        self.count = self.count.saturating_add(u64::try_from(rows.len()).unwrap_or_default());
        let body = Body::Page { token: self.token.clone(), page: self.page, rows };
        self.page = self.page.saturating_add(1);
        let answer = to.send(&NodeReport::new(&self.log, body)).await?;
        match answer.ok {
            true => Ok(()),
            false => Err(refusal(&answer)),
        }
    }
}

/// A snapshot that was sent.
#[derive(Debug)]
pub(crate) struct SentSnapshot {
    /// The epoch of the log.
    pub(crate) log: String,
    /// The number of its images.
    pub(crate) count: u64,
    /// The change at which it was taken.
    pub(crate) at: LogPosition,
}

/// Sends a snapshot.
pub(crate) async fn send(catalog: &Catalog, to: &mut Shipment, why: &str) -> Result<SentSnapshot> {
    let mut watch = catalog.watch_all().await?;
    let Some(Is::Started(started)) = catalog.next(&mut watch).await?.is else {
        return Err(Error::Internal("the list of images began with something else".into()));
    };
    let mut pages = PageBuffer {
        token: Uuid::new_v4().to_string(),
        log: started.epoch,
        rows: Vec::new(),
        bytes: 0,
        page: 0,
        count: 0,
    };
    let seq = loop {
        let WatchResponse { is, .. } = catalog.next(&mut watch).await?;
        match is {
            Some(Is::Changes(changes)) => {
                let present = |c: &&_| is_present(c);
                for change in changes.changes.iter().filter(present) {
                    pages.push(change.into(), to).await?;
                }
            }
            Some(Is::InitialEnd(end)) => break end.seq,
            _ => {}
        }
    };
    drop(watch);
    // The first part begins the snapshot, also if the node has no image.
    pages.flush(to).await?;
    let chain = match seq {
        0 => Some(0),
        _ => catalog.change(&pages.log, seq).await?.map(|change| change.chain),
    };
    let at = chain.map_or(LogPosition { seq, chain: None }, |chain| LogPosition::new(seq, chain));
    let PageBuffer { token, log, count, .. } = pages;
    let body = Body::Snapshot { token, count, why: why.into(), at: at.clone() };
    let answer = to.send(&NodeReport::new(&log, body)).await?;
    match answer.ok {
        true => Ok(SentSnapshot { log, count, at }),
        false => Err(refusal(&answer)),
    }
}

fn is_present(change: &crate::api::catalog::Change) -> bool {
    change.kind.enum_value() == Ok(Kind::KIND_PRESENT)
        && matches!(&change.after, MessageField(Some(_)))
}

fn refusal(answer: &Answer) -> Error {
    let why = answer.why.as_deref().unwrap_or("no reason");
    Error::Unavailable(format!("the snapshot was refused ({why}): another one is sent"))
}
