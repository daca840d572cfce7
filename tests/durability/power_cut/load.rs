//! Clients that change images, and note at which length of the log each change began and ended.

use std::collections::BTreeMap;
use std::path::PathBuf;

use fastrand::Rng;
use lmdb_images::api::images::{ListImagesRequest, ListImagesResponse};

use crate::support::Client;
use crate::support::changelog::Is;
use crate::support::workload;
use crate::support::workload::{Content, NAMESPACE};

/// How a change ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Answered, or seen by a read.
    Fine,
    /// Refused: after this answer, the change must not show.
    Failed,
    /// The answer says that the outcome is unknown, or there was no answer.
    Unknown,
}

/// A change, between two lengths of the log.
#[derive(Debug, Clone)]
pub struct Change {
    pub name: String,
    pub new: Content,
    pub begun: u64,
    pub ended: u64,
    pub end: End,
    /// It stands for what a read has shown, and is no change.
    pub is_read: bool,
}

/// What a name may hold when the log has `at` bytes, by all changes of it, in order.
pub fn allowed<'c>(changes: impl Iterator<Item = &'c Change>, at: u64) -> Vec<Content> {
    let mut allowed = vec![None];
    for change in changes.take_while(|c| c.begun <= at) {
        match change.end {
            End::Failed if change.ended <= at => {}
            End::Fine if change.ended <= at => allowed = vec![change.new],
            _ => allowed.push(change.new),
        }
    }
    allowed
}

/// The changes that may be in the store's log when the log of writes has `at` bytes, in order.
pub fn logged<'c>(
    changes: impl Iterator<Item = &'c Change>,
    at: u64,
) -> impl Iterator<Item = (Content, Is)> {
    changes.take_while(move |c| c.begun <= at).filter_map(move |change| match change.end {
        _ if change.is_read => None,
        End::Failed if change.ended <= at => None,
        End::Fine if change.ended <= at => Some((change.new, Is::Made)),
        _ => Some((change.new, Is::InDoubt)),
    })
}

/// One client with names of its own; it has one change under way at most.
pub struct Writer {
    pub id: u64,
    pub names: u64,
    pub random: Rng,
    pub next: u64,
    pub log: PathBuf,
    pub changes: Vec<Change>,
    pub stored: BTreeMap<String, u64>,
}

impl Writer {
    fn position(&self) -> u64 {
        self.log.metadata().map_or(0, |found| found.len())
    }

    /// Makes `changes` changes, or fewer if the daemon ends. Where one may fail, `faulty` is set.
    pub async fn write(&mut self, client: &Client, changes: usize, faulty: bool) {
        for _ in 0..changes {
            let name = format!("{}/{}", self.id, self.random.u64(..self.names));
            let exists = self.stored.contains_key(&name);
            self.next += 1;
            let keep = !exists || self.random.u64(..3) > 0;
            let new = keep.then_some(self.next * 100 + self.id);
            let begun = self.position();
            let answer = workload::change(client, &name, exists, new).await;
            let gone = matches!(&answer, Err(f) if [-1, 1, 2].contains(&f.code) || f.code == 14 && f.message.contains("transport"));
            let end = match &answer {
                Ok(()) => End::Fine,
                Err(f) if gone || f.message.contains("unknown whether") => End::Unknown,
                Err(f) if faulty => {
                    assert!(f.message.contains("os error 5"), "{f:?}");
                    End::Failed
                }
                Err(f) => panic!("{f:?}"),
            };
            let ended = self.position();
            self.changes.push(Change {
                name: name.clone(),
                new,
                begun,
                ended,
                end,
                is_read: false,
            });
            match end {
                _ if gone => return,
                End::Fine => drop(match new {
                    Some(content) => self.stored.insert(name, content),
                    None => self.stored.remove(&name),
                }),
                End::Failed => {}
                End::Unknown => self.look(client).await,
            }
        }
    }

    /// Reads the stored images. A change that a read has shown must stay.
    pub async fn look(&mut self, client: &Client) {
        let begun = self.position();
        let listed: ListImagesResponse =
            client.call("List", NAMESPACE, &ListImagesRequest::new()).await.unwrap();
        let ended = self.position();
        let own = format!("{}/", self.id);
        let found = listed.images.iter().filter(|image| image.name.starts_with(&own));
        self.stored = found.map(|image| (image.name.clone(), workload::content(image))).collect();
        for name in (0..self.names).map(|n| format!("{}/{n}", self.id)) {
            let new = self.stored.get(&name).copied();
            let may = allowed(self.changes.iter().filter(|c| c.name == name), ended);
            assert!(may.contains(&new), "{name}: found {new:?}, may be {may:?}");
            let (end, is_read) = (End::Fine, true);
            self.changes.push(Change { name, new, begun, ended, end, is_read });
        }
    }
}
