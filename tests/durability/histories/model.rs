//! What a store of a few names may hold, and what each call does to it.
//!
//! Every write has a number of its own, and the record that it leaves is made of that number alone. So a
//! record that was read tells which writes made it, and one that is no write's is seen at once.

use std::fmt::Write;

use lmdb_images::api::descriptor::Descriptor;
use lmdb_images::api::images::Image;
use protobuf::MessageField;
use protobuf::well_known_types::timestamp::Timestamp;

/// Few, so that clients meet.
pub const NAMES: [&str; 4] = ["a/one:1", "a/two:1", "b/one:1", "b/two:1"];

/// Digests and groups that records share.
pub const DIGEST_COUNT: u32 = 4;
pub const GROUP_COUNT: u32 = 3;

const EPOCH: i64 = 1_600_000_000;

/// The number of a write.
pub type WriteId = u32;

/// A record: the writes that its parts come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Record {
    pub created: WriteId,
    pub content: WriteId,
    pub mark: WriteId,
    pub updated: WriteId,
}

/// The record of each name.
pub type State = [Option<Record>; NAMES.len()];

impl Record {
    pub fn new(write: WriteId) -> Self {
        Self { created: write, content: write, mark: write, updated: write }
    }

    pub fn digest(&self) -> u32 {
        self.content % DIGEST_COUNT
    }

    fn group(&self) -> u32 {
        self.content % GROUP_COUNT
    }

    /// The image that holds it.
    pub fn image(&self, name: usize) -> Image {
        let mut image = Image {
            name: NAMES[name].into(),
            created_at: MessageField::some(time(self.created)),
            updated_at: MessageField::some(time(self.updated)),
            target: MessageField::some(Descriptor {
                media_type: "application/vnd.oci.image.manifest.v1+json".into(),
                digest: digest(self.digest()),
                size: i64::from(self.content),
                ..Descriptor::default()
            }),
            ..Image::default()
        };
        image.labels.insert("mark".into(), self.mark.to_string());
        image.labels.insert("group".into(), format!("g{}", self.group()));
        self.enlarge(&mut image);
        image
    }

    /// Some records are too large for an entry of the journal, some have too many labels for the index.
    fn enlarge(&self, image: &mut Image) {
        let filler = |length: usize| self.content.to_string().repeat(length / 8 + 1);
        match self.content % 16 {
            0 => {
                image
                    .target
                    .mut_or_insert_default()
                    .annotations
                    .insert("f".into(), filler(400_000));
            }
            5 => image.labels.extend((0..30).map(|i| (format!("f{i}"), filler(3_500)))),
            9 => image.labels.extend((0..70).map(|i| (format!("f{i}"), "x".into()))),
            _ => {}
        }
    }

    /// The number of the name and the record of an image. An error if no write of the test made the image.
    pub fn of(image: &Image) -> Result<(usize, Self), String> {
        let name = NAMES.iter().position(|name| *name == image.name);
        let number = |at: &MessageField<Timestamp>| u32::try_from(at.seconds - EPOCH).ok();
        let record = || {
            Some(Self {
                created: number(&image.created_at)?,
                content: u32::try_from(image.target.size).ok()?,
                mark: image.labels.get("mark")?.parse().ok()?,
                updated: number(&image.updated_at)?,
            })
        };
        match (name, record()) {
            (Some(name), Some(record)) if record.image(name) == *image => Ok((name, record)),
            _ => {
                let mut shown = format!("no write made this image: {image:?}");
                shown.truncate(2_000);
                Err(shown)
            }
        }
    }
}

pub fn digest(number: u32) -> String {
    format!("sha256:{number:064x}")
}

pub fn time(write: WriteId) -> Timestamp {
    Timestamp { seconds: EPOCH + i64::from(write), ..Timestamp::default() }
}

/// What a List asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    All,
    Name(usize),
    /// The first letter of a name.
    Prefix(char),
    Digest(u32),
    Group(u32),
}

impl Filter {
    pub fn matches(self, name: usize, record: &Record) -> bool {
        match self {
            Self::All => true,
            Self::Name(wanted) => name == wanted,
            Self::Prefix(wanted) => NAMES[name].starts_with(wanted),
            Self::Digest(wanted) => record.digest() == wanted,
            Self::Group(wanted) => record.group() == wanted,
        }
    }

