//! Reports all images of the node: for its first report, and when its log no longer has what is missing.

use protobuf::MessageField;
use uuid::Uuid;

use crate::api::catalog::watch_response::Is;
use crate::api::catalog::{Kind, WatchResponse};
use crate::fleet::catalog::Catalog;
use crate::fleet::report::{Answer, ImageRow, Place, Report, What};
use crate::fleet::shipment::Shipment;
use crate::model::{Error, Result};

/// The most images of a part.
const MAX_PAGE_ROWS: usize = 1000;

/// The images that were read and not yet sent.
#[derive(Debug)]
struct Pages {
    token: String,
    log: String,
    rows: Vec<ImageRow>,
    page: u64,
    count: u64,
}

impl Pages {
    async fn flush(&mut self, to: &mut Shipment) -> Result<()> {
        let rows = std::mem::take(&mut self.rows);
        self.count = self.count.saturating_add(u64::try_from(rows.len()).unwrap_or_default());
        let what = What::Page { token: self.token.clone(), page: self.page, rows };
        self.page = self.page.saturating_add(1);
        let answer = to.send(&Report::new(&self.log, what)).await?;
        match answer.ok {
            true => Ok(()),
            false => Err(refused(&answer)),
        }
    }
}

/// A snapshot that was sent.
#[derive(Debug)]
pub struct Sent {
    /// The epoch of the log.
    pub log: String,
    /// How many images it has.
    pub count: u64,
    /// The change after which the log goes on.
    pub at: Place,
}

/// Sends a snapshot.
pub async fn send(catalog: &Catalog, to: &mut Shipment, why: &str) -> Result<Sent> {
    let mut watch = catalog.watch_all().await?;
    let Some(Is::Started(started)) = catalog.next(&mut watch).await?.is else {
        return Err(Error::Internal("the list of images began with something else".into()));
    };
    let mut pages = Pages {
        token: Uuid::new_v4().to_string(),
        log: started.epoch,
        rows: Vec::new(),
        page: 0,
        count: 0,
    };
    let seq = loop {
        let WatchResponse { is, .. } = catalog.next(&mut watch).await?;
        match is {
            Some(Is::Changes(changes)) => {
                let present = |c: &&_| is_present(c);
                for change in changes.changes.iter().filter(present) {
                    pages.rows.push(change.into());
                    if pages.rows.len() >= MAX_PAGE_ROWS {
                        pages.flush(to).await?;
                    }
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
    let at = chain.map_or(Place { seq, chain: None }, |chain| Place::new(seq, chain));
    let Pages { token, log, count, .. } = pages;
    let what = What::Snapshot { token, count, why: why.into(), at: at.clone() };
    let answer = to.send(&Report::new(&log, what)).await?;
    match answer.ok {
        true => Ok(Sent { log, count, at }),
        false => Err(refused(&answer)),
    }
}

fn is_present(change: &crate::api::catalog::Change) -> bool {
    change.kind.enum_value() == Ok(Kind::KIND_PRESENT)
        && matches!(&change.after, MessageField(Some(_)))
}

fn refused(answer: &Answer) -> Error {
    let why = answer.why.as_deref().unwrap_or("no reason");
    Error::Unavailable(format!("the snapshot was refused ({why}): another one is sent"))
}
