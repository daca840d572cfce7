//! The tools that look at the files of the store while the daemon runs, dies and comes back; and
//! `recover` on what a dead one left.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use lmdb_images::api::descriptor::Descriptor;
use lmdb_images::api::images::Image;
use protobuf::MessageField;
use protobuf::well_known_types::timestamp::Timestamp;
use serde_json::Value;

use super::client::{NAMESPACE, Recorder};
use super::model::{Call, DIGEST_COUNT, Filter, Operation, Outcome, Record};

/// A tool that takes a minute hangs.
const TOOL: [&str; 5] = ["timeout", "-s", "KILL", "60", env!("CARGO_BIN_EXE_lmdb-images")];

/// Bytes of a sector; the journal's header is its first.
const SECTOR: usize = 512;

/// Whether reads of the journal can be made slow here.
pub fn has_strace() -> bool {
    let strace = ["-qq", "-o", "/dev/null", "-e", "inject=read:delay_exit=1", "true"];
    Command::new("strace").args(strace).output().is_ok_and(|done| done.status.success())
}

/// Runs one tool after the other on a store, with files of its own in `dir`.
pub struct Inspector {
    pub name: String,
    pub store: PathBuf,
    pub dir: PathBuf,
    pub recorder: Arc<Recorder>,
    /// Reads of the journal may be slow.
    pub strace: bool,
    pub random: fastrand::Rng,
}

/// What the tools showed.
#[derive(Default)]
pub struct Inspections {
    pub calls: Vec<Call>,
    pub count: u64,
}

impl Inspector {
    /// Runs tools until `stop`. An error is a false alarm, or what no tool may print.
    pub fn run(mut self, stop: &AtomicBool) -> Result<Inspections, String> {
        let mut inspections = Inspections::default();
        while !stop.load(SeqCst) {
            match self.random.u32(..4) {
                0 => self.check()?,
                1 => inspections.calls.push(self.backup()?),
                _ => {
                    let filter = match self.random.u32(..3) {
                        0 => Filter::Digest(self.random.u32(..DIGEST_COUNT)),
                        1 => Filter::Prefix('a'),
                        _ => Filter::All,
                    };
                    let store = self.store.clone();
                    inspections.calls.push(self.list(&store, filter)?);
                }
            }
            inspections.count += 1;
        }
        Ok(inspections)
    }

    /// `check` finds nothing.
    fn check(&mut self) -> Result<(), String> {
        let store = self.store.clone();
        let output = self.tool(["check", "--json"], &store, &[])?;
        let report: Value = serde_json::from_slice(&output.stdout).map_err(|e| e.to_string())?;
        if report["whole"] == true { Ok(()) } else { Err(format!("check finds {report}")) }
    }

    /// What `ls` shows of a store.
    fn list(&mut self, store: &Path, filter: Filter) -> Result<Call, String> {
        let begin = self.recorder.tick();
        let arguments: Vec<_> = ["--namespace", NAMESPACE]
            .into_iter()
            .map(OsString::from)
            .chain(filter.text().into_iter().map(OsString::from))
            .collect();
        let output = self.tool(["ls", "--json"], store, &arguments)?;
        let end = self.recorder.tick();
        let text = String::from_utf8(output.stdout).map_err(|e| e.to_string())?;
        let listed: Result<_, String> =
            text.lines().map(|line| Record::of(&image(line)?)).collect();
        let outcome = Outcome::Listed(listed.map_err(|e| format!("{}: ls: {e}", self.name))?);
        let operation = Operation::List(filter);
        Ok(Call { client: self.name.clone(), operation, outcome, begin, end })
    }

    /// What is in a backup, when it is restored.
    fn backup(&mut self) -> Result<Call, String> {
        let (file, restored) = (self.dir.join("backup"), self.dir.join("restored"));
        let begin = self.recorder.tick();
        let store = self.store.clone();
        self.tool(["backup", "--force"], &store, &[file.clone().into()])?;
        let end = self.recorder.tick();
        let _ = std::fs::remove_dir_all(&restored);
        self.tool(["restore", "--force"], &restored, &[file.into()])?;
        let call = self.list(&restored, Filter::All)?;
        Ok(Call { client: format!("{} backup", self.name), begin, end, ..call })
    }