    /// As a client writes it.
    pub fn text(self) -> Vec<String> {
        match self {
            Self::All => vec![],
            Self::Name(name) => vec![format!("name=={}", NAMES[name])],
            Self::Prefix(prefix) => vec![format!("name~=^{prefix}/")],
            Self::Digest(number) => vec![format!("target.digest=={}", digest(number))],
            Self::Group(number) => vec![format!("labels.group==g{number}")],
        }
    }
}

/// A call, or a look by a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Get(usize),
    List(Filter),
    Create(usize, WriteId),
    /// Replaces all but the time of creation.
    Update(usize, WriteId),
    /// Changes one label.
    Mark(usize, WriteId),
    /// Only a record with that digest, if there is one.
    Delete(usize, Option<u32>),
}

/// What a call was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A Delete.
    Done,
    /// A Get, or the record that a write left.
    Found(Record),
    Listed(Vec<(usize, Record)>),
    AlreadyExists,
    NotFound,
    /// An error that promises that nothing was changed.
    Refused,
    /// Cut off, or an error that promises nothing.
    Unknown,
}

/// A call from its beginning to its end, in ticks of the recorder.
#[derive(Debug, Clone)]
pub struct Call {
    pub client: String,
    pub operation: Operation,
    pub outcome: Outcome,
    pub begin: u64,
    pub end: u64,
}

impl Operation {
    /// The only name that it reads or changes.
    pub fn name(&self) -> Option<usize> {
        match *self {
            Self::List(_) => None,
            Self::Get(name)
            | Self::Create(name, _)
            | Self::Update(name, _)
            | Self::Mark(name, _)
            | Self::Delete(name, _) => Some(name),
        }
    }

    pub fn is_write(&self) -> bool {
        !matches!(self, Self::Get(_) | Self::List(_))
    }

    /// What a write leaves of its name; `None` if it is refused there.
    fn written(&self, stored: Option<Record>) -> Option<Option<Record>> {
        match (*self, stored) {
            (Self::Create(_, write), None) => Some(Some(Record::new(write))),
            (Self::Update(_, write), Some(old)) => {
                Some(Some(Record { created: old.created, ..Record::new(write) }))
            }
            (Self::Mark(_, write), Some(old)) => {
                Some(Some(Record { mark: write, updated: write, ..old }))
            }
            (Self::Delete(_, digest), Some(old)) => {
                digest.is_none_or(|wanted| wanted == old.digest()).then_some(None)
            }
            _ => None,
        }
    }
}

impl Call {
    /// Whether it may have changed the store.
    pub fn is_change(&self) -> bool {
        self.operation.is_write()
            && matches!(self.outcome, Outcome::Done | Outcome::Found(_) | Outcome::Unknown)
    }

    /// The state after the call, if it can be answered so in `state`. Of a List only `names` count.
    pub fn apply(&self, state: &State, names: &[usize]) -> Option<State> {
        let Some(name) = self.operation.name() else {
            return self.is_listed(state, names).then_some(*state);
        };
        let stored = state[name];
        let written = self.operation.written(stored);
        let fits = match (&self.outcome, &written) {
            (Outcome::Unknown | Outcome::Done, Some(_)) => true,
            (Outcome::Found(found), Some(left)) => *left == Some(*found),
            (Outcome::Found(found), None) => !self.operation.is_write() && stored == Some(*found),
            (Outcome::AlreadyExists, None) => stored.is_some(),
            (Outcome::NotFound, None) => {
                stored.is_none() || matches!(self.operation, Operation::Delete(_, Some(_)))
            }
            _ => false,
        };
        let mut after = *state;
        if let (true, Some(left)) = (self.is_change(), written) {
            after[name] = left;
        }
        fits.then_some(after)
    }

    fn is_listed(&self, state: &State, names: &[usize]) -> bool {
        let (Operation::List(filter), Outcome::Listed(listed)) = (self.operation, &self.outcome)
        else {
            return false;
        };
        names.iter().all(|&name| {
            let mut found = listed.iter().filter(|(listed, _)| *listed == name);
            let expected = state[name].filter(|record| filter.matches(name, record));
            found.next().map(|(_, record)| *record) == expected && found.next().is_none()
        })
    }
}

/// Calls, one a line.
pub fn describe(calls: &[&Call]) -> String {
    calls.iter().fold(String::new(), |mut text, call| {
        let end = if call.end == u64::MAX { "?".into() } else { call.end.to_string() };
        let Call { client, operation, outcome, begin, .. } = call;
        writeln!(text, "    {begin:>7}..{end:<7} {client:10} {operation:?} -> {outcome:?}")
            .unwrap();
        text
    })
}
