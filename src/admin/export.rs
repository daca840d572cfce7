//! `lmdb-images export`: puts the records of the store into a containerd: the way out.
//!
//! It reads beside the daemon or without one. An image goes where its content is: containerd lets a
//! name be made for content that it does not have, and such a name helps nobody. What containerd
//! has of another kind under the same name is left, unless it is to be overwritten: its record may
//! be the newer one, and the last that keeps its content from the collector. Nothing is removed.
//!
//! Times: of a record that it makes, containerd 1.7 and later take both, 1.6 sets its own. One that is
//! overwritten keeps the time of creation that it has there. Records that differ in their times alone
//! are the same here.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use protobuf::MessageField;

use super::containerd::{answer, is_there};
use crate::api::images::Image;
use crate::api::namespace::Namespace as Record;
use crate::containerd::client::GrpcClient;
use crate::model::{Error, Namespace, Result, image};
use crate::service::codec::decode;
use crate::store::{Kind, ReadOnlyStore, Records};

/// What may be done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Replace what containerd has of the same name.
    pub overwrite: bool,
    /// Change nothing, and say what would be done.
    pub dry_run: bool,
}

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// containerd did not have it, and has it now.
    Created,
    /// containerd had another one of that name, and has this one now.
    Overwritten,
    /// Left: containerd has another one of that name.
    Different,
    /// Left: containerd does not have the content of this digest.
    NoContent(String),
    /// Left: containerd refused it, with this sentence.
    Refused(String),
    /// Left: the call failed, for this reason, and not because containerd is gone.
    Failed(String),
    /// Left: the record is damaged in the store.
    Damaged,
}

/// A record that containerd did not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its namespace.
    pub namespace: String,
    /// The name of the image; nothing for the namespace itself.
    pub name: Option<String>,
    /// What became of it.
    pub what: What,
    /// Nothing was changed: it is what would become of it.
    pub dry_run: bool,
}

impl Outcome {
    /// Whether containerd does not have the record.
    pub fn is_left(&self) -> bool {
        !matches!(self.what, What::Created | What::Overwritten)
    }

    /// As a line of JSON.
    pub fn json(&self) -> String {
        let what = match &self.what {
            What::Created => "created",
            What::Overwritten => "overwritten",
            What::Different => "different",
            What::NoContent(_) => "no-content",
            What::Refused(_) => "refused",
            What::Failed(_) => "failed",
            What::Damaged => "damaged",
        };
        let detail = match &self.what {
            What::NoContent(detail) | What::Refused(detail) | What::Failed(detail) => Some(detail),
            _ => None,
        };
        let (namespace, name) = (&self.namespace, &self.name);
        serde_json::json!({
            "namespace": namespace, "name": name, "result": what, "detail": detail,
            "dry_run": self.dry_run,
        })
        .to_string()
    }
}

/// What became of the record, in words.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let would = if self.dry_run { "would be " } else { "" };
        match &self.what {
            What::Created => write!(f, "{would}created"),
            What::Overwritten => write!(f, "{would}overwritten"),
            What::Different => f.write_str("left: containerd has another one; see --overwrite"),
            What::NoContent(digest) => write!(f, "left: containerd does not have {digest}"),
            What::Refused(why) => write!(f, "left: containerd says: {why}"),
            What::Failed(why) => write!(f, "left: {why}"),
            What::Damaged => f.write_str("left: the record is damaged in the store"),
        }
    }
}

/// What an export did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Images of the store.
    pub images: u64,
    /// Namespaces of the store.
    pub namespaces: u64,
    /// Images that containerd has now and did not have.
    pub created: u64,
    /// Images that containerd had otherwise.
    pub overwritten: u64,
    /// Images that containerd had already.
    pub unchanged: u64,
    /// Images, and labels of namespaces, that containerd does not have.
    pub left: u64,
    /// Of the images written, how many have not the times that they had.
    pub new_times: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { images, namespaces, created, overwritten, unchanged, left, new_times } = self;
        write!(
            f,
            "{images} images in {namespaces} namespaces: {created} created, {overwritten} overwritten, \
             {unchanged} unchanged, {left} left"
        )?;
        if *new_times > 0 {
            write!(f, "; {new_times} with other times than in the store")?;
        }
        Ok(())
    }
}

/// Puts what the store in `root` has into the containerd behind `socket`, and tells `each` of every
/// record that containerd did not have.
pub async fn run(
    root: &Path,
    socket: &Path,
    options: Options,
    each: impl FnMut(Outcome),
) -> Result<Summary> {
    let store = ReadOnlyStore::open(root)?;
    let containerd = GrpcClient::connect(socket).await?;
    let theirs = answer(&containerd, containerd.namespaces()).await?;
    let theirs = theirs.into_iter().map(|record| (record.name, record.labels)).collect();
    let mut export =
        Export { store, containerd, theirs, options, summary: Summary::default(), each };
    for namespace in export.store.read(|s| s.namespaces())? {
        if let Err(e) = export.namespace(&namespace).await {
            return Err(Error::Unavailable(format!(
                "{e}; the export ended there, after {}; run it again for the rest",
                export.summary
            )));
        }
    }
    Ok(export.summary)
}

struct Export<F> {
    store: ReadOnlyStore,
    containerd: GrpcClient,
    /// The namespaces of containerd, with their labels.
    theirs: BTreeMap<String, BTreeMap<String, String>>,
    options: Options,
    summary: Summary,
    each: F,
}

