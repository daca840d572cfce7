//! Bringing a namespace of LMDB to what containerd has.
//!
//! What containerd lists is only a hint: by the time it is compared, things may have changed. Each
//! difference is read again under its lock, and that is applied. An image that containerd no
//! longer has after a gap in its events is set aside, not deleted: a containerd whose database was
//! lost or replaced must not take the last copy with it. Without a gap it is the containerd that
//! was there before, and somebody deleted the image.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use tokio::sync::mpsc;
use tonic::Code;

use super::images::Front;
use crate::api::namespace::Namespace as Record;
use crate::model::{Error, Namespace, Result, image};
use crate::service::message::{decode, encode};
use crate::store::{Change, Kind, Records};

/// Resyncs the namespaces that come out of `due`, one at a time, for as long as events come in. One
/// that fails waits for the next occasion.
pub async fn run(front: Front, mut due: mpsc::UnboundedReceiver<Namespace>) {
    while let Some(first) = due.recv().await {
        let mut namespaces = vec![first];
        while let Ok(more) = due.try_recv() {
            namespaces.push(more);
        }
        namespaces.sort();
        namespaces.dedup();
        for namespace in namespaces {
            // In a gap it would be in vain; the end of the gap wants it again.
            if !front.spaces().is_following() {
                continue;
            }
            match resync(&front, &namespace).await {
                Ok(_) => {}
                Err(e) => log::warn!("resync of namespace {namespace}: {e}"),
            }
        }
    }
}

/// Makes the namespaces of LMDB those that containerd has, with their labels. One that is gone
/// there goes here too, unless it still has images: they are a resync's business.
pub async fn namespaces(front: &Front) -> Result<Vec<Namespace>> {
    let theirs = front.containerd().namespaces().await?;
    let mut records = Vec::new();
    for record in theirs {
        let known = Record { name: record.name, labels: record.labels, ..Record::default() };
        records.push((Namespace::parse(&known.name)?, encode(&known)?));
    }
    let mut all: Vec<_> = records.iter().map(|(namespace, _)| namespace.clone()).collect();
    let work = move |change: &mut Change<'_>| {
        for (namespace, record) in &records {
            if change.namespace(namespace)? != Some(record) {
                change.put_namespace(namespace, record)?;
            }
        }
        let ours = change.namespaces()?;
        let gone = ours.into_iter().filter(|ours| !records.iter().any(|(n, _)| n == ours));
        let mut left = Vec::new();
        for namespace in gone {
            if change.walk(&namespace, Kind::Image)?.next().is_none() {
                change.delete_namespace(&namespace)?;
            } else {
                left.push(namespace);
            }
        }
        Ok(left)
    };
    all.extend(front.local().store().writer().write(work).await?);
    Ok(all)
}

/// Makes what LMDB has of a namespace what containerd has; says whether it is current now.
pub async fn resync(front: &Front, namespace: &Namespace) -> Result<bool> {
    let ended = read_again(front, namespace).await;
    front.upstream().resynced(&ended);
    ended
}

async fn read_again(front: &Front, namespace: &Namespace) -> Result<bool> {
    let mark = front.spaces().mark(namespace);
    let hasher = RandomState::new();
    let mut theirs = HashMap::new();
    let mut listing = front.containerd().images(namespace);
    loop {
        let images = match listing.next().await {
            Ok(Some(images)) => images,
            Ok(None) => break,
            // No client can read it either, and it must not keep the others from being current.
            Err(Error::ResourceExhausted(why)) => {
                log::warn!("resync of namespace {namespace} leaves an image out: {why}");
                continue;
            }
            Err(e) => return Err(e),
        };
        for image in images {
            let image = image::from_record(image);
            let hash = hasher.hash_one(encode(&image)?);
            theirs.insert(image.name, hash);
        }
    }
    let ours = ours(front, namespace, &hasher).await?;
    let mut gone = 0;
    for name in ours.keys().filter(|name| !theirs.contains_key(*name)) {
        // It may have been made after theirs were listed, or have been deleted since.
        let aside = !front.spaces().is_followed(namespace);
        gone += usize::from(read_record(front, namespace, name, aside).await? && aside);
    }
    if gone > 0 {
        log::warn!(
            "namespace {namespace}: containerd no longer has {gone} of {} images; they are set aside",
            ours.len()
        );
    }
    for (name, hash) in &theirs {
        if ours.get(name) != Some(hash) {
            let aside = !front.spaces().is_followed(namespace);
            read_record(front, namespace, name, aside).await?;
        }
    }
    Ok(front.spaces().settle(namespace, mark))
}

/// Reads one record again; says whether it went. One that containerd refuses to give is set aside: a Get of
/// it asks containerd then, and all other records can be current.
async fn read_record(
    front: &Front,
    namespace: &Namespace,
    name: &str,
    aside: bool,
) -> Result<bool> {
    match front.refresh(namespace, name, aside).await {
        Err(Error::Answered(code, why)) if !is_passing(code) => {
            log::warn!("resync of namespace {namespace}: containerd refuses an image: {why}");
            front.drop_record(namespace, name, true).await
        }
        refreshed => refreshed,
    }
}

/// Whether containerd may answer otherwise when it is asked again.
fn is_passing(code: i32) -> bool {
    [Code::Unavailable, Code::Cancelled, Code::DeadlineExceeded].contains(&Code::from_i32(code))
}

async fn ours(
    front: &Front,
    namespace: &Namespace,
    hasher: &RandomState,
) -> Result<HashMap<String, u64>> {
    let (store, ns, hasher) = (front.local().store().clone(), namespace.clone(), hasher.clone());
    front
        .local()
        .pooled(move || {
            store.read(|snapshot| {
                let mut found = HashMap::new();
                for entry in snapshot.walk(&ns, Kind::Image)? {
                    // A damaged one is not like any of theirs, and is written anew.
                    let Ok(message) = entry?.message() else { continue };
                    let image: image::Image = decode(message)?;
                    found.insert(image.name, hasher.hash_one(message));
                }
                Ok(found)
            })
        })
        .await
}
