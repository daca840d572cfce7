//! The images that exist when a watch begins, as changes of KIND_PRESENT.

use std::sync::Arc;

use protobuf::EnumOrUnknown;

use super::change_filter::ChangeFilter;
use super::entry::state_of;
use crate::api::catalog::{Change, Kind};
use crate::limits::client::Client;
use crate::log_throttle::throttled_log;
use crate::model::{Error, Namespace, Result};
use crate::service::cancel::Cancel;
use crate::service::codec::{encode, push_field};
use crate::service::images::query::Query;
use crate::service::local::LocalImages;
use crate::store::{RecordRef, Records, Snapshot, Store};

/// The bytes of images that are read and sent at a time.
const READ_BYTES: usize = 16 << 10;

/// The most images that one read examines.
const MAX_ROWS: usize = 50_000;

/// The position in the images. No snapshot is held between two reads: what changes meanwhile arrives as a change.
#[derive(Debug)]
pub(crate) struct InitialState {
    filter: Arc<ChangeFilter>,
    cursor: Option<Cursor>,
    is_done: bool,
}

#[derive(Debug, Clone)]
struct Cursor {
    namespace: Namespace,
    position: Vec<u8>,
}

/// The images of one read, and the position of the next read; `None` after the last.
type Piece = (Vec<u8>, Option<Cursor>);

impl InitialState {
    /// All images that match.
    pub(crate) fn new(filter: Arc<ChangeFilter>) -> Self {
        Self { filter, cursor: None, is_done: false }
    }

    /// The encoded fields `changes` of a `Changes`, with some more images; `None` when there are no more.
    pub(crate) async fn next(
        &mut self,
        local: &LocalImages,
        client: Client,
    ) -> Result<Option<Vec<u8>>> {
        while !self.is_done {
            let (store, filter) = (local.store().clone(), Arc::clone(&self.filter));
            let cursor = self.cursor.clone();
            let work = move |cancel| read(&store, &filter, cursor.as_ref(), cancel);
            let (changes, next) = local.pool().run(client, work).await?;
            self.is_done = next.is_none();
            self.cursor = next;
            if !changes.is_empty() {
                return Ok(Some(changes));
            }
        }
        Ok(None)
    }
}

fn read(
    store: &Store,
    filter: &ChangeFilter,
    cursor: Option<&Cursor>,
    mut cancel: Cancel,
) -> Result<Piece> {
    let query = filter.compile(&mut cancel)?;
    store.read(|snapshot| {
        let mut piece = PieceBuilder { query, cancel, changes: Vec::new(), rows: 0 };
        for namespace in snapshot.walk_namespaces() {
            let namespace = namespace?;
            let is_wanted =
                filter.namespaces().is_empty() || filter.namespaces().contains(namespace.as_str());
            let position = match cursor {
                Some(cursor) if namespace.as_str() < cursor.namespace.as_str() => continue,
                Some(cursor) if namespace == cursor.namespace => cursor.position.as_slice(),
                _ => &[],
            };
            if !is_wanted {
                continue;
            }
            for entry in snapshot.images_after(&namespace, &[], position)? {
                let entry = entry?;
                piece.add(snapshot, &namespace, &entry)?;
                if piece.changes.len() >= READ_BYTES || piece.rows >= MAX_ROWS {
                    let position = entry.position().to_vec();
                    let namespace = namespace.clone();
                    return Ok((piece.changes, Some(Cursor { namespace, position })));
                }
            }
        }
        Ok((piece.changes, None))
    })
}

struct PieceBuilder {
    query: Option<Query>,
    cancel: Cancel,
    changes: Vec<u8>,
    rows: usize,
}

impl PieceBuilder {
    fn add(
        &mut self,
        snapshot: &Snapshot<'_>,
        namespace: &Namespace,
        entry: &RecordRef<'_>,
    ) -> Result<()> {
        self.rows += 1;
        match self.change(snapshot, namespace, entry) {
            Ok(Some(change)) => push_field(&mut self.changes, 1, &change),
            Ok(None) => {}
            Err(Error::DataLoss(why)) => {
                throttled_log!(Error, "left out of a watch of namespace {namespace}: {why}");
            }
            Err(e) => return Err(e),
        }
        Ok(())
    }

    fn change(
        &mut self,
        snapshot: &Snapshot<'_>,
        namespace: &Namespace,
        entry: &RecordRef<'_>,
    ) -> Result<Option<Vec<u8>>> {
        let mut step = || self.cancel.check().and_then(|()| snapshot.check_held());
        step()?;
        let record = entry.message()?;
        if let Some(query) = &self.query
            && !query.matches(record, &mut step)?
        {
            return Ok(None);
        }
        let image = crate::service::codec::decode::<crate::model::image::Image>(record)?;
        encode(&Change {
            kind: EnumOrUnknown::new(Kind::KIND_PRESENT),
            namespace: namespace.to_string(),
            name: image.name,
            after: Some(state_of(record)?).into(),
            ..Change::default()
        })
        .map(Some)
    }
}
