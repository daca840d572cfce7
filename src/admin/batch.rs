//! `lmdb-images apply`: reads a batch of changes from lines of JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use go_compat::quote::quote;
use jiff::Timestamp;
use protobuf::well_known_types::field_mask::FieldMask;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::api::catalog::{
    ApplyItem, ApplyRequest, Precondition, Put, Remove, apply_item, precondition,
};
use crate::api::descriptor::Descriptor;
use crate::api::images::Image;
use crate::model::{Error, Namespace, Result};
use crate::service::catalog::batch::MAX_ITEMS;

/// A line.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Line {
    put: Option<Object<ImageLine>>,
    /// Fields to replace, if not all.
    mask: Option<Vec<String>>,
    remove: Option<String>,
    #[serde(rename = "if")]
    condition: Option<Object<ConditionLine>>,
}

/// An image, also as `ls --json` prints it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ImageLine {
    name: String,
    namespace: Option<String>,
    target: Option<Object<TargetLine>>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Read, and not used: the store sets the times itself.
    #[serde(rename = "createdAt")]
    created_at: Option<String>,
    #[serde(rename = "updatedAt")]
    updated_at: Option<String>,
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
struct ConditionLine {
    absent: Option<bool>,
    digest: Option<String>,
    etag: Option<String>,
}

impl ConditionLine {
    fn precondition(self) -> std::result::Result<Precondition, String> {
        let condition = match (self.absent, self.digest, self.etag) {
            (Some(absent), None, None) => precondition::Is::Absent(absent),
            (None, Some(digest), None) => precondition::Is::Digest(digest),
            (None, None, Some(etag)) => precondition::Is::Etag(etag),
            _ => {
                return Err(
                    r#""if" has one of "absent", "digest" and "etag", such as {"absent": true}"#
                        .into(),
                );
            }
        };
        Ok(Precondition { is: Some(condition), ..Precondition::default() })
    }
}

/// A value that is written as a JSON object. By itself serde takes an array for a struct, too, with its
/// fields by position.
#[derive(Debug)]
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object in braces")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        from.deserialize_map(ObjectVisitor(PhantomData)).map(Self)
    }
}

/// The words of an error without the number of the line, which is always 1: each line is read by itself.
fn json_error(error: &serde_json::Error) -> String {
    let words = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match words.strip_suffix(&place) {
        Some(what) => format!("{what}, at character {}", error.column()),
        None => words,
    }
}

/// Reads the items of a batch, one a line. Empty lines are skipped.
///
/// # Errors
/// `InvalidArgument` with the number of the line that is wrong, or if there are too many or none.
pub fn parse(text: &str, namespace: &Namespace) -> Result<ApplyRequest> {
    let mut items = Vec::new();
    // Some editors put a byte order mark before a text.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |why: String| Error::InvalidArgument(format!("line {number}: {why}"));
        let Object(line) =
            serde_json::from_str::<Object<Line>>(line).map_err(|e| wrong(json_error(&e)))?;
        items.push(line.item(namespace).map_err(wrong)?);
    }
    match items.len() {
        0 => Err(Error::InvalidArgument("it has no change: give one a line".into())),
        count if count > MAX_ITEMS => Err(Error::InvalidArgument(format!(
            "it has {count} changes, and at most {MAX_ITEMS} are made at once: apply it in parts"
        ))),
        _ => Ok(ApplyRequest { items, ..ApplyRequest::default() }),
    }
}

impl Line {
    fn item(self, namespace: &Namespace) -> std::result::Result<ApplyItem, String> {
        let precondition =
            self.condition.map(|Object(condition)| condition.precondition()).transpose()?;
        let change = match (self.put, self.remove) {
            (Some(Object(image)), None) => {
                apply_item::Change::Put(image.put(self.mask, namespace)?)
            }
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
        for (key, time) in [("createdAt", self.created_at), ("updatedAt", self.updated_at)] {
            if let Some(time) = time.filter(|time| time.parse::<Timestamp>().is_err()) {
                return Err(format!(
                    "{key} {} is no time such as 2026-11-28T12:00:00Z",
                    quote(time)
                ));
            }
        }
        let target = self.target.map(|Object(target)| Descriptor {
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
            ("[]", "invalid type: sequence, expected an object in braces"),
            (r#"[null,null,"a",null]"#, "expected an object in braces"),
            (r#"{"put":["a","default"]}"#, "expected an object in braces"),
            (r#"{"put":{"name":"a","target":["m","d",5]}}"#, "expected an object in braces"),
            (r#"{"put":{"name":"a","createdAt":"no time"}}"#, "createdAt \"no time\" is no time"),
            ("{\"remove\": \"a\",}", "at character"),
            ("{}", "give one of \"put\" and \"remove\""),
            (r#"{"remove": "a", "put": {"name": "a"}}"#, "give one of"),
            (r#"{"remove": "a", "mask": []}"#, "mask goes with put only"),
            (r#"{"rm": "a"}"#, "unknown field `rm`"),
            (
                r#"{"remove": "a", "if": {"digest": "x", "etag": "y"}}"#,
                "\"if\" has one of \"absent\"",
            ),
            (r#"{"remove": "a", "if": {}}"#, "\"if\" has one of"),
            (r#"{"remove": "a", "if": {"tag": "x"}}"#, "unknown field `tag`"),
            (r#"{"remove": "a", "if": "absent"}"#, "expected an object in braces"),
            (r#"{"put": {"name": "a", "namespace": "n"}}"#, "is of namespace \"n\""),
            (r#"{"put": {"name": "a", "digest": "n"}}"#, "unknown field `digest`"),
        ] {
            let error = parsed(&format!("{{\"remove\": \"x\"}}\n{line}\n")).unwrap_err();
            assert!(error.message().starts_with("line 2: "), "{error}");
            assert!(error.message().contains(said), "{error} lacks {said}");
        }
    }
}
