//! Reconciliation: makes a namespace in LMDB equal to containerd's.
//!
//! A reconciliation finds the differing records by containerd's database. If the database cannot be read, it
//! finds them by a List. A record may change after that. So the reconciler reads each differing record again
//! under its lock, and applies the result. If containerd lacks an image after a gap in its events, the copy is
//! set aside, and not deleted: a containerd with a lost or replaced database must not destroy the last copy.
//! Without a gap, it is the same containerd as before, and a client has deleted the image.
//!
//! The reconciler skips a namespace or a record that LMDB cannot store, and logs it once: any client
//! of containerd may have made it, and it must not block the others.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use go_compat::quote::quote;
use tokio::time::{Instant, timeout_at};
use tonic::Code;

use crate::api::namespace::Namespace as Record;
use crate::limits::client::Client;
use crate::log_throttle::throttled_log;
use crate::model::{Error, Namespace, Result, image};
use crate::proxy::compare::compare;
use crate::proxy::copy::{Refreshed, Removal};
use crate::proxy::images::ProxyImages;
use crate::proxy::live::LiveFiles;
use crate::proxy::reconcile_queue::DueWork;
use crate::service::cancel::Cancel;
use crate::service::codec::{decode, encode};
use crate::store::{Cause, Kind, Origin, Records, Transaction};

/// The pause after a failed list of namespaces.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// The most comparisons of one reconciliation. If the namespace still differs then, the next event or List
/// compares it again.
const MAX_ROUNDS: usize = 1000;

/// The most names in a log line.
const MAX_LOGGED_NAMES: usize = 5;

/// The most characters of each name in a log line.
const MAX_LOGGED_CHARS: usize = 100;

/// Reconciles the scheduled namespaces, one at a time, while events arrive. A namespace that fails
/// waits until it is scheduled again.
pub async fn run(proxy: ProxyImages) {
    let mut listing = Listing::default();
    loop {
        let mut due = listing.due(&proxy).await;
        // In a gap, reconciling is useless: the end of the gap schedules everything.
        if !proxy.sync_state().is_watching() {
            listing.retry = None;
        } else if due.list {
            let names = listing.read(&proxy, due.all).await;
            if due.all {
                names.iter().for_each(|namespace| _ = proxy.sync_state().observe(namespace));
                due.namespaces.extend(names);
            }
        }
        for namespace in due.namespaces {
            if proxy.sync_state().is_watching() {
                match reconcile(&proxy, &namespace).await {
                    Ok(_) => {}
                    Err(e) => throttled_log!(Warn, "reconciling namespace {namespace}: {e}"),
                }
            } else if !is_stored(&proxy, &namespace) {
                proxy.sync_state().forget(&namespace);
            }
        }
    }
}

/// Reads the list of namespaces, and retries after a failure.
#[derive(Default)]
struct Listing {
    /// After a failure: the time of the retry, and whether all images are scheduled too.
    retry: Option<(Instant, bool)>,
    /// The last log line about the list.
    last_logged: String,
}

impl Listing {
    /// Waits for the next work.
    async fn due(&self, proxy: &ProxyImages) -> DueWork {
        let Some((at, all)) = self.retry else { return proxy.reconcile_queue().take().await };
        // Events do not shorten the pause after a failure.
        let mut due = timeout_at(at, proxy.reconcile_queue().take()).await.unwrap_or_default();
        due.all |= all;
        due.list |= due.all || Instant::now() >= at;
        due
    }

    /// The names of all namespaces. After the first failure, the names that LMDB has; after further
    /// failures, none.
    async fn read(&mut self, proxy: &ProxyImages, all: bool) -> Vec<Namespace> {
        if self.retry.is_some_and(|(at, _)| Instant::now() < at) {
            self.retry = self.retry.map(|(at, before)| (at, before || all));
            return Vec::new();
        }
        let before = self.retry.take();
        match namespaces(proxy).await {
            Ok((names, left_out)) => {
                let names_left_out = summary(&left_out);
                self.log(if left_out.is_empty() {
                    String::new()
                } else {
                    format!(
                        "namespaces of containerd with no valid name are left out: {names_left_out}"
                    )
                });
                names
            }
            Err(e) => {
                self.retry = Some((Instant::now() + RETRY_INTERVAL, all));
                self.log(format!("the list of namespaces is not up to date: {e}"));
                let ours = || proxy.local().store().read(|snapshot| snapshot.namespaces());
                if before.is_none() { ours().unwrap_or_default() } else { Vec::new() }
            }
        }
    }

    /// Logs `line` if it differs from the last one.
    fn log(&mut self, line: String) {
        if self.last_logged != line {
            if !line.is_empty() {
                log::warn!("{line}");
            }
            self.last_logged = line;
        }
    }
}

