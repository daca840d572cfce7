//! `lmdb-images export`: copies the records of the store into a running containerd.
//!
//! The daemon may keep running. The command exports an image only if containerd has its content:
//! containerd would accept a name without content, but such a name is useless. If containerd has a
//! different record of the same name, the command leaves it unless `overwrite` is set: that record may
//! be newer, and may be the last reference that protects its content from garbage collection. The
//! command removes nothing.
//!
//! Times: containerd 1.7 and later take both times of a new record, 1.6 sets its own. An overwritten
//! record keeps containerd's time of creation. Records that differ only in their times count as equal.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use protobuf::MessageField;

use super::containerd::{await_reply, still_answers};
use crate::api::images::Image;
use crate::api::namespace::Namespace as Record;
use crate::containerd::client::GrpcClient;
use crate::model::{Error, Namespace, Result, image};
use crate::service::codec::decode;
use crate::store::{Kind, ReadOnlyStore, Records};

/// Options of an export.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ExportOptions {
    /// Replace a different record of the same name in containerd.
    pub(crate) overwrite: bool,
    /// Change nothing, and report the result of each record.
    pub(crate) dry_run: bool,
}

/// Result of the export of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RecordResult {
    /// Created in containerd.
    Created,
    /// Replaced a different record in containerd.
    Overwritten,
    /// Not exported: containerd has a different record of that name.
    Different,
    /// Not exported: containerd lacks the content with this digest.
    NoContent(String),
    /// Not exported: containerd refused the record with this error.
    Refused(String),
    /// Not exported: the call failed for this reason, and containerd still answers.
    Failed(String),
    /// Not exported: the record in the store is damaged.
    Damaged,
}

/// A record that containerd lacked or had differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExportOutcome {
    /// Namespace of the record.
    pub(crate) namespace: String,
    /// Name of the image; `None` for the record of the namespace itself.
    pub(crate) name: Option<String>,
    /// Result for this record.
    pub(crate) result: RecordResult,
    /// True if the export changed nothing: `result` is the result that it would have had.
    pub(crate) dry_run: bool,
}

impl ExportOutcome {
    /// Returns true if the record was not exported.
    pub(crate) fn is_left(&self) -> bool {
        !matches!(self.result, RecordResult::Created | RecordResult::Overwritten)
    }

    /// The outcome as one line of JSON.
    pub(crate) fn json(&self) -> String {
        let result = match &self.result {
            RecordResult::Created => "created",
            RecordResult::Overwritten => "overwritten",
            RecordResult::Different => "different",
            RecordResult::NoContent(_) => "no-content",
            RecordResult::Refused(_) => "refused",
            RecordResult::Failed(_) => "failed",
            RecordResult::Damaged => "damaged",
        };
        let detail = match &self.result {
            RecordResult::NoContent(detail)
            | RecordResult::Refused(detail)
            | RecordResult::Failed(detail) => Some(detail),
            _ => None,
        };
        let (namespace, name) = (&self.namespace, &self.name);
        serde_json::json!({
            "namespace": namespace, "name": name, "result": result, "detail": detail,
            "dry_run": self.dry_run,
        })
        .to_string()
    }
}

impl fmt::Display for ExportOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let would = if self.dry_run { "would be " } else { "" };
        match &self.result {
            RecordResult::Created => write!(f, "{would}created"),
            RecordResult::Overwritten => write!(f, "{would}overwritten"),
            RecordResult::Different => {
                f.write_str("left: containerd has a different one; see --overwrite")
            }
            RecordResult::NoContent(digest) => write!(f, "left: containerd does not have {digest}"),
            RecordResult::Refused(why) => write!(f, "left: containerd says: {why}"),
            RecordResult::Failed(why) => write!(f, "left: {why}"),
            RecordResult::Damaged => f.write_str("left: the record is damaged in the store"),
        }
    }
}

/// Counts of an export.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Images in the store.
    pub(crate) images: u64,
    /// Namespaces in the store.
    pub(crate) namespaces: u64,
    /// Images created in containerd.
    pub(crate) created: u64,
    /// Images that replaced a different record in containerd.
    pub(crate) overwritten: u64,
    /// Images that containerd already had.
    pub(crate) unchanged: u64,
    /// Images and namespace labels that were not exported.
    pub(crate) left: u64,
    /// Exported images whose times in containerd differ from those in the store.
    pub(crate) new_times: u64,
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

/// Exports the store in `root` to the containerd at `socket`. Calls `each` for every record that
/// containerd lacked or had differently.
///
/// # Errors
/// If the store cannot be read, or containerd stops answering. A failure of one record is its
/// [`ExportOutcome`].
pub(crate) async fn run(
    root: &Path,
    socket: &Path,
    options: ExportOptions,
    each: impl FnMut(ExportOutcome),
) -> Result<Summary> {
    let store = ReadOnlyStore::open(root)?;
    let containerd = GrpcClient::connect(socket).await?;
    let theirs = await_reply(&containerd, containerd.namespaces()).await?;
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
    /// Namespaces of containerd with their labels.
    theirs: BTreeMap<String, BTreeMap<String, String>>,
    options: ExportOptions,
    summary: Summary,
    each: F,
}

