//! The settings file: where it is, its permissions, its text.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::paths::default_config;
use super::settings::DaemonSettings;
use crate::admin::file;
use crate::model::{Context, Error, Result};

/// Largest size of the settings file in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The environment variable that names the file.
const FILE_VARIABLE: &str = "LMDB_IMAGES_CONFIG";

/// The settings file.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct File {
    /// File with settings [default: /etc/lmdb-images/config.toml, if it exists]
    #[arg(long, env = FILE_VARIABLE, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl File {
    /// The file of a command line that is not parsed: the one that its flag names, else the variable's or the default.
    pub(crate) fn named(by_flag: Option<PathBuf>) -> Self {
        let by_variable = || std::env::var_os(FILE_VARIABLE).map(PathBuf::from);
        Self { config: by_flag.or_else(by_variable) }
    }

    /// Path of the file.
    pub(crate) fn path(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(default_config)
    }

    /// Reads the settings; none if the default file does not exist.
    ///
    /// # Errors
    /// If a setting is wrong, if a file that was named does not exist, or if others may write the file.
    pub(crate) fn read(&self) -> Result<DaemonSettings> {
        Ok(self.read_if_exists()?.unwrap_or_default())
    }

    /// As [`read`](Self::read), but returns `None` if the default file does not exist.
    pub(crate) fn read_if_exists(&self) -> Result<Option<DaemonSettings>> {
        let path = self.path();
        match (file::read_text(&path, MAX_FILE_BYTES), &self.config) {
            (Ok(Some((file, text))), _) => {
                check_mode(&file, &path)?;
                parse(&text, &path).map(Some)
            }
            (Ok(None), None) => Ok(None),
            (Ok(None), Some(_)) => Err(self.missing(&path)),
            (Err(e), Some(_)) => Err(self.file_error(e.message())),
            (Err(e), None) => Err(e),
        }
    }

    /// Checks that the file exists if the flag names it, for a command that needs no setting of it. A faulty file does
    /// not hinder such a command, and neither does a variable, which may be older than the command.
    ///
    /// # Errors
    /// If the file does not exist.
    pub(crate) fn check_flag(&self) -> Result<()> {
        match &self.config {
            Some(path) if !self.is_by_variable() && !path.try_exists().unwrap_or(true) => {
                Err(self.missing(path))
            }
            _ => Ok(()),
        }
    }

    fn missing(&self, path: &Path) -> Error {
        self.file_error(&format!(
            "there is no file {}: name another, or create it from the output of `lmdb-images config default`",
            path.display()
        ))
    }

    fn is_by_variable(&self) -> bool {
        std::env::var_os(FILE_VARIABLE)
            .is_some_and(|named| self.config.as_deref() == Some(Path::new(&named)))
    }

    /// Returns an error that begins with the flag or the variable that named the file.
    fn file_error(&self, why: &str) -> Error {
        let by = if self.is_by_variable() { FILE_VARIABLE } else { "--config" };
        Error::InvalidArgument(format!("{by}: {why}"))
    }
}

/// Refuses a file that users other than its owner may write. The file names the store and the containerd
/// of a root daemon, and the group that may connect to its sockets. The daemon refuses such folders for
/// the same reason.
fn check_mode(file: &std::fs::File, path: &Path) -> Result<()> {
    let at = path.display();
    let found = file.metadata();
    let mode = found.or_internal(format_args!("looking at {at}"))?.mode();
    if mode & 0o022 != 0 {
        return Err(Error::FailedPrecondition(format!(
            "others may write the file {at} (mode {:o}), and so decide what the daemon does: chmod go-w {at}",
            mode & 0o7777
        )));
    }
    Ok(())
}

/// Parses settings from the text of the file at `path`.
pub(crate) fn parse(text: &str, path: &Path) -> Result<DaemonSettings> {
    toml::from_str(text).map_err(|e| {
        let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let why =
            e.message().trim_end().replace('\n', ", ").replace("unknown field", "unknown key");
        Error::InvalidArgument(format!("{}, line {line}: {why}", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_in_a_file_has_its_line() {
        for (text, expected) in [
            ("\n\nmax_conections = 1", "f, line 3: unknown key `max_conections`, expected one of"),
            ("max_connections = 0", "f, line 1: 0 is not in 1..=1000000"),
            ("\nmessage_time = -1", "f, line 2: -1 is not in 1..=86400"),
            ("\nroot = 3", "f, line 2: invalid type: integer `3`, expected"),
            ("root = \"a\"\nroot = \"b\"", "f, line 2: duplicate key"),
            ("gid = 1\nstate", "f, line 2: "),
            ("log = \"info=loud\"", "f, line 1: "),
            ("log_format = \"xml\"", "f, line 1: unknown variant `xml`, expected `text` or `json`"),
        ] {
            let error = parse(text, Path::new("f")).unwrap_err();
            assert!(error.message().starts_with(expected), "{text}: {error}");
        }
    }
}
