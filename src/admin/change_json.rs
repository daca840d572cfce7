//! The JSON form of a change in the log. docs/json.md promises its fields to scripts.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::admin::image_json::Target;
use crate::api::catalog::{Change, Kind, Origin, State};

/// A change in its JSON form.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ChangeJson {
    /// Place in the log; `None` if the change was not made.
    pub(crate) seq: Option<u64>,
    /// Last number of the commit that the change belongs to.
    pub(crate) commit_last: Option<u64>,
    /// Time of the change.
    pub(crate) time: Option<Timestamp>,
    /// The kind of the change: `created`, `updated`, `deleted`, or `present`.
    pub(crate) kind: &'static str,
    /// The origin of the change.
    pub(crate) origin: &'static str,
    /// Namespace of the image.
    pub(crate) namespace: String,
    /// Name of the image.
    pub(crate) name: String,
    /// State before; `None` if there was no image.
    pub(crate) before: Option<StateJson>,
    /// State after; `None` if there is no image any more.
    pub(crate) after: Option<StateJson>,
    /// Process that made the change.
    pub(crate) actor: Option<ActorJson>,
    /// Change that this one undoes.
    pub(crate) undoes: Option<u64>,
    /// Whether the states have only a digest.
    pub(crate) truncated: bool,
}

/// A state of an image.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StateJson {
    /// Descriptor that the name refers to.
    pub(crate) target: Target,
    /// Labels of the image.
    pub(crate) labels: BTreeMap<String, String>,
    /// Time of creation.
    pub(crate) created_at: Option<Timestamp>,
    /// Time of the last change.
    pub(crate) updated_at: Option<Timestamp>,
}

/// A process.
#[derive(Debug, Serialize)]
pub(crate) struct ActorJson {
    /// User; `None` if unknown.
    pub(crate) uid: Option<u32>,
    /// Process number; `None` if unknown.
    pub(crate) pid: Option<i32>,
    /// Name of the program.
    pub(crate) comm: String,
}

impl ChangeJson {
    /// Converts a change.
    pub(crate) fn new(change: Change) -> Self {
        let number = |number| Some(number).filter(|number| *number > 0);
        Self {
            seq: number(change.seq),
            commit_last: number(change.commit_last),
            time: time(&change.time),
            kind: kind(&change),
            origin: origin(&change),
            namespace: change.namespace,
            name: change.name,
            before: change.before.into_option().map(StateJson::new),
            after: change.after.into_option().map(StateJson::new),
            actor: change.actor.into_option().map(|actor| ActorJson {
                uid: actor.uid,
                pid: Some(actor.pid).filter(|pid| *pid > 0),
                comm: actor.comm,
            }),
            undoes: number(change.undoes),
            truncated: change.truncated,
        }
    }
}

impl StateJson {
    fn new(state: State) -> Self {
        let (created_at, updated_at) = (time(&state.created_at), time(&state.updated_at));
        let target = state.target.into_option().unwrap_or_default();
        Self { target: Target::new(target), labels: state.labels, created_at, updated_at }
    }
}

/// Converts a time; `None` if it is unset, or beyond what can be shown.
pub(crate) fn time(
    time: &protobuf::MessageField<protobuf::well_known_types::timestamp::Timestamp>,
) -> Option<Timestamp> {
    let time = time.as_ref()?;
    Timestamp::new(time.seconds, time.nanos).ok()
}

/// The kind of a change, in one word.
pub(crate) fn kind(change: &Change) -> &'static str {
    match change.kind.enum_value_or_default() {
        Kind::KIND_CREATED => "created",
        Kind::KIND_UPDATED => "updated",
        Kind::KIND_DELETED => "deleted",
        Kind::KIND_PRESENT => "present",
        Kind::KIND_UNSPECIFIED => "unknown",
    }
}

/// The origin of a change, in one word.
pub(crate) fn origin(change: &Change) -> &'static str {
    match change.origin.enum_value_or_default() {
        Origin::ORIGIN_CLIENT => "client",
        Origin::ORIGIN_BEHIND => "behind",
        Origin::ORIGIN_RESYNC => "resync",
        Origin::ORIGIN_EXPIRED => "expired",
        Origin::ORIGIN_IMPORT => "import",
        Origin::ORIGIN_UNDO => "undo",
        Origin::ORIGIN_BATCH => "batch",
        Origin::ORIGIN_UNSPECIFIED => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::catalog::Actor;
    use crate::api::descriptor::Descriptor;

    #[test]
    fn the_json_is_as_documented() {
        let state = State {
            target: Some(Descriptor {
                media_type: "m".into(),
                digest: "sha256:00".into(),
                size: 7,
                ..Descriptor::default()
            })
            .into(),
            ..State::default()
        };
        let change = Change {
            seq: 7,
            commit_last: 8,
            time: Some(protobuf::well_known_types::timestamp::Timestamp {
                seconds: 1_700_000_000,
                ..Default::default()
            })
            .into(),
            kind: Kind::KIND_DELETED.into(),
            origin: Origin::ORIGIN_CLIENT.into(),
            namespace: "default".into(),
            name: "a:1".into(),
            before: Some(state).into(),
            actor: Some(Actor { uid: Some(0), pid: 12, comm: "ctr".into(), ..Actor::default() })
                .into(),
            ..Change::default()
        };
        assert_eq!(
            serde_json::to_string(&ChangeJson::new(change)).unwrap(),
            r#"{"seq":7,"commitLast":8,"time":"2023-11-14T22:13:20Z","kind":"deleted","origin":"client","namespace":"default","name":"a:1","before":{"target":{"mediaType":"m","digest":"sha256:00","size":7},"labels":{},"createdAt":null,"updatedAt":null},"after":null,"actor":{"uid":0,"pid":12,"comm":"ctr"},"undoes":null,"truncated":false}"#
        );
    }
}
