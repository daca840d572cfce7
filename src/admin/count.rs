//! `lmdb-images count`: counts images in the files of the store.

use std::path::Path;

use crate::api::catalog::{CountRequest, CountResponse};
use crate::model::{Namespace, Result};
use crate::service::cancel::Cancel;
use crate::service::catalog::list;
use crate::store::{ReadOnlyStore, Records};

/// Counts the images that match; in one namespace, or in each if `namespace` is `None`.
pub(crate) fn run(
    root: &Path,
    namespace: Option<&Namespace>,
    request: &CountRequest,
) -> Result<Vec<(Namespace, CountResponse)>> {
    ReadOnlyStore::open(root)?.read(|snapshot| {
        let namespaces = match namespace {
            Some(one) => vec![one.clone()],
            None => snapshot.namespaces()?,
        };
        let count = |namespace: Namespace| {
            let found = list::count(snapshot, &namespace, request, Cancel::never())?;
            Ok((namespace, found))
        };
        namespaces.into_iter().map(count).collect()
    })
}
