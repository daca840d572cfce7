//! `lmdb-images explain`: shows how List finds the images that match, and how many records it reads.

use std::path::Path;

use go_compat::text::lossy;
use serde_json::{Value, json};

use crate::model::image::plan::{Lookup, QueryPlan};
use crate::model::{Error, Namespace, Result};
use crate::service::images::query::{self, Query};
use crate::store::{Kind, ReadOnlyStore, Records};

/// The plan of a List.
#[derive(Debug)]
pub(crate) struct Explanation {
    plan: QueryPlan,
    examined: Option<Examined>,
}

/// How many records of a namespace the List reads.
#[derive(Debug)]
struct Examined {
    namespace: Namespace,
    /// Records that the List reads.
    rows: usize,
    /// Images in the namespace.
    images: usize,
}

/// Plans a List with these filters. If `root` holds a store, the explanation also counts the records
/// that the List would read in the namespace.
///
/// # Errors
/// `InvalidArgument` if a filter is invalid.
pub(crate) fn run(root: &Path, namespace: &Namespace, filters: &[String]) -> Result<Explanation> {
    let query = Query::new(filters)?;
    let examined = match ReadOnlyStore::open(root) {
        Err(Error::NotFound(_)) => None,
        Err(e) => return Err(e),
        Ok(store) => Some(store.read(|snapshot| {
            Ok(Examined {
                namespace: namespace.clone(),
                rows: query::rows_examined(snapshot, namespace, &query)?,
                images: snapshot.scan(namespace, Kind::Image)?.count(),
            })
        })?),
    };
    Ok(Explanation { plan: query.plan().clone(), examined })
}

impl std::fmt::Display for Explanation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.plan)?;
        match &self.examined {
            None => Ok(()),
            Some(Examined { namespace, rows, images }) => {
                write!(f, "\nlooks at {rows} of {images} images in namespace {namespace}")
            }
        }
    }
}

impl Explanation {
    /// The explanation as JSON (docs/json.md).
    pub(crate) fn json(&self) -> Value {
        let mut object = match &self.plan {
            QueryPlan::All => json!({"plan": "all"}),
            QueryPlan::Scan { alternative } => json!({"plan": "scan", "because": alternative}),
            QueryPlan::Lookups(alternatives) => {
                let lookups: Vec<Vec<Value>> = alternatives
                    .iter()
                    .map(|lookups| lookups.iter().map(lookup).collect())
                    .collect();
                json!({"plan": "look-up", "lookUps": lookups})
            }
        };
        if let (Some(examined), Some(object)) = (&self.examined, object.as_object_mut()) {
            object.insert("namespace".into(), examined.namespace.as_str().into());
            object.insert("looksAt".into(), examined.rows.into());
            object.insert("images".into(), examined.images.into());
        }
        object
    }
}

fn lookup(lookup: &Lookup) -> Value {
    match lookup {
        Lookup::Name(name) => json!({"by": "name", "value": name}),
        Lookup::NamePrefix(prefix) => json!({"by": "name-prefix", "value": lossy(prefix)}),
        Lookup::Digest(digest) => json!({"by": "digest", "value": lossy(digest)}),
        Lookup::DigestPrefix(prefix) => json!({"by": "digest-prefix", "value": lossy(prefix)}),
        Lookup::Label { key, value } => {
            json!({"by": "label", "key": lossy(key), "value": lossy(value)})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::images::Image;
    use crate::store::Store;
    use protobuf::Message;

    #[test]
    fn with_and_without_a_store() {
        let dir = tempfile::tempdir().unwrap();
        let namespace = Namespace::parse("n").unwrap();
        let explain = |filter: &str| run(dir.path(), &namespace, &[filter.to_owned()]).unwrap();
        let label = "labels.stage==a";
        assert_eq!(explain(label).to_string(), r#"the label "stage" with the value "a""#);
        let store = Store::open(dir.path()).unwrap();
        let ns = namespace.clone();
        let fill = move |transaction: &mut crate::store::Transaction<'_>| {
            for (name, stage) in [("x", "a"), ("y", "b"), ("yy", "a")] {
                let mut image = Image { name: name.into(), ..Image::default() };
                image.labels.insert("stage".into(), stage.into());
                transaction.put(&ns, Kind::Image, name, &image.write_to_bytes().unwrap(), None)?;
            }
            Ok(())
        };
        store.writer().write_blocking(fill).unwrap();
        drop(store);
        assert_eq!(
            explain(label).json(),
            json!({
                "plan": "look-up",
                "lookUps": [[{"by": "label", "key": "stage", "value": "a"}]],
                "namespace": "n", "looksAt": 2, "images": 3
            })
        );
        assert!(explain("name~=^y").to_string().ends_with("looks at 2 of 3 images in namespace n"));
        assert!(explain("name==x").to_string().ends_with("looks at 1 of 3 images in namespace n"));
        assert!(explain("name~=y").to_string().ends_with("looks at 3 of 3 images in namespace n"));
        assert!(explain("other==y").to_string().ends_with("looks at 0 of 3 images in namespace n"));
    }
}
