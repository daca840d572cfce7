//! `lmdb-images ls` and `inspect`: read image records from the files of the store, or `ls` from a
//! containerd's bolt file.
//!
//! `ls` runs the same List code as the service. So filters mean the same as for a client and use the
//! index. The command keeps the result as encoded bytes and releases the snapshot before it prints: a
//! blocked terminal must not keep a snapshot open.

use std::path::Path;

use go_compat::quote::quote;
use protobuf::CodedInputStream;

use crate::admin::image_json::ImageJson;
use crate::admin::import::bolt::{self, BoltFile};
use crate::admin::import::containerd_schema::{self, FileItem};
use crate::api::images::{Image, ListImagesResponse};
use crate::limits::memory::ReplyBuffer;
use crate::model::filter::Filter;
use crate::model::{Context, Error, Namespace, Result};
use crate::service::cancel::Cancel;
use crate::service::catalog::select::Selection;
use crate::service::codec::{decode, encode};
use crate::service::images::query;
use crate::service::reply::{BuildOutcome, ReplyBuilder};
use crate::store::{Kind, ReadOnlyStore, Records, Snapshot, position_of};

/// Images found by a listing, ordered by namespace and name.
#[derive(Debug)]
pub(crate) struct Listing {
    /// One encoded `ListImagesResponse` for each namespace.
    found: Vec<(Namespace, Vec<u8>)>,
    /// Number of damaged records. The listing does not contain them.
    pub(crate) left_out: u64,
    /// Name of the last image in the listing, if the limit cut off images after it.
    next_after: Option<String>,
}

/// The part of a listing that the caller asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Page {
    /// The listing leaves out images that match any of these filters.
    pub(crate) exclude: Vec<String>,
    /// The listing begins after this name.
    pub(crate) after: Option<String>,
    /// The largest number of images.
    pub(crate) limit: Option<usize>,
}

/// Conditions that an image must meet in addition to matching a filter.
#[derive(Debug, Clone, Default)]
pub(crate) struct Conditions {
    /// The digest or a prefix of it, such as `sha256:ab12`.
    pub(crate) digest: Option<String>,
    /// Labels of the image, each with a value (`k=v`) or with any value (`k`).
    pub(crate) labels: Vec<String>,
}

impl Conditions {
    /// Combines the conditions with `filters` into one list of filters. An image matches that list if it
    /// meets all conditions and matches any of `filters`.
    ///
    /// # Errors
    /// `InvalidArgument` if a label has no key or the digest is malformed.
    pub(crate) fn filters(&self, filters: Vec<String>) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for label in &self.labels {
            all.push(match label.split_once('=') {
                Some(("", _)) => return Err(no_key(label)),
                Some((key, value)) => format!("labels.{}=={}", quote(key), quote(value)),
                None if label.is_empty() => return Err(no_key(label)),
                None => format!("labels.{}", quote(label)),
            });
        }
        all.extend(self.digest.as_deref().map(digest_filter).transpose()?);
        if all.is_empty() {
            return Ok(filters);
        }
        let selected = all.join(",");
        if filters.is_empty() {
            return Ok(vec![selected]);
        }
        Ok(filters.iter().map(|filter| format!("{filter},{selected}")).collect())
    }
}

fn no_key(label: &str) -> Error {
    Error::InvalidArgument(format!(
        "--label {} has no key: give KEY or KEY=VALUE, such as stage=production",
        quote(label)
    ))
}

