//! Prints a change of the catalogue: one line for people, or one JSON object.

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;

use super::text::visible;
use crate::admin::change_json::{ChangeJson, kind, origin, time};
use crate::api::catalog::{Change, State};
use crate::model::printable;
use crate::model::{Context, Result};

/// Cells of a line, each with its style.
pub(crate) type Cells = Vec<(Style, String)>;

/// Digits of a shortened digest.
const DIGEST_DIGITS: usize = 12;

/// Length from which a name is shortened in the middle.
const MAX_NAME_CHARS: usize = 80;

/// The heads of the columns.
pub(crate) const HEADS: [&str; 7] = ["SEQ", "TIME", "NAMESPACE", "NAME", "CHANGE", "BY", "ORIGIN"];

/// The cells of a change.
pub(crate) fn cells(change: &Change) -> Cells {
    let plain = Style::new();
    let dim = plain.dimmed();
    let seq = if change.seq == 0 { "-".into() } else { change.seq.to_string() };
    let at = time(&change.time).map_or("-".into(), clock_time);
    let undone = if change.undoes == 0 { String::new() } else { format!(" of {}", change.undoes) };
    let name = visible(&printable::shortened(&change.name, MAX_NAME_CHARS)).into_owned();
    vec![
        (dim, seq),
        (dim, at),
        (plain, change.namespace.clone()),
        (plain.bold(), name),
        (style(change), what(change)),
        (plain, actor(change)),
        (dim, format!("{}{undone}", origin(change))),
    ]
}

/// A change as one line of JSON.
pub(crate) fn json(change: Change) -> Result<String> {
    serde_json::to_string(&ChangeJson::new(change)).or_internal("writing JSON")
}

fn clock_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

fn style(change: &Change) -> Style {
    let color = match kind(change) {
        "created" => AnsiColor::Green,
        "deleted" => AnsiColor::Red,
        "updated" => AnsiColor::Yellow,
        _ => return Style::new(),
    };
    Style::new().fg_color(Some(color.into()))
}

/// From which digest to which, or what else has changed.
fn what(change: &Change) -> String {
    let digest = |state: &State| short_digest(&state.target.digest);
    match (change.before.as_ref(), change.after.as_ref()) {
        (None, Some(after)) if kind(change) == "present" => format!("= {}", digest(after)),
        (None, Some(after)) => format!("+ {}", digest(after)),
        (Some(before), None) => format!("- {}", digest(before)),
        (Some(before), Some(after)) if before.target.digest != after.target.digest => {
            format!("{} → {}", digest(before), digest(after))
        }
        (Some(before), Some(after)) if before.labels != after.labels => {
            format!("{} labels", digest(after))
        }
        (Some(_), Some(after)) => format!("{} touched", digest(after)),
        (None, None) => kind(change).into(),
    }
}

fn short_digest(digest: &str) -> String {
    let (algorithm, digits) = digest.split_once(':').unwrap_or(("", digest));
    let digits = digits.get(..DIGEST_DIGITS).unwrap_or(digits);
    visible(&format!("{algorithm}:{digits}")).into_owned()
}

fn actor(change: &Change) -> String {
    let Some(actor) = change.actor.as_ref() else { return "-".into() };
    let comm = if actor.comm.is_empty() { "?".into() } else { visible(&actor.comm) };
    let uid = actor.uid.map(|uid| format!(" uid {uid}")).unwrap_or_default();
    format!("{comm}[{}]{uid}", actor.pid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::catalog::{Actor, Kind, Origin};
    use crate::api::descriptor::Descriptor;

    fn state(digit: &str) -> State {
        let digest = format!("sha256:{}", digit.repeat(64));
        let target = Descriptor { digest, ..Descriptor::default() };
        State { target: Some(target).into(), ..State::default() }
    }

    #[test]
    fn a_line_says_what_changed_and_which_process_asked() {
        let change = Change {
            seq: 7,
            time: Some(protobuf::well_known_types::timestamp::Timestamp {
                seconds: 1_700_000_000,
                ..Default::default()
            })
            .into(),
            kind: Kind::KIND_UPDATED.into(),
            origin: Origin::ORIGIN_UNDO.into(),
            undoes: 3,
            namespace: "default".into(),
            name: "a\u{1b}[31m".into(),
            before: Some(state("a")).into(),
            after: Some(state("b")).into(),
            actor: Some(Actor { uid: Some(0), pid: 9, comm: "ctr".into(), ..Actor::default() })
                .into(),
            ..Change::default()
        };
        let texts: Vec<_> = cells(&change).into_iter().map(|(_, text)| text).collect();
        assert_eq!(
            texts,
            [
                "7",
                "2023-11-14 22:13:20",
                "default",
                r#""a\x1b[31m""#,
                "sha256:aaaaaaaaaaaa → sha256:bbbbbbbbbbbb",
                "ctr[9] uid 0",
                "undo of 3",
            ]
        );
    }

    #[test]
    fn each_kind_of_change_has_its_own_text() {
        let mut labelled = state("a");
        labelled.labels.insert("k".into(), "v".into());
        let text = |before: Option<State>, after: Option<State>| {
            what(&Change { before: before.into(), after: after.into(), ..Change::default() })
        };
        assert_eq!(text(None, Some(state("a"))), "+ sha256:aaaaaaaaaaaa");
        assert_eq!(text(Some(state("a")), None), "- sha256:aaaaaaaaaaaa");
        assert_eq!(text(Some(state("a")), Some(labelled)), "sha256:aaaaaaaaaaaa labels");
        assert_eq!(text(Some(state("a")), Some(state("a"))), "sha256:aaaaaaaaaaaa touched");
    }
}
