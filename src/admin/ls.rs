//! `lmdb-images ls`, `inspect`: image records, read from the files.
//!
//! The listing is the service's own, so that filters mean what they mean to a client, and indexes
//! serve them too. What is found is held as encoded bytes and the snapshot let go: whoever prints
//! may wait for a reader.

use std::path::Path;

use protobuf::CodedInputStream;

use super::listed::Listed;
use crate::api::images::Image;
use crate::model::go::quote::quote;
use crate::model::{Error, Namespace, Result};
use crate::service::budget::Room;
use crate::service::images::{self, Query};
use crate::service::message::decode;
use crate::service::patience::Patience;
use crate::store::{Kind, Reader, Records};

/// Images that were found, by namespace and name.
#[derive(Debug)]
pub struct Listing {
    /// Encoded `ListImagesResponse`s.
    found: Vec<(Namespace, Vec<u8>)>,
}

/// Lists what matches any of the filters (all images, without one) in the namespace, or in all.
pub fn list(root: &Path, namespace: Option<&Namespace>, filters: Vec<String>) -> Result<Listing> {
    let query = Query::new(&filters)?;
    let store = Reader::open(root)?;
    let found = store.read(|snapshot| {
        let namespaces = match namespace {
            Some(one) => vec![one.clone()],
            None => snapshot.namespaces()?,
        };
        let list = |namespace: Namespace| {
            let room = Room::of(usize::MAX, None);
            let built = images::list(snapshot, &namespace, &query, room, Patience::endless())?;
            Ok((namespace, built.reply.unwrap_or_default().message))
        };
        namespaces.into_iter().map(list).collect::<Result<_>>()
    })?;
    Ok(Listing { found })
}

/// The record of one image.
pub fn get(root: &Path, namespace: &Namespace, name: &str) -> Result<Listed> {
    Reader::open(root)?.read(|snapshot| {
        if let Some(record) = snapshot.record(namespace, Kind::Image, name)? {
            return Ok(Listed::new(namespace, decode::<Image>(record)?));
        }
        let has = |other: &Namespace| snapshot.record(other, Kind::Image, name);
        let mut elsewhere = snapshot.namespaces()?;
        elsewhere.retain(|other| matches!(has(other), Ok(Some(_))));
        let hint = match elsewhere.first() {
            Some(other) => format!(" (but in namespace {other})"),
            None => String::new(),
        };
        let name = quote(name);
        Err(Error::not_found(format_args!("image {name} in namespace {namespace}{hint}")))
    })
}

impl Listing {
    /// Hands on each record, until one is refused.
    pub fn each<E: From<Error>>(
        &self,
        mut to: impl FnMut(Listed) -> Result<(), E>,
    ) -> Result<(), E> {
        for (namespace, images) in &self.found {
            let mut stream = CodedInputStream::from_bytes(images);
            let strange = |e| Error::Internal(format!("reading a list: {e}"));
            while stream.read_raw_tag_or_eof().map_err(strange)?.is_some() {
                let image: Image = stream.read_message().map_err(strange)?;
                to(Listed::new(namespace, image))?;
            }
        }
        Ok(())
    }
}
