//! Import from containerd's bolt file (`meta.db`): after a failed upgrade, from a backup, or while
//! containerd runs.
//!
//! The command reads the whole file of a stopped containerd once before it writes. If a part of the file
//! cannot be read, it imports nothing, unless `salvage` asks for the readable records. If the list of
//! buckets or both meta pages are lost, `salvage` also looks for images at every page
//! ([`containerd_scan`]). The file of a running containerd is read with [`MetadataDatabase`], a few images at a
//! time, each group from one state.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use bbolt_read::FileAtRest;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::containerd_scan::{self, Guess, Scanned};
use super::containerd_schema::{self, FileItem, UnreadableRecord};
use super::{MAX_BATCH_RECORDS, Summary, open, put_images, put_namespace};
use crate::admin::{file, progress};
use crate::api::images::Image;
use crate::api::namespace::Namespace as Record;
use crate::containerd::database::{Bounded, MetadataDatabase};
use crate::model::{Error, Namespace, Result};
use crate::store::{Kind, Records, Store};

/// Number of unreadable places that an error names.
const MAX_NAMED_PLACES: usize = 10;

/// Result of an import.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Counts of the copied records.
    pub summary: Summary,
    /// Records that could not be read.
    pub(crate) unreadable: Vec<UnreadableRecord>,
    /// Images that a scan of every page found. Perhaps they are not containerd's last state.
    pub(crate) guesses: Vec<Guess>,
}

/// A bolt file.
#[derive(Debug)]
pub(crate) enum BoltFile {
    /// No containerd has it open, and the lock keeps containerd out.
    AtRest(Flock<File>),
    /// A running containerd has it open.
    Live(MetadataDatabase),
}

/// Copies the records of a bolt file into the store in `root`. With `salvage` it skips records that
/// cannot be read.
///
/// # Errors
/// `DataLoss` if the file is damaged and `salvage` is not set.
pub fn run(root: &Path, file: &Path, salvage: bool) -> Result<Outcome> {
    let locked = match open_file(file)? {
        BoltFile::AtRest(locked) => locked,
        BoltFile::Live(_) if salvage => {
            return Err(Error::FailedPrecondition(format!(
                "{} is in use by a running containerd, which --salvage cannot read around: stop \
                 containerd first, or leave --salvage out",
                file.display()
            )));
        }
        BoltFile::Live(database) => return run_live(root, &database),
    };
    let source: &File = &locked;
    check_length(file, source, salvage)?;
    let found = match containerd_schema::survey(source) {
        Err(Error::DataLoss(_) | Error::NotFound(_)) if salvage => return scan(root, file, source),
        found => found.map_err(|e| in_file(file, e))?,
    };
    if !found.unreadable.is_empty() && !salvage {
        return Err(damaged(file, &found));
    }
    if let Some(damage) = &found.notes.other_meta {
        log::warn!("{damage}; the other meta page is used: the last change may be missing");
    }
    for unknown in &found.notes.unknown {
        log::warn!("not imported, because this version does not know it: {unknown}");
    }
    let store = open(root)?;
    let progress = progress::counter("images");
    let mut copy = Copy::into(&store);
    let read = containerd_schema::read(source, |found| {
        match found {
            FileItem::Namespace(namespace, record) => {
                copy.flush()?;
                progress.set_message(format!("namespace {namespace}"));
                copy.summary.namespaces += 1;
                store.writer().write_blocking(put_namespace(&namespace, record)?)
            }
            FileItem::Image(namespace, image) => {
                progress.inc(1);
                copy.image(namespace, image)
            }
            // The survey above has already collected these.
            FileItem::Unreadable(_) => Ok(()),
        }
    });
    read.map_err(|e| in_file(file, e))?;
    copy.flush()?;
    progress.finish_and_clear();
    let mut guesses = Vec::new();
    if found.notes.list_is_damaged {
        let scanned = containerd_scan::scan(source).map_err(|e| in_file(file, e))?;
        guesses = copy.guesses(scanned)?;
    }
    Ok(Outcome { summary: copy.summary, unreadable: found.unreadable, guesses })
}

/// Copies the images that a scan of every page of the file finds.
fn scan(root: &Path, file: &Path, source: &File) -> Result<Outcome> {
    let scanned = containerd_scan::scan(source).map_err(|e| in_file(file, e))?;
    if scanned.images.is_empty() {
        return Err(Error::DataLoss(format!(
            "{} cannot be read, and none of its pages holds an image; nothing was imported",
            file.display()
        )));
    }
    let store = open(root)?;
    let mut copy = Copy { store: &store, images: Vec::new(), summary: Summary::default() };
    let guesses = copy.guesses(scanned)?;
    Ok(Outcome { summary: copy.summary, unreadable: Vec::new(), guesses })
}

fn run_live(root: &Path, database: &MetadataDatabase) -> Result<Outcome> {
    // Before opening the store, which creates it.
    let namespaces = database.namespaces()?;
    let store = open(root)?;
    let progress = progress::counter("images");
    let mut copy = Copy::into(&store);
    for record in namespaces {
        let namespace = Namespace::parse(&record.name)?;
        progress.set_message(format!("namespace {namespace}"));
        copy.summary.namespaces += 1;
        store.writer().write_blocking(put_namespace(&namespace, record)?)?;
        each_image(database, &namespace, |image| {
            progress.inc(1);
            copy.image(namespace.clone(), image)
        })?;
        copy.flush()?;
    }
    progress.finish_and_clear();
    Ok(Outcome { summary: copy.summary, ..Outcome::default() })
}