impl<F: FnMut(Outcome)> Export<F> {
    fn tell(&mut self, namespace: &Namespace, name: Option<&str>, what: What) {
        let outcome = Outcome {
            namespace: namespace.to_string(),
            name: name.map(str::to_owned),
            what,
            dry_run: self.options.dry_run,
        };
        self.summary.left += u64::from(outcome.is_left());
        (self.each)(outcome);
    }

    async fn namespace(&mut self, namespace: &Namespace) -> Result<()> {
        self.summary.namespaces += 1;
        let stored = self.store.read(|s| {
            Ok(match s.namespace(namespace) {
                Ok(record) => record.map(decode::<Record>).transpose()?,
                Err(Error::DataLoss(_)) => None,
                Err(e) => return Err(e),
            })
        })?;
        match stored {
            Some(record) => match self.put_namespace(namespace, record).await {
                Ok(None) => {}
                Ok(Some(what)) => self.tell(namespace, None, what),
                Err(e) => {
                    let what = self.failure(e).await?;
                    self.tell(namespace, None, what);
                }
            },
            None => self.tell(namespace, None, What::Damaged),
        }
        let names = self.store.read(|s| {
            let mut names = Vec::new();
            for entry in s.scan(namespace, Kind::Image)? {
                let entry = entry?;
                let name = entry.message().and_then(decode::<Image>).map(|image| image.name);
                names.push(name.map_err(|_| entry.display_name()));
            }
            Ok(names)
        })?;
        for name in names {
            self.summary.images += 1;
            match name {
                Ok(name) => self.image(namespace, &name).await?,
                Err(shown) => self.tell(namespace, Some(&shown), What::Damaged),
            }
        }
        Ok(())
    }

    /// What became of a namespace; nothing when containerd has it already.
    async fn put_namespace(&self, namespace: &Namespace, record: Record) -> Result<Option<What>> {
        let dry_run = self.options.dry_run;
        match self.theirs.get(&record.name) {
            Some(labels) if *labels == record.labels => Ok(None),
            Some(_) if !self.options.overwrite => Ok(Some(What::Different)),
            Some(_) => {
                if !dry_run {
                    self.containerd.update_namespace(namespace, record).await?;
                }
                Ok(Some(What::Overwritten))
            }
            None => {
                if !dry_run {
                    self.containerd.create_namespace(namespace, record).await?;
                }
                Ok(Some(What::Created))
            }
        }
    }

    async fn image(&mut self, namespace: &Namespace, name: &str) -> Result<()> {
        let record = self
            .store
            .read(|s| s.record(namespace, Kind::Image, name)?.map(decode::<Image>).transpose());
        let record = match record {
            Ok(Some(record)) => record,
            Ok(None) => {
                // It went while we were reading.
                self.summary.images -= 1;
                return Ok(());
            }
            Err(Error::DataLoss(_)) => {
                self.tell(namespace, Some(name), What::Damaged);
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        match self.put_image(namespace, &record).await {
            Ok(None) => self.summary.unchanged += 1,
            Ok(Some(what)) => {
                match what {
                    What::Created => self.summary.created += 1,
                    What::Overwritten => self.summary.overwritten += 1,
                    _ => {}
                }
                self.tell(namespace, Some(name), what);
            }
            Err(e) => {
                let what = self.failure(e).await?;
                self.tell(namespace, Some(name), what);
            }
        }
        Ok(())
    }

    /// What became of a record whose call failed; the error, when containerd is not there any more. One
    /// record must not keep those behind it from being exported.
    async fn failure(&self, error: Error) -> Result<What> {
        match error {
            Error::Upstream(_, why) => Ok(What::Refused(why)),
            error if is_there(&self.containerd).await => Ok(What::Failed(error.message().into())),
            error => Err(error),
        }
    }

    /// What became of an image; nothing when containerd has it already.
    async fn put_image(&mut self, namespace: &Namespace, ours: &Image) -> Result<Option<What>> {
        let theirs = answer(&self.containerd, self.containerd.image(namespace, &ours.name))
            .await?
            .map(image::normalize_record);
        if theirs.as_ref().is_some_and(|theirs| timeless(theirs) == timeless(ours)) {
            return Ok(None);
        }
        if theirs.is_some() && !self.options.overwrite {
            return Ok(Some(What::Different));
        }
        let digest = &ours.target.digest;
        if !self.containerd.has_content(namespace, digest).await? {
            return Ok(Some(What::NoContent(digest.clone())));
        }
        let what = if theirs.is_some() { What::Overwritten } else { What::Created };
        if self.options.dry_run {
            return Ok(Some(what));
        }
        let made = if theirs.is_some() {
            self.containerd.update_image(namespace, ours).await?
        } else {
            match self.containerd.create_image(namespace, ours).await? {
                Some(made) => made,
                // Somebody made it since we looked.
                None => return Ok(Some(What::Different)),
            }
        };
        let mut made = image::normalize_record(made);
        // A second call brings the time of the last change, to those that take times.
        if made.created_at == ours.created_at && made.updated_at != ours.updated_at {
            let updated = self.containerd.update_image(namespace, ours).await?;
            made = image::normalize_record(updated);
        }
        self.summary.new_times += u64::from(made != *ours);
        Ok(Some(what))
    }
}

/// The record without its times.
fn timeless(image: &Image) -> Image {
    Image { created_at: MessageField::none(), updated_at: MessageField::none(), ..image.clone() }
}
