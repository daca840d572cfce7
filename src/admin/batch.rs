//! `lmdb-images apply`: reads a batch of changes from lines of JSON.

use std::collections::BTreeMap;

use protobuf::well_known_types::field_mask::FieldMask;
use serde::Deserialize;

use crate::api::catalog::{
    ApplyItem, ApplyRequest, Precondition, Put, Remove, apply_item, precondition,
};
use crate::api::descriptor::Descriptor;
use crate::api::images::Image;
use crate::model::{Error, Namespace, Result};

/// A line.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Line {
    put: Option<ImageLine>,
    /// Fields to replace, if not all.
    mask: Option<Vec<String>>,
    remove: Option<String>,
    #[serde(rename = "if")]
    condition: Option<Condition>,
}

/// An image, also as `ls --json` prints it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ImageLine {
    name: String,
    namespace: Option<String>,
    target: Option<TargetLine>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(rename = "createdAt")]
    _created_at: Option<String>,
    #[serde(rename = "updatedAt")]
    _updated_at: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TargetLine {
    media_type: String,
    digest: String,
    size: i64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Condition {
    Absent(bool),
    Digest(String),
    Etag(String),
}

/// Reads the items of a batch, one a line. Empty lines are skipped.
///
/// # Errors
/// `InvalidArgument` with the number of the line that is wrong.
pub fn parse(text: &str, namespace: &Namespace) -> Result<ApplyRequest> {
    let mut items = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |why: String| Error::InvalidArgument(format!("line {number}: {why}"));
        let line: Line = serde_json::from_str(line).map_err(|e| wrong(e.to_string()))?;
        items.push(line.item(namespace).map_err(wrong)?);
    }
    Ok(ApplyRequest { items, ..ApplyRequest::default() })
}

impl Line {
    fn item(self, namespace: &Namespace) -> std::result::Result<ApplyItem, String> {
        let is = self.condition.map(|condition| match condition {
            Condition::Absent(absent) => precondition::Is::Absent(absent),
            Condition::Digest(digest) => precondition::Is::Digest(digest),
            Condition::Etag(etag) => precondition::Is::Etag(etag),
        });
        let precondition = is.map(|is| Precondition { is: Some(is), ..Precondition::default() });
        let change = match (self.put, self.remove) {
            (Some(image), None) => apply_item::Change::Put(image.put(self.mask, namespace)?),
            (None, Some(_)) if self.mask.is_some() => {
                return Err("mask goes with put only".into());
            }
            (None, Some(name)) => apply_item::Change::Remove(Remove { name, ..Remove::default() }),
            _ => {
                return Err(
                    r#"give one of "put" and "remove", such as {"remove": "docker.io/library/a:1"}"#
                        .into(),
                );
            }
        };
        Ok(ApplyItem {
            precondition: precondition.into(),
            change: Some(change),
            ..ApplyItem::default()
        })
    }
}

impl ImageLine {
    fn put(
        self,
        mask: Option<Vec<String>>,
        namespace: &Namespace,
    ) -> std::result::Result<Put, String> {
        if let Some(other) = self.namespace.filter(|other| other != namespace.as_str()) {
            return Err(format!(
                "the image is of namespace {other:?}, and the batch is for {namespace}: give --namespace"
            ));
        }
        let target = self.target.map(|target| Descriptor {
            media_type: target.media_type,
            digest: target.digest,
            size: target.size,
            annotations: target.annotations,
            ..Descriptor::default()
        });
        let image = Image {
            name: self.name,
            labels: self.labels,
            target: target.into(),
            ..Image::default()
        };
        let mask = mask.map(|paths| FieldMask { paths, ..FieldMask::default() });
        Ok(Put { image: Some(image).into(), update_mask: mask.into(), ..Put::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<ApplyRequest> {
        parse(text, &Namespace::parse("default").unwrap())
    }

    #[test]
    fn a_line_is_an_item() {
        let text = concat!(
            r#"{"put": {"name": "a", "target": {"mediaType": "m", "digest": "d", "size": 1}}, "if": {"absent": true}}"#,
            "\n\n",
            r#"{"put": {"name": "b", "labels": {"k": "v"}}, "mask": ["labels.k"], "if": {"etag": "e"}}"#,
            "\n",
            r#"{"remove": "c", "if": {"digest": "d"}}"#,
            "\n",
        );
        let items = parsed(text).unwrap().items;
        assert_eq!(items.len(), 3);
        assert_eq!(items[0].precondition.is, Some(precondition::Is::Absent(true)));
        assert_eq!(items[1].put().update_mask.paths, ["labels.k"]);
        assert_eq!(items[2].remove().name, "c");
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (line, said) in [
            ("{", "EOF"),
            ("[]", "invalid"),
            ("{}", "give one of \"put\" and \"remove\""),
            (r#"{"remove": "a", "put": {"name": "a"}}"#, "give one of"),
            (r#"{"remove": "a", "mask": []}"#, "mask goes with put only"),
            (r#"{"rm": "a"}"#, "unknown field `rm`"),
            (r#"{"remove": "a", "if": {"digest": "x", "etag": "y"}}"#, "expected"),
            (r#"{"put": {"name": "a", "namespace": "n"}}"#, "is of namespace \"n\""),
            (r#"{"put": {"name": "a", "digest": "n"}}"#, "unknown field `digest`"),
        ] {
            let error = parsed(&format!("{{\"remove\": \"x\"}}\n{line}\n")).unwrap_err();
            assert!(error.message().starts_with("line 2: "), "{error}");
            assert!(error.message().contains(said), "{error} lacks {said}");
        }
    }
}
