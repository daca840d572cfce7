//! The progress of a node by its reports. It predicts the database's answer to the next report.
//!
//! The rules are those of `schema/reports.sql`. So a node notices a gap or another log before it publishes a
//! report that the database would refuse.

use crate::fleet::report::{Answer, Body, Hello, LogPosition, NodeReport, Want};

/// The progress of a node after its reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReportProgress {
    /// A snapshot is wanted, or a part of it was sent.
    Snapshot {
        /// Why it is wanted, in the words of the database's answer.
        why: String,
    },
    /// All changes up to one were reported.
    At {
        /// The epoch of the node's log.
        log: String,
        /// The position of that change.
        position: LogPosition,
    },
}

impl ReportProgress {
    /// The progress of a node that has reported nothing.
    pub(crate) fn initial() -> Self {
        Self::snapshot_wanted("first")
    }

    fn snapshot_wanted(why: &str) -> Self {
        Self::Snapshot { why: why.into() }
    }

    /// Parses the header of a report.
    pub(crate) fn parse(header: &str) -> Option<Self> {
        let words: Vec<_> = header.split(' ').collect();
        match words.as_slice() {
            words if words.contains(&"") => None,
            ["snapshot", why] => Some(Self::snapshot_wanted(why)),
            ["at", log, seq, chain] => {
                let chain = Some((*chain).to_owned()).filter(|chain| chain != "-");
                let position = LogPosition { seq: seq.parse().ok()?, chain };
                Some(Self::At { log: (*log).into(), position })
            }
            _ => None,
        }
    }

    /// The header of a report.
    pub(crate) fn header(&self) -> String {
        match self {
            Self::Snapshot { why } => format!("snapshot {why}"),
            Self::At { log, position } => {
                format!("at {log} {} {}", position.seq, position.chain.as_deref().unwrap_or("-"))
            }
        }
    }

    /// The progress that the answer of the database shows.
    pub(crate) fn from_answer(answer: &Answer) -> Self {
        match (answer.want, &answer.log) {
            (Want::Changes | Want::Page, Some(log)) => Self::At {
                log: log.clone(),
                position: LogPosition { seq: answer.seq, chain: None },
            },
            _ => Self::snapshot_wanted(answer.why.as_deref().unwrap_or("first")),
        }
    }

    /// Whether the database gave the predicted answer, so that the node needs no correction.
    pub(crate) fn agrees_with(&self, answer: &Answer) -> bool {
        match self {
            // A part of a snapshot was taken. A node waits for the answer to a hello: see `needs_confirmation`.
            Self::Snapshot { .. } => answer.ok && answer.want == Want::Page,
            Self::At { log, position } => {
                let is_same_log = answer.log.as_ref() == Some(log);
                answer.ok
                    && answer.want == Want::Changes
                    && is_same_log
                    && answer.seq >= position.seq
            }
        }
    }

    /// Whether a node waits for the database's own answer to its hello. By the stream, the node must send a
    /// snapshot. But the database may have its changes: the stream may have been deleted, or may have dropped the
    /// messages of a node that was away for long.
    pub(crate) fn needs_confirmation(&self) -> bool {
        matches!(self, Self::Snapshot { .. })
    }

    /// The predicted answer to a report, and the progress after it. A report whose answer is not ok is not sent.
    pub(crate) fn apply(&self, report: &NodeReport) -> (Answer, Self) {
        let why = match &report.body {
            Body::Hello(hello) => {
                let why = self.snapshot_reason(&report.log, hello);
                let next = why.as_deref().map_or_else(|| self.clone(), Self::snapshot_wanted);
                return (next.answer(true, why.as_deref()), next);
            }
            Body::Page { .. } => {
                let answer = Answer { want: Want::Page, ..self.answer(true, None) };
                return (answer, self.clone());
            }
            Body::Snapshot { at, .. } => {
                let next = Self::At { log: report.log.clone(), position: at.clone() };
                return (next.answer(true, None), next);
            }
            Body::Changes { after, to, .. } => match self {
                Self::Snapshot { why } => why.clone(),
                Self::At { log, .. } if *log != report.log => "log".into(),
                Self::At { position, .. } if after.seq > position.seq => {
                    return (self.answer(false, Some("gap")), self.clone());
                }
                Self::At { position, .. }
                    if after.seq == position.seq && chains_differ(after, position) =>
                {
                    "diverged".into()
                }
                Self::At { .. } => {
                    let next = Self::At { log: report.log.clone(), position: to.clone() };
                    return (next.answer(true, None), next);
                }
            },
        };
        let next = Self::snapshot_wanted(&why);
        (next.answer(false, Some(&why)), next)
    }

    /// Why a node with these ends of its log must send a snapshot.
    fn snapshot_reason(&self, its_log: &str, hello: &Hello) -> Option<String> {
        let (log, position) = match self {
            Self::Snapshot { why } => return Some(why.clone()),
            Self::At { log, position } => (log, position),
        };
        let head = &hello.head;
        let end = LogPosition { seq: head.last, chain: Some(head.chain.clone()) };
        let why = match () {
            () if log != its_log => "log",
            () if head.last < position.seq => "rollback",
            () if head.last == position.seq && chains_differ(&end, position) => "diverged",
            () if head.first > position.seq.saturating_add(1) && head.last > position.seq => {
                "compacted"
            }
            () => return None,
        };
        Some(why.into())
    }

    fn answer(&self, ok: bool, why: Option<&str>) -> Answer {
        let (want, log, seq) = match self {
            Self::Snapshot { .. } => (Want::Snapshot, None, 0),
            Self::At { log, position } => (Want::Changes, Some(log.clone()), position.seq),
        };
        Answer { ok, want, why: why.map(Into::into), log, seq }
    }
}

