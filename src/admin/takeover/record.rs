//! The state of a takeover, in a file. After an interruption, the release reads it.

use serde::{Deserialize, Serialize};

use super::disk::write_file;
use super::layout::Files;
use crate::admin::file;
use crate::model::{Error, Result};

/// The longest accepted record, in bytes.
const MAX_RECORD_BYTES: u64 = 64 << 10;

/// How far a command has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// `takeover` runs, or was interrupted.
    Taking,
    /// `takeover` has come to its end.
    Taken,
    /// `release` runs, or was interrupted.
    Releasing,
}

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TakeoverRecord {
    /// How far the command has come.
    pub(crate) phase: Phase,
    /// Whether our service ran before the takeover: a release starts it again.
    pub(crate) service_was_active: bool,
}

impl TakeoverRecord {
    /// Reads the file; `None` if there is none. A damaged file only shows that a command has begun.
    pub(crate) fn read(files: &Files) -> Result<Option<Self>> {
        let Some((_, text)) = file::read_text(&files.record, MAX_RECORD_BYTES)? else {
            return Ok(None);
        };
        let unknown = Self { phase: Phase::Releasing, service_was_active: false };
        Ok(Some(serde_json::from_str(&text).unwrap_or(unknown)))
    }

    /// Writes the file.
    pub(crate) fn write(files: &Files, phase: Phase, service_was_active: bool) -> Result<()> {
        let record = Self { phase, service_was_active };
        let text = serde_json::to_string(&record);
        let text = text.map_err(|e| Error::Internal(format!("writing JSON: {e}")))?;
        write_file(&files.record, &format!("{text}\n"))
    }
}
