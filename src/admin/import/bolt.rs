//! Importing from containerd's bolt file (`meta.db`), with no containerd running: after an upgrade that
//! went wrong, or from a backup.
//!
//! The whole file is read once before anything is written. If something in it cannot be read, nothing
//! is imported, unless what can be read is asked for.

use std::fs::File;
use std::path::Path;

use bbolt_read::FileAtRest;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::containerd_schema::{self, Found, Unread};
use super::{BATCH, Summary, open, progress, put_images, put_namespace};
use crate::admin::file;
use crate::api::images::Image;
use crate::model::{Error, Namespace, Result};
use crate::store::Store;

/// So many places that cannot be read are named in an error.
const NAMED: usize = 10;

/// What an import did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was copied.
    pub summary: Summary,
    /// What could not be read.
    pub lost: Vec<Unread>,
}

/// Copies what the bolt file has into the store in `root`. With `salvage` also out of a file of which
/// some places cannot be read.
pub fn run(root: &Path, file: &Path, salvage: bool) -> Result<Outcome> {
    let locked = lock(file)?;
    let source: &File = &locked;
    check_length(file, source, salvage)?;
    let found = containerd_schema::survey(source).map_err(|e| in_file(file, e))?;
    if !found.lost.is_empty() && !salvage {
        return Err(damaged(file, &found));
    }
    if let Some(damage) = &found.notes.other_meta {
        log::warn!("{damage}; the other meta page is used: the last change may be missing");
    }
    for unknown in &found.notes.unknown {
        log::warn!("not imported, as it is not known here: {unknown}");
    }
    let store = open(root)?;
    let progress = progress();
    let mut copy = Copy { store: &store, images: Vec::new(), summary: Summary::default() };
    let read = containerd_schema::read(source, |found| {
        match found {
            Found::Namespace(namespace, record) => {
                copy.flush()?;
                progress.set_message(format!("namespace {namespace}"));
                copy.summary.namespaces += 1;
                store.writer().write_blocking(put_namespace(&namespace, record)?)
            }
            Found::Image(namespace, image) => {
                progress.inc(1);
                copy.image(namespace, image)
            }
            // Known since the file was read first.
            Found::Lost(_) => Ok(()),
        }
    });
    read.map_err(|e| in_file(file, e))?;
    copy.flush()?;
    progress.finish_and_clear();
    Ok(Outcome { summary: copy.summary, lost: found.lost })
}

/// Gathers images of one namespace into transactions.
struct Copy<'s> {
    store: &'s Store,
    images: Vec<(Namespace, Image)>,
    summary: Summary,
}

impl Copy<'_> {
    fn image(&mut self, namespace: Namespace, image: Image) -> Result<()> {
        self.images.push((namespace, image));
        if self.images.len() < BATCH { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<()> {
        let Some((namespace, _)) = self.images.first() else { return Ok(()) };
        let namespace = namespace.clone();
        let images = self.images.drain(..).map(|(_, image)| image).collect();
        let counts = self.store.writer().write_blocking(put_images(&namespace, images)?)?;
        self.summary.add(counts);
        Ok(())
    }
}

/// Opens the file with a lock that bolt respects: while it is held, no containerd writes into it.
fn lock(path: &Path) -> Result<Flock<File>> {
    let file = match path.is_dir() {
        true => {
            return Err(Error::InvalidArgument(format!(
                "{} is a folder; in containerd's root the file is io.containerd.metadata.v1.bolt/meta.db",
                path.display()
            )));
        }
        false => file::open_to_read(path)?,
    };
    Flock::lock(file, FlockArg::LockSharedNonblock).map_err(|(_, e)| match e {
        Errno::EWOULDBLOCK => Error::FailedPrecondition(format!(
            "{} is in use by a running containerd: copy its records with --containerd SOCKET while it \
             runs, or stop it first. A copy of the file made while it runs may be torn",
            path.display()
        )),
        e => Error::Unavailable(format!("cannot lock {}: {e}", path.display())),
    })
}

/// Refuses a file without content, and one that ends before its last page, unless what is left of it is
/// asked for.
fn check_length(path: &Path, file: &File, salvage: bool) -> Result<()> {
    let told = |e: std::io::Error| Error::Unavailable(format!("reading {}: {e}", path.display()));
    let length = file.metadata().map_err(told)?.len();
    if length == 0 {
        return Err(Error::DataLoss(format!(
            "{} is empty: it has no bolt database in it; name containerd's meta.db or a backup of it",
            path.display()
        )));
    }
    let needed = match FileAtRest::open(file) {
        Ok(opened) => opened.snapshot().min_length(),
        // The reader says what is wrong with it.
        Err(_) => return Ok(()),
    };
    if length < needed && !salvage {
        return Err(Error::DataLoss(format!(
            "{} is cut off: it has {length} bytes, and its last state needs {needed}; nothing was \
             imported. Name a whole copy, or import what can be read of this one with --salvage",
            path.display()
        )));
    }
    Ok(())
}

fn in_file(file: &Path, error: Error) -> Error {
    match error {
        Error::DataLoss(why) => Error::DataLoss(format!(
            "{} cannot be read: {why}; nothing was imported",
            file.display()
        )),
        Error::NotFound(why) => {
            Error::NotFound(format!("{}: {why}; nothing was imported", file.display()))
        }
        other => other,
    }
}

fn damaged(file: &Path, found: &containerd_schema::Survey) -> Error {
    let lost = &found.lost;
    let mut text = format!("{} is damaged; nothing was imported", file.display());
    for place in lost.iter().take(NAMED) {
        text += &format!("; {place}");
    }
    if lost.len() > NAMED {
        text += &format!("; and {} more", lost.len() - NAMED);
    }
    text += &format!(
        "; --salvage imports what can be read: {} images in {} namespaces",
        found.images, found.namespaces
    );
    Error::DataLoss(text)
}
