//! Bringing a namespace of LMDB to what containerd has.
//!
//! What containerd lists is only a hint: by the time it is compared, things may have changed. Each
//! difference is read again under its lock, and that is applied. An image that containerd no
//! longer has after a gap in its events is set aside, not deleted: a containerd whose database was
//! lost or replaced must not take the last copy with it. Without a gap it is the containerd that
//! was there before, and somebody deleted the image.
//!
//! A namespace or a record that cannot be kept here is left out and said in the log, once: any client of
//! containerd may have made it, and the others are brought up to date all the same.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, RandomState};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::Code;

use crate::api::namespace::Namespace as Record;
use crate::log_throttle::throttled_log;
use crate::model::go::quote::quote;
use crate::model::{Error, Namespace, Result, image};
use crate::proxy::images::{Found, ProxyImages};
use crate::proxy::reconcile_queue::DueWork;
use crate::service::client::Client;
use crate::service::codec::{decode, encode};
use crate::store::{Kind, Records, Transaction};

/// How long after a list of namespaces failed it is asked for again.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// So many names are shown in a line of the log.
const MAX_SHOWN_NAMES: usize = 5;

/// So many characters of each.
const MAX_SHOWN_CHARS: usize = 100;

/// Reads again what is wanted, one namespace at a time, for as long as events come in. One that fails
/// waits for the next occasion.
pub async fn run(front: ProxyImages) {
    let mut listing = Listing::default();
    loop {
        let mut due = listing.due(&front).await;
        // In a gap it would be in vain; the end of the gap wants all again.
        if !front.sync_state().is_watching() {
            listing.again = None;
        } else if due.list {
            let names = listing.read(&front, due.all).await;
            if due.all {
                names.iter().for_each(|namespace| _ = front.sync_state().observe(namespace));
                due.namespaces.extend(names);
            }
        }
        for namespace in due.namespaces {
            if front.sync_state().is_watching() {
                match reconcile(&front, &namespace).await {
                    Ok(_) => {}
                    Err(e) => throttled_log!(Warn, "resync of namespace {namespace}: {e}"),
                }
            } else if !is_there(&front, &namespace) {
                front.sync_state().forget(&namespace);
            }
        }
    }
}

/// Reading the list of namespaces, again and again.
#[derive(Default)]
struct Listing {
    /// It failed, and is tried again then; with whether all images were wanted too.
    again: Option<(Instant, bool)>,
    /// What was last said in the log of it.
    said: String,
}

impl Listing {
    /// What is wanted next.
    async fn due(&self, front: &ProxyImages) -> DueWork {
        let Some((at, all)) = self.again else { return front.wanted().take().await };
        // A list that fails is not asked for more often, however many events there are.
        let mut due = timeout_at(at, front.wanted().take()).await.unwrap_or_default();
        due.all |= all;
        due.list |= due.all || Instant::now() >= at;
        due
    }

    /// The names of all namespaces; when they cannot be had, for the first time those that are known here.
    async fn read(&mut self, front: &ProxyImages, all: bool) -> Vec<Namespace> {
        if self.again.is_some_and(|(at, _)| Instant::now() < at) {
            self.again = self.again.map(|(at, before)| (at, before || all));
            return Vec::new();
        }
        let before = self.again.take();
        match namespaces(front).await {
            Ok((names, left_out)) => {
                let told = shown(&left_out);
                self.say(if left_out.is_empty() {
                    String::new()
                } else {
                    format!("namespaces of containerd with no valid name are left out: {told}")
                });
                names
            }
            Err(e) => {
                self.again = Some((Instant::now() + RETRY_INTERVAL, all));
                self.say(format!("the list of namespaces is not up to date: {e}"));
                let ours = || front.local().store().read(|snapshot| snapshot.namespaces());
                if before.is_none() { ours().unwrap_or_default() } else { Vec::new() }
            }
        }
    }

    fn say(&mut self, what: String) {
        if self.said != what {
            if !what.is_empty() {
                log::warn!("{what}");
            }
            self.said = what;
        }
    }
}

/// Some of the names, and how many more there are.
fn shown<'n>(names: impl IntoIterator<Item = &'n String>) -> String {
    let mut names = names.into_iter();
    let short = |name: &String| quote(name.chars().take(MAX_SHOWN_CHARS).collect::<String>());
    let some: Vec<_> = names.by_ref().take(MAX_SHOWN_NAMES).map(short).collect();
    match names.count() {
        0 => some.join(", "),
        more => format!("{} and {more} more", some.join(", ")),
    }
}

/// Whether LMDB has the namespace; that it has, if that cannot be read.
fn is_there(front: &ProxyImages, namespace: &Namespace) -> bool {
    front
        .local()
        .store()
        .read(|snapshot| Ok(snapshot.namespace(namespace)?.is_some()))
        .unwrap_or(true)
}

