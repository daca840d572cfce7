//! Which changes a client wants.

use std::collections::BTreeSet;

use super::entry::Fields;
use crate::model::filter::Filter;
use crate::model::image::Image;
use crate::model::{Error, Namespace, Result};
use crate::service::cancel::Cancel;
use crate::service::codec::{decode, encode};
use crate::service::images::query::Query;
use crate::service::local::is_simple;

/// The most bytes of a watch's filters and namespaces.
const MAX_FILTER_BYTES: usize = 16 << 10;

/// Which changes a client wants.
#[derive(Debug, Default)]
pub(crate) struct ChangeFilter {
    namespaces: BTreeSet<String>,
    filters: Vec<String>,
}

impl ChangeFilter {
    /// Reads the fields of a request.
    ///
    /// # Errors
    /// `InvalidArgument` if a filter or a namespace is none; `ResourceExhausted` if they are too long.
    pub(crate) fn new(namespaces: Vec<String>, filters: Vec<String>) -> Result<Self> {
        let bytes: usize =
            namespaces.iter().chain(&filters).map(|text| text.len() + size_of::<String>()).sum();
        if bytes > MAX_FILTER_BYTES {
            return Err(Error::ResourceExhausted(format!(
                "the namespaces and filters have {bytes} bytes, at most {MAX_FILTER_BYTES} are accepted: \
                 watch with fewer or shorter ones"
            )));
        }
        for namespace in &namespaces {
            Namespace::parse(namespace)?;
        }
        // Compiling may take long, and is done where that may be.
        Filter::parse(&filters).map_err(|e| Error::invalid_argument(Error::invalid_argument(e)))?;
        Ok(Self { namespaces: namespaces.into_iter().collect(), filters })
    }

    /// Whether a match takes little time.
    pub(crate) fn is_simple(&self) -> bool {
        is_simple(&self.filters)
    }

    /// The namespaces that are wanted; none stands for all.
    pub(crate) fn namespaces(&self) -> &BTreeSet<String> {
        &self.namespaces
    }

    /// Compiles the filters. The result is not kept: it may take much memory.
    pub(crate) fn compile(&self, cancel: &mut Cancel) -> Result<Option<Query>> {
        match self.filters.as_slice() {
            [] => Ok(None),
            filters => Query::compile(filters, cancel).map(Some),
        }
    }

    /// Whether a change is wanted.
    pub(crate) fn matches(
        &self,
        query: Option<&Query>,
        seq: u64,
        change: &[u8],
        cancel: &mut Cancel,
    ) -> Result<bool> {
        if self.namespaces.is_empty() && query.is_none() {
            return Ok(true);
        }
        let fields = Fields::new(seq, change)
            .ok_or_else(|| Error::DataLoss(format!("change {seq} of the log is none")))?;
        let namespace = std::str::from_utf8(fields.namespace).unwrap_or_default();
        if !self.namespaces.is_empty() && !self.namespaces.contains(namespace) {
            return Ok(false);
        }
        let Some(query) = query else { return Ok(true) };
        for state in fields.encoded_states() {
            let mut image: Image = decode(state)?;
            image.name = String::from_utf8_lossy(fields.name).into_owned();
            if query.matches(&encode(&image)?, &mut || cancel.check())? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
