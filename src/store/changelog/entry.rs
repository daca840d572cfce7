//! The bytes of an entry: an encoded [`Change`], written around the stored record, which is an encoded
//! image already.
//!
//! ```text
//! seq, commit_last        first, so that a reader finds them without decoding the rest
//! body                    time, kind, origin, namespace, name, before, after, actor, undoes, truncated
//! chain                   last: it is over all before it
//! ```

use std::borrow::Cow;

use protobuf::rt::{self, WireType};
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{CodedInputStream, CodedOutputStream, Message};
use sha2::{Digest, Sha256};

use crate::api::catalog::{Change, Kind};
use crate::api::images::Image;
use crate::model::image::encoded::Encoded;
use crate::model::{Error, Namespace, Result};
use crate::store::changelog::cause::Cause;

/// If the states before and after have more bytes together, the entry has only their digests.
pub(crate) const MAX_STATE_BYTES: usize = 64 << 10;

/// Fields of `Change`.
mod field {
    pub(crate) const SEQ: u32 = 1;
    pub(crate) const COMMIT_LAST: u32 = 2;
    pub(crate) const TIME: u32 = 3;
    pub(crate) const KIND: u32 = 4;
    pub(crate) const ORIGIN: u32 = 5;
    pub(crate) const NAMESPACE: u32 = 6;
    pub(crate) const NAME: u32 = 7;
    pub(crate) const BEFORE: u32 = 8;
    pub(crate) const AFTER: u32 = 9;
    pub(crate) const ACTOR: u32 = 10;
    pub(crate) const UNDOES: u32 = 11;
    pub(crate) const TRUNCATED: u32 = 12;
    pub(crate) const CHAIN: u32 = 13;
}

/// The field `target` of `State`, and `digest` in it.
const STATE_TARGET: u32 = 3;
const TARGET_DIGEST: u32 = 2;

/// Bytes of the chain with its tag, at the end of an entry.
const CHAIN_BYTES: usize = 9;

/// The record that a change replaces.
#[derive(Debug, Clone, Copy)]
pub enum Old<'m> {
    /// There was no record.
    Missing,
    /// The message.
    Known(&'m [u8]),
    /// The record is damaged, so its state is unknown.
    Damaged,
}

impl<'m> Old<'m> {
    /// The message, if it is known.
    pub fn message(self) -> Option<&'m [u8]> {
        match self {
            Self::Known(message) => Some(message),
            Self::Missing | Self::Damaged => None,
        }
    }
}

/// A change of an image.
#[derive(Debug)]
pub struct Changed<'c> {
    /// The image's namespace.
    pub namespace: &'c Namespace,
    /// The image's name.
    pub name: &'c str,
    /// The record as it was.
    pub old: Old<'c>,
    /// The record as it is now; none if it was removed.
    pub new: Option<&'c [u8]>,
}

impl Changed<'_> {
    fn kind(&self) -> Kind {
        match (self.old, self.new) {
            (_, None) => Kind::KIND_DELETED,
            (Old::Missing, Some(_)) => Kind::KIND_CREATED,
            (_, Some(_)) => Kind::KIND_UPDATED,
        }
    }

    /// The entry of the change, without its position in the log.
    pub fn body(&self, cause: &Cause, time: &Timestamp) -> Result<Vec<u8>> {
        let records = [
            (field::BEFORE, !matches!(self.old, Old::Missing), self.old.message()),
            (field::AFTER, self.new.is_some(), self.new),
        ];
        let whole = records.map(|(_, _, record)| record.and_then(whole_state));
        let bytes = whole.iter().flatten().map(|state| state.len()).sum::<usize>();
        let is_unknown =
            records.iter().zip(&whole).any(|((_, is_there, _), w)| *is_there && w.is_none());
        let is_truncated = bytes > MAX_STATE_BYTES || is_unknown;
        let mut body = Vec::with_capacity(128 + self.name.len() + bytes.min(MAX_STATE_BYTES));
        let mut out = CodedOutputStream::vec(&mut body);
        let written = (|| {
            out.write_tag(field::TIME, WireType::LengthDelimited)?;
            time.write_length_delimited_to(&mut out)?;
            out.write_enum(field::KIND, self.kind() as i32)?;
            out.write_enum(field::ORIGIN, cause.origin as i32)?;
            out.write_string(field::NAMESPACE, self.namespace.as_str())?;
            out.write_string(field::NAME, self.name)?;
            for ((field, is_there, record), whole) in records.into_iter().zip(&whole) {
                match whole {
                    _ if !is_there => {}
                    Some(state) if !is_truncated => out.write_bytes(field, state)?,
                    _ => out.write_bytes(field, &digest_state(record)?)?,
                }
            }
            if let Some(actor) = &cause.actor {
                out.write_bytes(field::ACTOR, actor.bytes())?;
            }
            if cause.undoes > 0 {
                out.write_uint64(field::UNDOES, cause.undoes)?;
            }
            if is_truncated {
                out.write_bool(field::TRUNCATED, true)?;
            }
            out.flush()
        })();
        drop(out);
        written.map(|()| body).map_err(|e: protobuf::Error| encoding(&e))
    }
}