/// Makes the namespaces of LMDB those that containerd has, with their labels. One that is gone
/// there goes here too, unless it still has images: they are a resync's business. Gives all names, and
/// those of containerd's that are not valid and are left out.
async fn namespaces(front: &ProxyImages) -> Result<(Vec<Namespace>, BTreeSet<String>)> {
    let theirs = front.containerd().namespaces().await?;
    let mut records = std::collections::BTreeMap::new();
    let mut left_out = BTreeSet::new();
    for record in theirs {
        let Ok(namespace) = Namespace::parse(&record.name) else {
            left_out.insert(record.name);
            continue;
        };
        let known = Record { name: record.name, labels: record.labels, ..Record::default() };
        records.insert(namespace, encode(&known)?);
    }
    let mut all: Vec<_> = records.keys().cloned().collect();
    let work = move |change: &mut Transaction<'_>| {
        for (namespace, record) in &records {
            // A damaged one is mended by the copy.
            if !change.namespace(namespace).is_ok_and(|known| known == Some(record)) {
                change.put_namespace(namespace, record)?;
            }
        }
        let ours = change.namespaces()?;
        let (mut left, mut gone) = (Vec::new(), Vec::new());
        for namespace in ours.into_iter().filter(|ours| !records.contains_key(ours)) {
            if change.scan(&namespace, Kind::Image)?.next().is_none() {
                change.delete_namespace(&namespace)?;
                gone.push(namespace);
            } else {
                left.push(namespace);
            }
        }
        Ok((left, gone))
    };
    let (left, gone) = front.local().store().writer().write(work).await?;
    gone.iter().for_each(|namespace| front.sync_state().forget(namespace));
    all.extend(left);
    Ok((all, left_out))
}

/// Makes what LMDB has of a namespace what containerd has; says whether it is current now.
pub async fn reconcile(front: &ProxyImages, namespace: &Namespace) -> Result<bool> {
    // Each takes memory for the names of all images, and any client may begin a Transfer.
    let _place = front.resync_place().await;
    let mark = front.sync_state().begin_sync();
    let read = read_again(front, namespace).await;
    let ended = if is_there(front, namespace) {
        read.map(|()| front.sync_state().finish_sync(namespace, mark))
    } else {
        front.sync_state().forget(namespace);
        read.map(|()| false)
    };
    front.upstream().resynced(&ended);
    ended
}

async fn read_again(front: &ProxyImages, namespace: &Namespace) -> Result<()> {
    let hasher = RandomState::new();
    let mut theirs = HashMap::new();
    let mut left_out = BTreeSet::new();
    let mut listing = front.containerd().images(namespace);
    while let Some(images) = listing.next_that_fit(&mut left_out).await? {
        for image in images {
            let image = image::normalize_record(image);
            let hash = hasher.hash_one(encode(&image)?);
            theirs.insert(image.name, hash);
        }
    }
    let ours = ours(front, namespace, &hasher).await?;
    let mut one_by_one = OneByOne { front, namespace, left_out, failed: None };
    let mut gone = 0;
    for name in ours.keys().filter(|name| !theirs.contains_key(*name)) {
        // It may have been made after theirs were listed, or have been deleted since.
        let aside = !front.sync_state().watched_since_sync(namespace);
        let found = one_by_one.refresh(name, aside).await?;
        gone += usize::from(found == Some(Found::Removed) && aside);
    }
    if gone > 0 {
        throttled_log!(
            Warn,
            "namespace {namespace}: containerd no longer has {gone} of {} images; they are set aside",
            ours.len()
        );
    }
    for (name, hash) in &theirs {
        if ours.get(name) != Some(hash) {
            one_by_one.refresh(name, !front.sync_state().watched_since_sync(namespace)).await?;
        }
    }
    one_by_one.end()
}

/// Records that are read again one by one: one that cannot be is no reason to leave the others.
struct OneByOne<'f> {
    front: &'f ProxyImages,
    namespace: &'f Namespace,
    /// What no reply of containerd can carry: no read of it can be answered.
    left_out: BTreeSet<String>,
    /// Why another could not be read or kept: the first of these.
    failed: Option<Error>,
}

impl OneByOne<'_> {
    async fn refresh(&mut self, name: &str, aside: bool) -> Result<Option<Found>> {
        const TOO_LARGE: i32 = Code::ResourceExhausted as i32;
        match self.front.refresh(self.namespace, name, aside).await {
            Ok(found) => return Ok(Some(found)),
            // Nobody is there to be asked of the others.
            Err(e @ Error::Unavailable(_)) => return Err(e),
            Err(Error::Upstream(TOO_LARGE, _)) => _ = self.left_out.insert(name.to_owned()),
            // It is set aside: a Get of it asks containerd then, and all other records can be current.
            Err(Error::Upstream(code, why)) if !is_passing(code) => {
                let namespace = self.namespace;
                throttled_log!(
                    Warn,
                    "resync of namespace {namespace}: containerd refuses an image: {why}"
                );
                self.front.remove_record(namespace, name, true).await?;
            }
            Err(e) => {
                let why = || Error::Internal(format!("image {}: {e}", quote(name)));
                self.failed.get_or_insert_with(why);
            }
        }
        Ok(None)
    }

    fn end(self) -> Result<()> {
        let Self { front, namespace, left_out, failed } = self;
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(&left_out);
        if front.sync_state().is_news(namespace, hash) && !left_out.is_empty() {
            log::warn!(
                "namespace {namespace}: images that no reply of containerd can carry are left out: {}",
                shown(&left_out)
            );
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Whether containerd may answer otherwise when it is asked again.
fn is_passing(code: i32) -> bool {
    [Code::Unavailable, Code::Cancelled, Code::DeadlineExceeded].contains(&Code::from_i32(code))
}

async fn ours(
    front: &ProxyImages,
    namespace: &Namespace,
    hasher: &RandomState,
) -> Result<HashMap<String, u64>> {
    let (store, ns, hasher) = (front.local().store().clone(), namespace.clone(), hasher.clone());
    front
        .local()
        .pool()
        .run(Client::Own, move |_| {
            store.read(|snapshot| {
                let mut found = HashMap::new();
                for entry in snapshot.scan(&ns, Kind::Image)? {
                    // A damaged one is not like any of theirs, and is written anew.
                    let Ok(message) = entry?.message() else { continue };
                    let Ok(image) = decode::<image::Image>(message) else { continue };
                    found.insert(image.name, hasher.hash_one(message));
                }
                Ok(found)
            })
        })
        .await
}