/// Whether two positions with the same number are of different logs. An unknown chain fits every chain.
fn chains_differ(a: &LogPosition, b: &LogPosition) -> bool {
    matches!((&a.chain, &b.chain), (Some(a), Some(b)) if a != b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::report::Head;

    fn at(seq: u64, chain: u64) -> ReportProgress {
        ReportProgress::At { log: "log-1".into(), position: LogPosition::new(seq, chain) }
    }

    fn hello(log: &str, first: u64, last: u64, chain: u64) -> NodeReport {
        let head = Head { first, last, chain: format!("{chain:016x}") };
        let (store, machine, now) = (String::new(), String::new(), String::new());
        let hello = Hello { store, head, machine, boot: None, version: "1".into(), now };
        NodeReport::new(log, Body::Hello(hello))
    }

    fn changes(log: &str, after: LogPosition, to: LogPosition) -> NodeReport {
        NodeReport::new(log, Body::Changes { after, to, changes: Vec::new() })
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let unknown = LogPosition { seq: 7, chain: None };
        for progress in [
            at(7, 0xab),
            ReportProgress::At { log: "l".into(), position: unknown },
            ReportProgress::snapshot_wanted("compacted"),
        ] {
            assert_eq!(ReportProgress::parse(&progress.header()), Some(progress));
        }
        for header in ["", "at l 7", "at l x 0", "snapshot", "at  7 -"] {
            assert_eq!(ReportProgress::parse(header), None, "{header}");
        }
    }

    #[test]
    fn hello_finds_what_the_database_would_find() {
        let why = |progress: &ReportProgress, report: &NodeReport| progress.apply(report).0.why;
        assert_eq!(
            why(&ReportProgress::initial(), &hello("log-1", 1, 9, 9)).as_deref(),
            Some("first")
        );
        assert_eq!(why(&at(5, 5), &hello("log-2", 1, 9, 9)).as_deref(), Some("log"));
        assert_eq!(why(&at(5, 5), &hello("log-1", 1, 4, 4)).as_deref(), Some("rollback"));
        assert_eq!(why(&at(5, 5), &hello("log-1", 1, 5, 6)).as_deref(), Some("diverged"));
        assert_eq!(why(&at(5, 5), &hello("log-1", 7, 9, 9)).as_deref(), Some("compacted"));
        for fine in [hello("log-1", 1, 5, 5), hello("log-1", 6, 9, 9)] {
            let (answer, next) = at(5, 5).apply(&fine);
            assert_eq!((answer.want, answer.seq, next), (Want::Changes, 5, at(5, 5)));
        }
    }

    #[test]
    fn changes_follow_what_was_reported_or_are_not_sent() {
        let (answer, next) =
            at(5, 5).apply(&changes("log-1", LogPosition::new(5, 5), LogPosition::new(8, 8)));
        assert_eq!((answer.ok, next), (true, at(8, 8)));
        let (answer, next) =
            at(5, 5).apply(&changes("log-1", LogPosition::new(5, 6), LogPosition::new(8, 8)));
        assert_eq!((answer.ok, answer.want), (false, Want::Snapshot));
        assert_eq!(next, ReportProgress::snapshot_wanted("diverged"));
        let (answer, next) =
            at(5, 5).apply(&changes("log-1", LogPosition::new(6, 6), LogPosition::new(8, 8)));
        assert_eq!((answer.ok, answer.want, next), (false, Want::Changes, at(5, 5)));
    }

    #[test]
    fn a_snapshot_that_was_interrupted_is_begun_again_for_the_same_reason() {
        let diverged = ReportProgress::snapshot_wanted("diverged");
        let page = Body::Page { token: "t".into(), page: 0, rows: Vec::new() };
        let (answer, next) = diverged.apply(&NodeReport::new("log-1", page));
        assert!(answer.ok);
        let after_a_kill = ReportProgress::parse(&next.header()).unwrap();
        let (answer, _) = after_a_kill.apply(&hello("log-1", 1, 9, 9));
        assert_eq!((answer.want, answer.why.as_deref()), (Want::Snapshot, Some("diverged")));
    }

    #[test]
    fn an_answer_that_says_otherwise_is_sent_back_and_followed() {
        let answer = |ok, want, seq| Answer { ok, want, why: None, log: Some("log-1".into()), seq };
        assert!(at(5, 5).agrees_with(&answer(true, Want::Changes, 5)));
        assert!(at(5, 5).agrees_with(&answer(true, Want::Changes, 9)), "a message that came twice");
        assert!(!at(5, 5).agrees_with(&answer(true, Want::Changes, 4)), "restored from a backup");
        assert!(!at(5, 5).agrees_with(&answer(false, Want::Changes, 5)), "a gap");
        assert!(!at(5, 5).agrees_with(&answer(true, Want::Snapshot, 5)));
        let other = Answer { log: None, ..answer(true, Want::Changes, 5) };
        assert!(!at(5, 5).agrees_with(&other), "an empty database");
        assert!(ReportProgress::snapshot_wanted("first").agrees_with(&answer(true, Want::Page, 0)));
        let hello = [answer(true, Want::Changes, 5), answer(true, Want::Snapshot, 0)];
        assert!(
            hello
                .iter()
                .all(|answer| !ReportProgress::snapshot_wanted("first").agrees_with(answer)),
            "waited for"
        );
        let of_answer = ReportProgress::from_answer(&answer(false, Want::Changes, 3));
        let position = LogPosition { seq: 3, chain: None };
        assert_eq!(of_answer, ReportProgress::At { log: "log-1".into(), position });
        assert_eq!(ReportProgress::from_answer(&other), ReportProgress::initial());
    }
}