fn digest_filter(digest: &str) -> Result<String> {
    let parts = digest.split_once(':');
    let algorithms = [("sha256", 64), ("sha384", 96), ("sha512", 128)];
    let is_hex = |digits: &str| digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let whole = parts.and_then(|(algorithm, digits)| {
        let (_, length) = algorithms.into_iter().find(|(name, _)| *name == algorithm)?;
        (is_hex(digits) && digits.len() <= length).then_some(digits.len() == length)
    });
    match whole {
        Some(true) => Ok(format!("target.digest=={}", quote(digest))),
        Some(false) => Ok(format!("target.digest~={}", quote(format!("^{digest}")))),
        None => Err(Error::InvalidArgument(format!(
            "--digest {} is not a digest: give its algorithm (sha256, sha384 or sha512), a colon, and some \
             or all of its digits 0-9 a-f, such as sha256:ab12",
            quote(digest)
        ))),
    }
}

/// Lists the images that match any of the filters, or all images if there is no filter. If `namespace`
/// is `None`, the listing covers all namespaces.
pub(crate) fn list(
    root: &Path,
    namespace: Option<&Namespace>,
    filters: Vec<String>,
    page: &Page,
) -> Result<Listing> {
    let selection = Selection::compile(&filters, &page.exclude, &mut Cancel::never())?;
    let is_page = page.after.is_some() || page.limit.is_some() || !page.exclude.is_empty();
    let store = ReadOnlyStore::open(root)?;
    let (mut left_out, mut next_after) = (0, None);
    let found = store.read(|snapshot| {
        let namespaces = match namespace {
            Some(one) => vec![one.clone()],
            None => snapshot.namespaces()?,
        };
        let list = |namespace: Namespace| {
            let buffer = ReplyBuffer::fixed(usize::MAX, None);
            let built = if is_page {
                let (built, last) = list_page(snapshot, &namespace, &selection, page, buffer)?;
                next_after = last;
                built
            } else {
                query::list(snapshot, &namespace, selection.wanted(), buffer, Cancel::never())?
            };
            left_out += built.left_out;
            Ok((namespace, built.reply.unwrap_or_default().message))
        };
        namespaces.into_iter().map(list).collect::<Result<_>>()
    })?;
    Ok(Listing { found, left_out, next_after })
}

/// Lists the images of a namespace that belong to `page`. If more images match, also returns the name of the
/// last listed image.
fn list_page(
    snapshot: &Snapshot<'_>,
    namespace: &Namespace,
    selection: &Selection,
    page: &Page,
    buffer: ReplyBuffer<'_>,
) -> Result<(BuildOutcome, Option<String>)> {
    let position = page.after.as_deref().map(position_of).unwrap_or_default();
    let mut reply = ReplyBuilder::new(buffer);
    let (mut count, mut last) = (0, None);
    for entry in snapshot.images_after(namespace, selection.name_prefix(), &position)? {
        let found = entry?
            .message()
            .and_then(|record| Ok(selection.matches(record, &mut || Ok(()))?.then_some(record)));
        match found {
            Ok(None) => {}
            Ok(Some(_)) if page.limit == Some(count) => {
                let last = last.map(decode::<Image>).transpose()?;
                return Ok((reply.built(), last.map(|image| image.name)));
            }
            Ok(Some(record)) => {
                reply.add(record);
                (count, last) = (count + 1, Some(record));
            }
            Err(Error::DataLoss(_)) => reply.leave_out(),
            Err(e) => return Err(e),
        }
    }
    Ok((reply.built(), None))
}