/// The first names, and the number of the others.
fn summary<'n>(names: impl IntoIterator<Item = &'n String>) -> String {
    let mut names = names.into_iter();
    let short = |name: &String| quote(name.chars().take(MAX_LOGGED_CHARS).collect::<String>());
    let some: Vec<_> = names.by_ref().take(MAX_LOGGED_NAMES).map(short).collect();
    match names.count() {
        0 => some.join(", "),
        more => format!("{} and {more} more", some.join(", ")),
    }
}

/// Whether LMDB has the namespace. True if LMDB cannot be read.
fn is_stored(proxy: &ProxyImages, namespace: &Namespace) -> bool {
    proxy
        .local()
        .store()
        .read(|snapshot| Ok(snapshot.namespace(namespace)?.is_some()))
        .unwrap_or(true)
}

/// Makes the namespaces and labels in LMDB equal to containerd's. A namespace that containerd lacks is
/// deleted from LMDB, unless LMDB still has images of it. Only [`reconcile`] may remove those images. Images
/// that are set aside keep the namespace too, so that they can come back with its labels. Returns all names,
/// and the invalid names of containerd, which it skips.
async fn namespaces(proxy: &ProxyImages) -> Result<(Vec<Namespace>, BTreeSet<String>)> {
    let theirs = proxy.containerd().namespaces().await?;
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
            // Storing the record again repairs a damaged one.
            if !change.namespace(namespace).is_ok_and(|known| known == Some(record)) {
                change.put_namespace(namespace, record)?;
            }
        }
        let (ours, aside) = (change.namespaces()?, change.aside_by_namespace()?);
        let (mut left, mut gone) = (Vec::new(), Vec::new());
        for namespace in ours.into_iter().filter(|ours| !records.contains_key(ours)) {
            let is_empty = change.scan(&namespace, Kind::Image)?.next().is_none();
            if is_empty && !aside.contains_key(namespace.as_str()) {
                change.delete_namespace(&namespace)?;
                gone.push(namespace);
            } else {
                left.push(namespace);
            }
        }
        Ok((left, gone))
    };
    let (left, gone) = proxy.local().store().writer().write(work).await?;
    gone.iter().for_each(|namespace| proxy.sync_state().forget(namespace));
    all.extend(left);
    Ok((all, left_out))
}

/// Makes a namespace in LMDB equal to containerd's. Returns whether no event was missed.
///
/// # Errors
/// The first error of containerd or of the store; the other records are reconciled all the same.
pub async fn reconcile(proxy: &ProxyImages, namespace: &Namespace) -> Result<bool> {
    // A reconciliation takes memory for the names of all images, and any client may start one by a
    // Transfer.
    let _permit = proxy.reconcile_permit().await;
    let gaps = proxy.sync_state().begin_sync();
    let read = read_differences(proxy, namespace).await;
    let ended = if is_stored(proxy, namespace) {
        read.map(|()| proxy.sync_state().finish_sync(namespace, gaps))
    } else {
        proxy.sync_state().forget(namespace);
        read.map(|()| false)
    };
    proxy.upstream().resynced(&ended);
    ended
}

async fn read_differences(proxy: &ProxyImages, namespace: &Namespace) -> Result<()> {
    match proxy.live() {
        Some(files) => match read_database(proxy, namespace, files).await {
            Err(Error::Unavailable(_)) => read_list(proxy, namespace).await,
            read => read,
        },
        None => read_list(proxy, namespace).await,
    }
}

/// Finds the differences in containerd's database.
async fn read_database(
    proxy: &ProxyImages,
    namespace: &Namespace,
    files: Arc<LiveFiles>,
) -> Result<()> {
    let mut set_aside = 0;
    // Each round finds a bounded number of names, and the records that changed during the round before.
    for _ in 0..MAX_ROUNDS {
        let (store, ns) = (proxy.local().store().clone(), namespace.clone());
        let files = Arc::clone(&files);
        let work = move |mut cancel: Cancel| {
            store.read(|snapshot| {
                let found = compare(&files.database, &ns, snapshot, &mut cancel)?;
                files.comparisons.remember(&ns, snapshot, &found);
                Ok((found.ours, found.differing))
            })
        };
        let (ours, differing) = proxy.local().pool().run(Client::Own, work).await?;
        if differing.is_empty() {
            break;
        }
        let round = proxy.refresh_all(Origin::ORIGIN_RESYNC, namespace, differing).await?;
        set_aside += round;
        if round > 0 {
            log_set_aside(namespace, set_aside, ours);
        }
    }
    Ok(())
}