    /// What `recover` saves of the files of a dead daemon, perhaps with a damaged header of the journal,
    /// and what `ls` shows of them.
    pub fn recover(&mut self) -> Result<Vec<Call>, String> {
        let (copy, to) = (self.dir.join("copy"), self.dir.join("recovered"));
        for dir in [&copy, &to] {
            let _ = std::fs::remove_dir_all(dir);
        }
        let begin = self.recorder.tick();
        copy_files(&self.store, &copy).map_err(|e| format!("copying the store: {e}"))?;
        let seen = self.list(&copy, Filter::All)?;
        if self.random.bool() {
            self.run_recover(["recover", "--json"], &copy, &to, true)?;
        } else {
            let journal = copy.join("journal");
            let mut bytes = std::fs::read(&journal).map_err(|e| e.to_string())?;
            bytes[..SECTOR].fill(0);
            std::fs::write(&journal, bytes).map_err(|e| e.to_string())?;
            self.run_recover(["recover", "--json"], &copy, &to, false)?;
        }
        let saved = self.list(&to, Filter::All)?;
        let end = self.recorder.tick();
        let name = |what| format!("{} {what}", self.name);
        Ok(vec![
            Call { client: name("copy"), begin, end, ..seen },
            Call { client: name("recover"), begin, end, ..saved },
        ])
    }

    /// Runs `recover`; of a whole store nothing is reported.
    fn run_recover(
        &self,
        command: [&str; 2],
        from: &Path,
        to: &Path,
        whole: bool,
    ) -> Result<(), String> {
        let mut tool = tool_command();
        tool.args(command).arg("--root").arg(from).arg("--to").arg(to);
        let output = tool.output().map_err(|e| e.to_string())?;
        if output.status.success() || (!whole && output.status.code() == Some(1)) {
            return Ok(());
        }
        Err(format!("{}: {tool:?}: {}", self.name, describe(&output)))
    }

    /// Runs a tool on a store. That it fails is a violation.
    fn tool(
        &mut self,
        command: [&str; 2],
        store: &Path,
        arguments: &[OsString],
    ) -> Result<Output, String> {
        let slow = self.strace && store == self.store && self.random.bool();
        let mut tool = if slow { self.strace() } else { tool_command() };
        tool.args(command).arg("--root").arg(store).args(arguments);
        let output = tool.output().map_err(|e| format!("{tool:?}: {e}"))?;
        if output.status.success() {
            return Ok(output);
        }
        Err(format!("{}: {tool:?}: {}", self.name, describe(&output)))
    }

    /// The tool with slow reads: of the journal, or now and then of all files.
    fn strace(&mut self) -> Command {
        let mut strace = Command::new("strace");
        let delay = self.random.u32(200..15_000);
        strace.args(["-qq", "-f", "-o", "/dev/null", "-e", "trace=read,pread64"]);
        if self.random.u32(..4) > 0 {
            strace.arg("-P").arg(self.store.join("journal"));
            strace.arg("-e").arg(format!("inject=read,pread64:delay_exit={delay}"));
        } else {
            let every = self.random.u32(2..12);
            strace.arg("-e").arg(format!("inject=read,pread64:delay_exit={delay}:when=1+{every}"));
        }
        strace.args(TOOL);
        strace
    }
}

fn tool_command() -> Command {
    let mut tool = Command::new(TOOL[0]);
    tool.args(&TOOL[1..]);
    tool
}

fn describe(output: &Output) -> String {
    let text =
        |bytes: &[u8]| String::from_utf8_lossy(bytes).chars().take(1_000).collect::<String>();
    format!("{}: {}{}", output.status, text(&output.stdout), text(&output.stderr))
}

/// The plain files of a store's folder.
fn copy_files(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() && entry.file_name() != OsStr::new("lock.mdb") {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// The image in a line of `ls --json`.
fn image(line: &str) -> Result<Image, String> {
    let value: Value = serde_json::from_str(line).map_err(|e| format!("{e}: {line}"))?;
    let map = |value: &Value| -> BTreeMap<String, String> {
        let fields = value.as_object().into_iter().flatten();
        fields
            .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().into()))
            .collect()
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let time = |value: &Value| {
        let at: jiff::Timestamp = text(value).parse().unwrap_or_default();
        MessageField::some(Timestamp { seconds: at.as_second(), ..Timestamp::default() })
    };
    let target = &value["target"];
    Ok(Image {
        name: text(&value["name"]),
        labels: map(&value["labels"]),
        target: MessageField::some(Descriptor {
            media_type: text(&target["mediaType"]),
            digest: text(&target["digest"]),
            size: target["size"].as_i64().unwrap_or_default(),
            annotations: map(&target["annotations"]),
            ..Descriptor::default()
        }),
        created_at: time(&value["createdAt"]),
        updated_at: time(&value["updatedAt"]),
        ..Image::default()
    })
}
