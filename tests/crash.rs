//! The kill test: clients write over both protocols, the daemon is killed with SIGKILL at random
//! moments, again and again on the same store. Afterwards every answered write is there, and one
//! that was not answered is there whole or not at all.
//!
//! `LMDB_IMAGES_KILL_ROUNDS` says how often (default 30), `LMDB_IMAGES_SEED` repeats a run's choices.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used
)]

mod common;
mod process;

use std::collections::HashMap;
use std::path::Path;

use common::{Client, Failed, create, image};
use lmdb_images::api::images::{
    CreateImageResponse, DeleteImageRequest, Image, ListImagesRequest, ListImagesResponse,
    UpdateImageRequest, UpdateImageResponse,
};
use process::Process;
use protobuf::MessageField;
use protobuf::well_known_types::empty::Empty;

const CLIENTS: usize = 8;
const NAMES: u64 = 6;

/// SplitMix64: enough for choices that can be repeated.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// The content of an image: a number, in two places of the record, or no image.
type Content = Option<u64>;

/// What a client knows of its own names.
#[derive(Clone)]
struct Writer {
    id: usize,
    random: Random,
    next: u64,
    answered: HashMap<String, Content>,
    unanswered: Option<(String, Content)>,
}

fn record(name: &str, content: u64) -> Image {
    let mut image = image(name);
    image.labels.insert("content".into(), content.to_string());
    let filler = format!("{content}:{}", "x".repeat((content * 97 % 5000) as usize));
    image.target.as_mut().unwrap().annotations.insert("content".into(), filler);
    image
}

/// The content of a stored image, which must be whole.
fn content(image: &Image) -> u64 {
    let content = image.labels["content"].parse().unwrap();
    let whole = record(&image.name, content);
    assert_eq!((&image.labels, &image.target), (&whole.labels, &whole.target), "half a record");
    content
}

impl Writer {
    async fn write(&mut self, client: &Client) -> Result<(), Failed> {
        let name = format!("{}/{}", self.id, self.random.below(NAMES));
        let exists = self.answered.get(&name).copied().flatten().is_some();
        self.next += 1;
        let number = self.next * CLIENTS as u64 + self.id as u64;
        let new = (!exists || self.random.below(3) > 0).then_some(number);
        self.unanswered = Some((name.clone(), new));
        match new {
            Some(content) if exists => {
                let change = UpdateImageRequest {
                    image: MessageField::some(record(&name, content)),
                    ..Default::default()
                };
                client.call::<UpdateImageResponse>("Update", "kill", &change).await.map(drop)
            }
            Some(content) => client
                .call::<CreateImageResponse>("Create", "kill", &create(record(&name, content)))
                .await
                .map(drop),
            None => {
                let gone = DeleteImageRequest { name: name.clone(), ..Default::default() };
                client.call::<Empty>("Delete", "kill", &gone).await.map(drop)
            }
        }?;
        self.unanswered = None;
        self.answered.insert(name, new);
        Ok(())
    }

    /// Holds what is stored to what was answered; says whether a write was in doubt.
    fn check(&mut self, stored: &HashMap<String, u64>) -> bool {
        let doubt = self.unanswered.take();
        for key in 0..NAMES {
            let name = format!("{}/{key}", self.id);
            let found = stored.get(&name).copied();
            let answered = self.answered.get(&name).copied().flatten();
            let in_doubt = doubt.as_ref().is_some_and(|(n, c)| *n == name && *c == found);
            assert!(
                found == answered || in_doubt,
                "{name}: answered {answered:?}, found {found:?}, in doubt {doubt:?}"
            );
            self.answered.insert(name, found);
        }
        doubt.is_some()
    }
}

async fn stored(dir: &Path) -> HashMap<String, u64> {
    let client = Client::grpc(&dir.join("state/images.sock")).await;
    let listed: ListImagesResponse =
        client.call("List", "kill", &ListImagesRequest::new()).await.unwrap();
    listed.images.iter().map(|image| (image.name.clone(), content(image))).collect()
}

/// Has all writers write until so many answers have come, then kills the daemon.
async fn load_and_kill(
    daemon: Process,
    dir: &Path,
    writers: &mut Vec<Writer>,
    answers: u64,
) -> u64 {
    let (answered, mut count) = tokio::sync::mpsc::unbounded_channel();
    let mut running = tokio::task::JoinSet::new();
    for mut writer in writers.drain(..) {
        let client = match writer.id % 2 {
            0 => Client::grpc(&dir.join("state/images.sock")).await,
            _ => Client::ttrpc(&dir.join("state/images.sock.ttrpc")).await,
        };
        let answered = answered.clone();
        running.spawn(async move {
            loop {
                match writer.write(&client).await {
                    Ok(()) => answered.send(()).unwrap(),
                    // The daemon is gone. An error that it answered would be a fault.
                    Err(f) if [-1, 1, 2, 14].contains(&f.code) => return writer,
                    Err(f) => panic!("{f:?}"),
                }
            }
        });
    }
    drop(answered);
    let mut total = 0;
    while total < answers && count.recv().await.is_some() {
        total += 1;
    }
    daemon.kill();
    writers.extend(running.join_all().await);
    while count.recv().await.is_some() {
        total += 1;
    }
    total
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answered_write_survives_being_killed() {
    let setting = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let rounds = setting("LMDB_IMAGES_KILL_ROUNDS").unwrap_or(30);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = setting("LMDB_IMAGES_SEED").unwrap_or(now.as_nanos() as u64);
    println!("LMDB_IMAGES_SEED={seed}");
    let mut random = Random(seed);
    let mut writers: Vec<_> = (0..CLIENTS)
        .map(|id| Writer {
            id,
            random: Random(seed ^ (id as u64 + 1)),
            next: 0,
            answered: HashMap::new(),
            unanswered: None,
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let (mut answered, mut in_doubt, mut survived) = (0, 0, 0);
    for _ in 0..rounds {
        let daemon = Process::start(dir.path());
        let found = stored(dir.path()).await;
        survived += found.len();
        in_doubt += writers.iter_mut().map(|w| usize::from(w.check(&found))).sum::<usize>();
        answered += load_and_kill(daemon, dir.path(), &mut writers, random.below(300)).await;
    }
    let last = Process::start(dir.path());
    let found = stored(dir.path()).await;
    in_doubt += writers.iter_mut().map(|w| usize::from(w.check(&found))).sum::<usize>();
    last.kill();
    println!(
        "killed {rounds} times: {answered} writes answered, {in_doubt} in doubt, \
         {} records looked at, 0 lost",
        survived + found.len()
    );
}