/// The encoded `State` of a record: the encoded image without its name. `None` if the record is not an image.
pub(crate) fn whole_state(record: &[u8]) -> Option<Cow<'_, [u8]>> {
    if let Some(image) = Encoded::new(record) {
        return image.is_decodable().then(|| Cow::Borrowed(image.without_name()));
    }
    let mut image = Image::parse_from_bytes(record).ok()?;
    image.name.clear();
    image.write_to_bytes().ok().map(Cow::Owned)
}

/// The encoded `State` with only the digest of a record, if the digest can be read.
fn digest_state(record: Option<&[u8]>) -> protobuf::Result<Vec<u8>> {
    let digest = match record.map(|record| (record, Encoded::new(record))) {
        Some((_, Some(image))) => String::from_utf8_lossy(image.digest()).into_owned(),
        Some((record, None)) => {
            Image::parse_from_bytes(record).unwrap_or_default().target.digest.clone()
        }
        None => String::new(),
    };
    let mut state = Vec::new();
    let mut out = CodedOutputStream::vec(&mut state);
    if !digest.is_empty() {
        let length = rt::string_size(TARGET_DIGEST, &digest);
        out.write_tag(STATE_TARGET, WireType::LengthDelimited)?;
        out.write_uint64_no_tag(length)?;
        out.write_string(TARGET_DIGEST, &digest)?;
    }
    out.flush()?;
    drop(out);
    Ok(state)
}

/// The entry with the number `seq` and its chain, after an entry with the chain `before`. All entries of its
/// commit, up to `commit_last`, become visible together.
pub fn finish(body: &[u8], seq: u64, commit_last: u64, before: u64) -> Result<(Vec<u8>, u64)> {
    let mut entry = Vec::with_capacity(body.len() + 32);
    let mut out = CodedOutputStream::vec(&mut entry);
    let written = (|| {
        out.write_uint64(field::SEQ, seq)?;
        out.write_uint64(field::COMMIT_LAST, commit_last)?;
        out.write_raw_bytes(body)?;
        out.flush()
    })();
    drop(out);
    written.map_err(|e: protobuf::Error| encoding(&e))?;
    let chain = next_chain(before, &entry);
    // Tag and value of a fixed64.
    entry.push((field::CHAIN << 3 | WireType::Fixed64 as u32) as u8);
    entry.extend(chain.to_le_bytes());
    Ok((entry, chain))
}

fn encoding(e: &protobuf::Error) -> Error {
    Error::Internal(format!("encoding an entry of the log: {e}"))
}

fn next_chain(before: u64, entry: &[u8]) -> u64 {
    let mut hasher = Sha256::new();
    hasher.update(before.to_le_bytes());
    hasher.update(entry);
    let hash = hasher.finalize();
    hash.first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

/// The position of an entry in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryPosition {
    /// The number.
    pub seq: u64,
    /// The number of the last entry of the same commit.
    pub commit_last: u64,
    /// The chain.
    pub chain: u64,
}

/// The position of an entry, from its own bytes; `None` if the bytes are not an entry.
pub fn position(entry: &[u8]) -> Option<EntryPosition> {
    let mut input = CodedInputStream::from_bytes(entry);
    let mut number = |field: u32| {
        let tag = input.read_raw_varint32().ok()?;
        (tag == field << 3).then(|| input.read_raw_varint64().ok()).flatten()
    };
    let (seq, commit_last) = (number(field::SEQ)?, number(field::COMMIT_LAST)?);
    let (_, end) = entry.split_last_chunk::<CHAIN_BYTES>()?;
    let [tag, chain @ ..] = end;
    (u32::from(*tag) == field::CHAIN << 3 | WireType::Fixed64 as u32).then(|| EntryPosition {
        seq,
        commit_last,
        chain: u64::from_le_bytes(*chain),
    })
}

/// Whether an entry follows one with the chain `before`.
pub fn follows(entry: &[u8], before: u64) -> bool {
    let position = position(entry);
    let signed = entry.split_last_chunk::<CHAIN_BYTES>().map(|(signed, _)| signed);
    position
        .zip(signed)
        .is_some_and(|(position, signed)| position.chain == next_chain(before, signed))
}

/// The encoded states before and after in an entry.
pub fn states(entry: &[u8]) -> [Option<&[u8]>; 2] {
    let mut found = [None; 2];
    let mut input = CodedInputStream::from_bytes(entry);
    let mut next = || -> Option<(u32, &[u8])> {
        let tag = input.read_raw_tag_or_eof().ok()??;
        let wire = WireType::new(tag & 7)?;
        if wire != WireType::LengthDelimited {
            input.skip_field(wire).ok()?;
            return Some((0, &[]));
        }
        let length = input.read_raw_varint32().ok()?;
        let from = usize::try_from(input.pos()).ok()?;
        let bytes = entry.get(from..from.checked_add(length as usize)?)?;
        input.skip_raw_bytes(length).ok()?;
        Some((tag >> 3, bytes))
    };
    while let Some((field, bytes)) = next() {
        let [before, after] = &mut found;
        match field {
            field::BEFORE => *before = Some(bytes),
            field::AFTER => *after = Some(bytes),
            _ => {}
        }
    }
    found
}

/// Decodes an entry.
pub fn decode(entry: &[u8]) -> Option<Change> {
    Change::parse_from_bytes(entry).ok()
}
