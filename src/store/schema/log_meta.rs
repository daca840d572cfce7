//! The fields of `meta` about the log: its epoch, its first entry, and its retention.

use std::time::Duration;

use heed::types::{Bytes, Str};
use heed::{Database, RoTxn, RwTxn};
use uuid::Uuid;

use super::checkpoint_id::number;
use super::tables::Tables;

const EPOCH: &str = "log_epoch";
const FIRST: &str = "log_first";
const KEEP: &str = "log_keep";

/// The default of [`Retention::bytes`]: about 20,000 changes.
pub(crate) const DEFAULT_KEEP_BYTES: u64 = 8 << 20;

/// The retention of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Bytes of the data file that the entries may take. 0 turns the log off.
    pub bytes: u64,
    /// The age that an entry may reach; without a bound if `None`.
    pub age: Option<Duration>,
}

impl Default for Retention {
    fn default() -> Self {
        Self { bytes: DEFAULT_KEEP_BYTES, age: None }
    }
}

impl Retention {
    /// Whether changes are logged.
    pub fn is_on(self) -> bool {
        self.bytes > 0
    }

    fn to_bytes(self) -> [u8; 16] {
        let age = self.age.map_or(0, |age| age.as_secs());
        let mut bytes = [0; 16];
        let fields = self.bytes.to_le_bytes().into_iter().chain(age.to_le_bytes());
        bytes.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        bytes
    }

    fn from_bytes(stored: &[u8]) -> Option<Self> {
        let (bytes, age) = stored.split_first_chunk()?;
        let age = u64::from_le_bytes(age.try_into().ok()?);
        let age = (age > 0).then(|| Duration::from_secs(age));
        Some(Self { bytes: u64::from_le_bytes(*bytes), age })
    }
}

/// The fields of `meta` about the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogMeta {
    /// The epoch; `None` while the log is off.
    pub epoch: Option<Uuid>,
    /// The number of the oldest entry, or of the next one if there is none.
    pub first: u64,
    /// The retention that was set for the last daemon.
    pub keep: Option<Retention>,
}

impl LogMeta {
    /// The log of a store that has none yet.
    pub(crate) fn new() -> Self {
        Self { epoch: Some(Uuid::new_v4()), first: 1, keep: None }
    }

    /// Reads the fields in a state.
    pub(crate) fn read(txn: &RoTxn<'_>, tables: &Tables) -> heed::Result<Self> {
        let get = |key| tables.meta.get(txn, key);
        Ok(Self {
            epoch: get(EPOCH)?.and_then(|stored| Uuid::from_slice(stored).ok()),
            first: number(get(FIRST)?).unwrap_or(1),
            keep: get(KEEP)?.and_then(Retention::from_bytes),
        })
    }

    /// Writes the fields that differ from the stored ones.
    pub(crate) fn write(
        &self,
        txn: &mut RwTxn<'_>,
        meta: Database<'_, Str, Bytes>,
    ) -> heed::Result<()> {
        let keep = self.keep.map(Retention::to_bytes);
        for (key, value) in [
            (EPOCH, self.epoch.as_ref().map(|epoch| epoch.as_bytes().as_slice())),
            (FIRST, Some(self.first.to_le_bytes().as_slice())),
            (KEEP, keep.as_ref().map(<[u8; 16]>::as_slice)),
        ] {
            if meta.get(txn, key)? == value {
                continue;
            }
            match value {
                Some(value) => meta.put(txn, key, value)?,
                None => drop(meta.delete(txn, key)?),
            }
        }
        Ok(())
    }
}

impl Default for LogMeta {
    fn default() -> Self {
        Self::new()
    }
}