/// Like [`list`], but reads containerd's bolt file. containerd may run at the same time.
///
/// # Errors
/// If the file cannot be read. A damaged record is an error only if containerd runs; else the listing
/// leaves the record out.
pub(crate) fn list_bolt(
    file: &Path,
    namespace: Option<&Namespace>,
    filters: &[String],
) -> Result<Listing> {
    let filter = Filter::parse_all(filters)
        .map_err(|e| Error::invalid_argument(Error::invalid_argument(e)))?;
    let mut found: Vec<(Namespace, ListImagesResponse)> = Vec::new();
    let mut add = |found_in: &Namespace, image: Image| {
        if namespace.is_some_and(|wanted| wanted != found_in) || !filter.matches(&image) {
            return;
        }
        match found.last_mut() {
            Some((last, list)) if last == found_in => list.images.push(image),
            _ => found.push((
                found_in.clone(),
                ListImagesResponse { images: vec![image], ..Default::default() },
            )),
        }
    };
    let mut left_out = 0;
    match bolt::open_file(file)? {
        BoltFile::Live(database) => {
            for record in database.namespaces()? {
                let namespace = Namespace::parse(&record.name)?;
                bolt::each_image(&database, &namespace, |image| {
                    add(&namespace, image);
                    Ok(())
                })?;
            }
        }
        BoltFile::AtRest(locked) => {
            let source: &std::fs::File = &locked;
            containerd_schema::read(source, |each| {
                match each {
                    FileItem::Image(namespace, image) => add(&namespace, image),
                    FileItem::Unreadable(_) => left_out += 1,
                    FileItem::Namespace(..) => {}
                }
                Ok(())
            })
            .map_err(|e| e.at(file.display()))?;
        }
    }
    let encoded = found.into_iter().map(|(namespace, list)| Ok((namespace, encode(&list)?)));
    Ok(Listing { found: encoded.collect::<Result<_>>()?, left_out, next_after: None })
}

/// Reads the record of one image.
///
/// # Errors
/// `NotFound` if the namespace has no image of this name. If another namespace has one, the error names
/// that namespace.
pub(crate) fn get(root: &Path, namespace: &Namespace, name: &str) -> Result<ImageJson> {
    ReadOnlyStore::open(root)?.read(|snapshot| {
        if let Some(record) = snapshot.record(namespace, Kind::Image, name)? {
            return Ok(ImageJson::new(namespace, decode::<Image>(record)?));
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
    /// If the limit cut the listing off: the name after which the next listing must begin.
    pub(crate) fn next_after(&self) -> Option<&str> {
        self.next_after.as_deref()
    }

    /// Calls `to` with each record, and stops at the first error that `to` returns.
    pub(crate) fn for_each<E: From<Error>>(
        &self,
        mut to: impl FnMut(ImageJson) -> Result<(), E>,
    ) -> Result<(), E> {
        for (namespace, images) in &self.found {
            let mut stream = CodedInputStream::from_bytes(images);
            while stream.read_raw_tag_or_eof().or_internal("reading a list")?.is_some() {
                let image: Image = stream.read_message().or_internal("reading a list")?;
                to(ImageJson::new(namespace, image))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(digest: Option<&str>, labels: &[&str], filters: &[&str]) -> Result<Vec<String>> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let selection = Conditions { digest: digest.map(str::to_owned), labels: owned(labels) };
        selection.filters(owned(filters))
    }

    #[test]
    fn a_selection_is_a_filter() {
        assert_eq!(filters(None, &[], &["a", "b"]).unwrap(), ["a", "b"]);
        let whole = format!("sha256:{}", "a".repeat(64));
        let expected = [format!("target.digest==\"{whole}\"")];
        assert_eq!(filters(Some(&whole), &[], &[]).unwrap(), expected);
        assert_eq!(
            filters(Some("sha256:ab"), &["k", "x y=a=\"b"], &["name==a", "name==b"]).unwrap(),
            ["a", "b"].map(|name| format!(
                r#"name=={name},labels."k",labels."x y"=="a=\"b",target.digest~="^sha256:ab""#
            ))
        );
        for wrong in ["ab12", "", ":", "md5:ab", "sha256:AB", "sha256:x", "sha256:ab,name==x"] {
            let error = filters(Some(wrong), &[], &[]).unwrap_err();
            assert!(error.message().contains("is not a digest: give"), "{error}");
        }
        let long = format!("sha256:{}", "a".repeat(65));
        assert!(filters(Some(&long), &[], &[]).is_err());
        for wrong in ["", "=", "=v"] {
            assert!(filters(None, &[wrong], &[]).unwrap_err().message().contains("no key"));
        }
    }
}