fn log_set_aside(namespace: &Namespace, gone: usize, ours: usize) {
    throttled_log!(
        Warn,
        "namespace {namespace}: containerd no longer has {gone} of {ours} images; they are set aside"
    );
}

/// Finds the differences in a List of containerd.
pub(super) async fn read_list(proxy: &ProxyImages, namespace: &Namespace) -> Result<()> {
    let hasher = RandomState::new();
    let mut theirs = HashMap::new();
    let mut left_out = BTreeSet::new();
    let mut listing = proxy.containerd().images(namespace);
    while let Some(images) = listing.next_that_fit(&mut left_out).await? {
        for image in images {
            let image = image::normalize_record(image);
            let hash = hasher.hash_one(encode(&image)?);
            theirs.insert(image.name, hash);
        }
    }
    let ours = ours(proxy, namespace, &hasher).await?;
    let mut refresher = Refresher { proxy, namespace, left_out, failed: None };
    let mut gone = 0;
    for name in ours.keys().filter(|name| !theirs.contains_key(*name)) {
        // A client may have created the image after containerd listed its images, or deleted it since.
        let removal = proxy.removal_in(namespace);
        let found = refresher.refresh(name, removal).await?;
        let is_set_aside = removal == Removal::SetAside && found == Some(Refreshed::Removed);
        gone += usize::from(is_set_aside);
    }
    if gone > 0 {
        log_set_aside(namespace, gone, ours.len());
    }
    for (name, hash) in &theirs {
        if ours.get(name) != Some(hash) {
            refresher.refresh(name, proxy.removal_in(namespace)).await?;
        }
    }
    refresher.finish()
}

/// Refreshes records one by one. A failed record does not stop the others.
struct Refresher<'f> {
    proxy: &'f ProxyImages,
    namespace: &'f Namespace,
    /// The images that are too large for a reply of containerd: no client can read them.
    left_out: BTreeSet<String>,
    /// The first error of another record.
    failed: Option<Error>,
}

impl Refresher<'_> {
    async fn refresh(&mut self, name: &str, removal: Removal) -> Result<Option<Refreshed>> {
        const TOO_LARGE: i32 = Code::ResourceExhausted as i32;
        match self.proxy.refresh_as(Origin::ORIGIN_RESYNC, self.namespace, name, removal).await {
            Ok(found) => return Ok(Some(found)),
            // containerd does not answer, so the other records would fail as well.
            Err(e @ Error::Unavailable(_)) => return Err(e),
            Err(Error::Upstream(TOO_LARGE, _)) => _ = self.left_out.insert(name.to_owned()),
            // Setting the image aside makes a Get call containerd, and lets the namespace be synced.
            Err(Error::Upstream(code, why)) if !is_transient(code) => {
                let namespace = self.namespace;
                throttled_log!(
                    Warn,
                    "reconciling namespace {namespace}: containerd refuses an image: {why}"
                );
                let cause = Cause::own(Origin::ORIGIN_RESYNC);
                self.proxy.remove_record(cause, namespace, name, Removal::SetAside).await?;
            }
            Err(e) => {
                let why = || Error::Internal(format!("image {}: {e}", quote(name)));
                self.failed.get_or_insert_with(why);
            }
        }
        Ok(None)
    }

    fn finish(self) -> Result<()> {
        let Self { proxy, namespace, left_out, failed } = self;
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(&left_out);
        if proxy.sync_state().record_skipped(namespace, hash) && !left_out.is_empty() {
            log::warn!(
                "namespace {namespace}: images that no reply of containerd can carry are left out: {}",
                summary(&left_out)
            );
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Whether containerd may answer differently on a retry.
fn is_transient(code: i32) -> bool {
    [Code::Unavailable, Code::Cancelled, Code::DeadlineExceeded].contains(&Code::from_i32(code))
}

async fn ours(
    proxy: &ProxyImages,
    namespace: &Namespace,
    hasher: &RandomState,
) -> Result<HashMap<String, u64>> {
    let (store, ns, hasher) = (proxy.local().store().clone(), namespace.clone(), hasher.clone());
    proxy
        .local()
        .pool()
        .run(Client::Own, move |_| {
            store.read(|snapshot| {
                let mut found = HashMap::new();
                for entry in snapshot.scan(&ns, Kind::Image)? {
                    // A damaged record differs from containerd's, so the reconciler stores it again.
                    let Ok(message) = entry?.message() else { continue };
                    let Ok(image) = decode::<image::Image>(message) else { continue };
                    found.insert(image.name, hasher.hash_one(message));
                }
                Ok(found)
            })
        })
        .await
}