impl<F: FnMut(ExportOutcome)> Export<F> {
    fn report(&mut self, namespace: &Namespace, name: Option<&str>, result: RecordResult) {
        let outcome = ExportOutcome {
            namespace: namespace.to_string(),
            name: name.map(str::to_owned),
            result,
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
                Ok(Some(result)) => self.report(namespace, None, result),
                Err(e) => {
                    let result = failure(&self.containerd, e).await?;
                    self.report(namespace, None, result);
                }
            },
            None => self.report(namespace, None, RecordResult::Damaged),
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
                Err(display_name) => {
                    self.report(namespace, Some(&display_name), RecordResult::Damaged);
                }
            }
        }
        Ok(())
    }

    /// Exports a namespace; `None` if containerd already has it.
    async fn put_namespace(
        &self,
        namespace: &Namespace,
        record: Record,
    ) -> Result<Option<RecordResult>> {
        let dry_run = self.options.dry_run;
        match self.theirs.get(&record.name) {
            Some(labels) if *labels == record.labels => Ok(None),
            Some(_) if !self.options.overwrite => Ok(Some(RecordResult::Different)),
            Some(_) => {
                if !dry_run {
                    self.containerd.update_namespace(namespace, record).await?;
                }
                Ok(Some(RecordResult::Overwritten))
            }
            None => {
                if !dry_run {
                    self.containerd.create_namespace(namespace, record).await?;
                }
                Ok(Some(RecordResult::Created))
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
                // A client deleted it after its name was listed.
                self.summary.images -= 1;
                return Ok(());
            }
            Err(Error::DataLoss(_)) => {
                self.report(namespace, Some(name), RecordResult::Damaged);
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        match put_image(&self.containerd, namespace, &record, self.options).await {
            Ok(Put { result: None, .. }) => self.summary.unchanged += 1,
            Ok(Put { result: Some(result), new_times }) => {
                self.summary.new_times += u64::from(new_times);
                match result {
                    RecordResult::Created => self.summary.created += 1,
                    RecordResult::Overwritten => self.summary.overwritten += 1,
                    _ => {}
                }
                self.report(namespace, Some(name), result);
            }
            Err(e) => {
                let result = failure(&self.containerd, e).await?;
                self.report(namespace, Some(name), result);
            }
        }
        Ok(())
    }
}

/// Turns a failed call into the result of its record, so that one record does not stop the command.
/// Returns the error if containerd no longer answers.
pub(super) async fn failure(containerd: &GrpcClient, error: Error) -> Result<RecordResult> {
    match error {
        Error::Upstream(_, why) => Ok(RecordResult::Refused(why)),
        error if still_answers(containerd).await => {
            Ok(RecordResult::Failed(error.message().into()))
        }
        error => Err(error),
    }
}

/// Result of [`put_image`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Put {
    /// `None` if containerd already has the record.
    pub(crate) result: Option<RecordResult>,
    /// True if the record in containerd has other times.
    pub(crate) new_times: bool,
}

impl From<Option<RecordResult>> for Put {
    fn from(result: Option<RecordResult>) -> Self {
        Self { result, new_times: false }
    }
}

/// Exports an image.
pub(super) async fn put_image(
    containerd: &GrpcClient,
    namespace: &Namespace,
    ours: &Image,
    options: ExportOptions,
) -> Result<Put> {
    let theirs = await_reply(containerd, containerd.image(namespace, &ours.name))
        .await?
        .map(image::normalize_record);
    if theirs.as_ref().is_some_and(|theirs| without_times(theirs) == without_times(ours)) {
        return Ok(None.into());
    }
    if theirs.is_some() && !options.overwrite {
        return Ok(Some(RecordResult::Different).into());
    }
    let digest = &ours.target.digest;
    if !containerd.has_content(namespace, digest).await? {
        return Ok(Some(RecordResult::NoContent(digest.clone())).into());
    }
    let result = if theirs.is_some() { RecordResult::Overwritten } else { RecordResult::Created };
    if options.dry_run {
        return Ok(Some(result).into());
    }
    let made = if theirs.is_some() {
        containerd.update_image(namespace, ours).await?
    } else {
        match containerd.create_image(namespace, ours).await? {
            Some(made) => made,
            // Another client of containerd created it after the check above.
            None => return Ok(Some(RecordResult::Different).into()),
        }
    };
    let mut made = image::normalize_record(made);
    // A containerd that takes times sets the time of the last change only in an update.
    if made.created_at == ours.created_at && made.updated_at != ours.updated_at {
        let updated = containerd.update_image(namespace, ours).await?;
        made = image::normalize_record(updated);
    }
    Ok(Put { result: Some(result), new_times: made != *ours })
}

/// Returns the record without its times.
pub(super) fn without_times(image: &Image) -> Image {
    Image { created_at: MessageField::none(), updated_at: MessageField::none(), ..image.clone() }
}