/// Calls `each` for the images of a namespace in order of their names.
///
/// # Errors
/// The database cannot be read, or `each` fails.
pub(crate) fn each_image(
    database: &MetadataDatabase,
    namespace: &Namespace,
    mut each: impl FnMut(Image) -> Result<()>,
) -> Result<()> {
    let mut from = Some(Vec::new());
    while let Some(start) = from {
        let Bounded::Read(step) = database.images_from(namespace, &start, u64::MAX)? else {
            return Err(Error::Internal("a read without a bound was too large".into()));
        };
        step.images.into_iter().try_for_each(&mut each)?;
        from = step.next;
    }
    Ok(())
}

/// Collects images of one namespace and writes them in batches.
struct Copy<'s> {
    store: &'s Store,
    images: Vec<(Namespace, Image)>,
    summary: Summary,
}

impl<'s> Copy<'s> {
    fn into(store: &'s Store) -> Self {
        Self { store, images: Vec::new(), summary: Summary::default() }
    }

    fn image(&mut self, namespace: Namespace, image: Image) -> Result<()> {
        self.images.push((namespace, image));
        if self.images.len() < MAX_BATCH_RECORDS { Ok(()) } else { self.flush() }
    }

    /// Writes the images that the store does not have, and returns them.
    fn guesses(&mut self, scanned: Scanned) -> Result<Vec<Guess>> {
        let missing = self.store.read(|snapshot| {
            let mut missing = Vec::new();
            for guess in scanned.images {
                let known = snapshot.record(&guess.namespace, Kind::Image, &guess.image.name);
                if matches!(known, Ok(None)) {
                    missing.push(guess);
                }
            }
            Ok(missing)
        })?;
        let mut last = None;
        for guess in &missing {
            let namespace = &guess.namespace;
            if last != Some(namespace) {
                self.flush()?;
                self.namespace(namespace, scanned.namespaces.get(namespace))?;
                last = Some(namespace);
            }
            self.image(namespace.clone(), guess.image.clone())?;
        }
        self.flush()?;
        Ok(missing)
    }

    /// Makes a namespace, unless the store has it.
    fn namespace(
        &mut self,
        namespace: &Namespace,
        labels: Option<&BTreeMap<String, String>>,
    ) -> Result<()> {
        if self.store.read(|snapshot| Ok(snapshot.namespace(namespace)?.is_some()))? {
            return Ok(());
        }
        self.summary.namespaces += 1;
        let labels = labels.cloned().unwrap_or_default();
        let record = Record { name: namespace.to_string(), labels, ..Record::default() };
        self.store.writer().write_blocking(put_namespace(namespace, record)?)
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

/// Opens the file with a shared lock that bolt respects, so that no containerd can write to it
/// meanwhile. If a containerd has the file open, opens it for reads beside that writer.
///
/// # Errors
/// The file cannot be opened, or cannot be read beside its writer.
pub(crate) fn open_file(path: &Path) -> Result<BoltFile> {
    let file = match path.is_dir() {
        true => {
            return Err(Error::InvalidArgument(format!(
                "{} is a folder; in containerd's root the file is io.containerd.metadata.v1.bolt/meta.db",
                path.display()
            )));
        }
        false => file::open_to_read(path)?,
    };
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(locked) => Ok(BoltFile::AtRest(locked)),
        Err((_, Errno::EWOULDBLOCK)) => {
            // Only the file itself is opened, not a link to it.
            let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
            let open = MetadataDatabase::open(&path).and_then(|database| {
                database.check_is_locked()?;
                Ok(BoltFile::Live(database))
            });
            open.map_err(|why| {
                Error::FailedPrecondition(format!(
                    "the file is in use by a running containerd: {why}; copy its records with \
                     --containerd SOCKET, or stop containerd first"
                ))
            })
        }
        Err((_, e)) => Err(Error::Unavailable(format!("cannot lock {}: {e}", path.display()))),
    }
}

/// Refuses an empty file, and a file that ends before its last page unless `salvage` is set.
fn check_length(path: &Path, file: &File, salvage: bool) -> Result<()> {
    let failed = |e: std::io::Error| Error::Unavailable(format!("reading {}: {e}", path.display()));
    let length = file.metadata().map_err(failed)?.len();
    if length == 0 {
        return Err(Error::DataLoss(format!(
            "{} is empty: it has no bolt database in it; name containerd's meta.db or a backup of it",
            path.display()
        )));
    }
    let needed = match FileAtRest::open(file) {
        Ok(opened) => opened.snapshot().min_length(),
        // The survey that follows reports the damage.
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
    let lost = &found.unreadable;
    let mut text = format!("{} is damaged; nothing was imported", file.display());
    for place in lost.iter().take(MAX_NAMED_PLACES) {
        text += &format!("; {place}");
    }
    if lost.len() > MAX_NAMED_PLACES {
        text += &format!("; and {} more", lost.len() - MAX_NAMED_PLACES);
    }
    text += &format!(
        "; --salvage imports the readable records: {} images in {} namespaces",
        found.images, found.namespaces
    );
    Error::DataLoss(text)
}
