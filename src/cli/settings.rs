//! The settings of the daemon. Each is a flag of `serve`, an environment variable and a key of the file.
//! Precedence: flag, environment, file, default.
//!
//! One struct holds them: clap fills it from flags and environment, serde from the file, and
//! [`DaemonSettings::defaults`] with the defaults. `--help` and `config default` print the comments of its
//! fields.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgMatches, Args, Command, parser::ValueSource};
use go_compat::quote::quote;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use toml::Table;

use super::logging::{Filter, Format};
use super::paths::{default_root, default_state};
use crate::cli::bounded::Bounded;
use crate::cli::span::Span;
use crate::daemon::Config;
use crate::daemon::metrics::Address;
use crate::limits::memory::MemoryBudget;
use crate::model::printable::escaped;
use crate::model::{Context, Error, Result};
use crate::store::Retention;
use crate::transport::Limits;
use crate::transport::limits::DEFAULT_MEMORY_BUDGET;

/// Number of a group. The highest 32-bit number is excluded: the kernel reads it as "no group".
type Gid = Bounded<0, { u32::MAX - 1 }>;

/// Settings from one source. A field is `None` if the source does not set it.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DaemonSettings {
    /// Folder of the store
    #[arg(long, env = "LMDB_IMAGES_ROOT", value_name = "DIR")]
    #[serde(default, deserialize_with = "path")]
    pub(crate) root: Option<PathBuf>,

    /// Folder of the sockets
    #[arg(long, env = "LMDB_IMAGES_STATE", value_name = "DIR")]
    #[serde(default, deserialize_with = "path")]
    pub(crate) state: Option<PathBuf>,

    /// Run in front of the containerd that listens on this socket. Its clients then use containerd.sock in the
    /// folder of the sockets
    #[arg(long, env = "LMDB_IMAGES_CONTAINERD", value_name = "SOCKET")]
    #[serde(default, deserialize_with = "path")]
    pub(crate) containerd: Option<PathBuf>,

    /// Group that may use images.sock and images.sock.ttrpc, by number
    #[arg(long, env = "LMDB_IMAGES_GID", value_name = "GID")]
    pub(crate) gid: Option<Gid>,

    /// Also create readonly.sock, where clients can read image names and change nothing
    #[arg(
        long,
        env = "LMDB_IMAGES_READONLY",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        hide_possible_values = true
    )]
    pub(crate) readonly: Option<bool>,

    /// Group that may use readonly.sock, by number
    #[arg(long, env = "LMDB_IMAGES_READONLY_GID", value_name = "GID")]
    pub(crate) readonly_gid: Option<Gid>,

    /// Address where the daemon serves metrics in Prometheus format, which `lmdb-images top` reads: a unix
    /// socket (a path that begins with /; the packaged service can serve no other) or a loopback address with a
    /// port, such as 127.0.0.1:9478. Another address needs the prefix exposed:, such as exposed:0.0.0.0:9478,
    /// and a firewall that guards the port
    #[arg(long, env = "LMDB_IMAGES_METRICS_ADDRESS", value_name = "ADDRESS")]
    pub(crate) metrics_address: Option<Address>,

    /// Level of the log: error, warn, info, debug, trace, or levels by part of the program, such as
    /// info,lmdb_images::proxy=debug
    #[arg(long, env = "RUST_LOG", value_name = "FILTER")]
    pub(crate) log: Option<Filter>,

    /// Format of the log: text, or json for one object per line
    #[arg(
        long,
        env = "LMDB_IMAGES_LOG_FORMAT",
        value_name = "FORMAT",
        hide_possible_values = true
    )]
    pub(crate) log_format: Option<Format>,

    /// Maximum number of open connections per socket; the daemon closes a further one at once
    #[arg(long, env = "LMDB_IMAGES_MAX_CONNECTIONS", value_name = "N")]
    pub(crate) max_connections: Option<Bounded<1, 1_000_000>>,

    /// Maximum number of calls in flight per connection; further calls wait
    #[arg(long, env = "LMDB_IMAGES_MAX_CALLS", value_name = "N")]
    pub(crate) max_calls: Option<Bounded<1, 65_536>>,

    /// How long a client may take to finish sending a message, in seconds
    #[arg(long, env = "LMDB_IMAGES_MESSAGE_TIME", value_name = "SECONDS")]
    pub(crate) message_time: Option<Bounded<1, 86_400>>,

    /// How long a client may leave replies unread before its connection is closed, in seconds
    #[arg(long, env = "LMDB_IMAGES_UNREAD_TIME", value_name = "SECONDS")]
    pub(crate) unread_time: Option<Bounded<1, 86_400>>,

    /// How long calls in flight may take to end when the daemon stops, in seconds
    #[arg(long, env = "LMDB_IMAGES_DRAIN_TIME", value_name = "SECONDS")]
    pub(crate) drain_time: Option<Bounded<1, 3_600>>,

    /// Memory for large requests in flight, of all connections together, in MiB
    #[arg(long, env = "LMDB_IMAGES_REQUEST_BUDGET", value_name = "MIB")]
    pub(crate) request_budget: Option<Bounded<16, 4_095>>,

    /// Memory for large replies in flight, of all connections together, in MiB
    #[arg(long, env = "LMDB_IMAGES_REPLY_BUDGET", value_name = "MIB")]
    pub(crate) reply_budget: Option<Bounded<16, 4_095>>,

    /// Largest size of the log of changes in the data file, in MiB; the daemon removes the oldest entries. 0
    /// turns the log off and removes it
    #[arg(long, env = "LMDB_IMAGES_LOG_KEEP", value_name = "MIB")]
    pub(crate) log_keep: Option<Bounded<0, 65_536>>,

    /// Age at which the daemon removes entries of the log of changes, in seconds; with 0, only --log-keep
    /// bounds the log
    #[arg(long, env = "LMDB_IMAGES_LOG_KEEP_FOR", value_name = "SECONDS")]
    pub(crate) log_keep_for: Option<Bounded<0, 3_153_600_000>>,

    /// How long the content of an image stays in the containerd behind the daemon after a client has removed or
    /// moved its name, such as 24h, so that an undo needs no pull. With 0s, the daemon protects no content
    #[arg(long, env = "LMDB_IMAGES_UNDO_KEEP", value_name = "TIME")]
    pub(crate) undo_keep: Option<Span>,
}

/// Deserializes a path: a text that is not empty and has no zero byte.
fn path<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    match text.as_deref() {
        Some("") => Err(D::Error::custom("the path is empty: give one, or leave the key out")),
        Some(text) if text.contains('\0') => Err(D::Error::custom(format!(
            "the path {} has a zero byte in it, which no path can have: take it out",
            quote(text)
        ))),
        Some(text) if text.contains("://") => Err(D::Error::custom(format!(
            "{} is an address with a scheme: give the path alone",
            quote(text)
        ))),
        _ => Ok(text.map(PathBuf::from)),
    }
}

/// Description of a setting.
#[derive(Debug)]
pub(crate) struct Setting {
    /// Key in the file.
    pub(crate) key: String,
    /// Environment variable.
    pub(crate) variable: String,
    /// Meaning of the setting.
    pub(crate) help: String,
    /// Kind of its value: `DIR`, `SECONDS`.
    pub(crate) value: String,
}

/// Returns the descriptions of all settings in the order of the struct.
pub(crate) fn all() -> Vec<Setting> {
    let command = DaemonSettings::augment_args(Command::new("settings"));
    let text = |text: Option<String>| text.unwrap_or_default();
    let setting = |arg: &clap::Arg| Setting {
        key: arg.get_id().to_string(),
        variable: text(arg.get_env().map(|name| name.to_string_lossy().into_owned())),
        help: text(arg.get_help().map(ToString::to_string)),
        value: text(arg.get_value_names().and_then(|n| n.first()).map(ToString::to_string)),
    };
    command.get_arguments().map(setting).collect()
}

/// Adds the defaults of the settings to the help of `command`.
pub(crate) fn with_defaults(mut command: Command) -> Command {
    for (key, value) in DaemonSettings::defaults().table() {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        if command.get_arguments().any(|arg| *arg.get_id() == *key) {
            command = command.mut_arg(key, |arg| {
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                arg.help(format!("{help} [default: {}]", escaped(&text)))
            });
        }
    }
    command
}

impl DaemonSettings {
    /// Returns the defaults.
    pub(crate) fn defaults() -> Self {
        let limits = Limits::default();
        Self {
            root: Some(default_root()),
            state: Some(default_state()),
            containerd: None,
            gid: None,
            readonly: Some(false),
            readonly_gid: None,
            metrics_address: None,
            log: Some(Filter::default()),
            log_format: Some(Format::default()),
            max_connections: Some(Bounded::clamped(limits.connections as u64)),
            max_calls: Some(Bounded::clamped(limits.calls as u64)),
            message_time: Some(Bounded::clamped(limits.message_time.as_secs())),
            unread_time: Some(Bounded::clamped(limits.unread_time.as_secs())),
            drain_time: Some(Bounded::clamped(limits.drain_time.as_secs())),
            request_budget: Some(Bounded::clamped(u64::from(DEFAULT_MEMORY_BUDGET >> 20))),
            reply_budget: Some(Bounded::clamped(u64::from(DEFAULT_MEMORY_BUDGET >> 20))),
            log_keep: Some(Bounded::clamped(Retention::default().bytes >> 20)),
            log_keep_for: None,
            undo_keep: Some(Span::zero()),
        }
    }

    /// Converts to keys and values in the order of the struct.
    pub(crate) fn table(&self) -> Table {
        // Every value is a string, a number or a boolean, which TOML can represent.
        Table::try_from(self).unwrap_or_default()
    }

    /// Completes these settings from `file`, and then from the defaults.
    pub(crate) fn merged(&self, file: &DaemonSettings) -> Result<Self> {
        let paths =
            [("root", &self.root), ("state", &self.state), ("containerd", &self.containerd)];
        for (key, path) in paths {
            if let Some(path) = path.as_ref().filter(|path| path.to_str().is_none()) {
                return Err(Error::InvalidArgument(format!(
                    "{key}: the path {} is not UTF-8: choose another",
                    quote(path.as_os_str().as_bytes())
                )));
            }
        }
        let mut merged = Self::defaults().table();
        merged.extend(file.table());
        merged.extend(self.table());
        merged.try_into().or_internal("merging the settings")
    }

    /// Converts to the configuration of a daemon.
    pub(crate) fn config(self) -> Config {
        let limits = Limits::default();
        let seconds = |time: u32| Duration::from_secs(time.into());
        let bytes = |mib: u32| mib << 20;
        Config {
            root: self.root.unwrap_or_else(default_root),
            state: self.state.unwrap_or_else(default_state),
            containerd: self.containerd,
            gid: self.gid.map(Bounded::get),
            readonly: self.readonly.unwrap_or_default(),
            readonly_gid: self.readonly_gid.map(Bounded::get),
            metrics: self.metrics_address,
            limits: Limits {
                connections: self.max_connections.map_or(limits.connections, |n| n.get() as usize),
                calls: self.max_calls.map_or(limits.calls, |n| n.get() as usize),
                message_time: self.message_time.map_or(limits.message_time, |n| seconds(n.get())),
                unread_time: self.unread_time.map_or(limits.unread_time, |n| seconds(n.get())),
                drain_time: self.drain_time.map_or(limits.drain_time, |n| seconds(n.get())),
                request_memory: MemoryBudget::new(
                    self.request_budget.map_or(DEFAULT_MEMORY_BUDGET, |n| bytes(n.get())),
                ),
                unread_data: limits.unread_data,
                admission: limits.admission,
                metrics: limits.metrics,
            },
            reply_budget: self.reply_budget.map_or(DEFAULT_MEMORY_BUDGET, |n| bytes(n.get())),
            log_keep: Retention {
                bytes: self
                    .log_keep
                    .map_or(Retention::default().bytes, |n| u64::from(n.get()) << 20),
                age: self.log_keep_for.filter(|n| n.get() > 0).map(|n| seconds(n.get())),
            },
            undo_keep: self.undo_keep.and_then(|span| span.duration()),
        }
    }
}

/// Converts the settings to a checked configuration. `matches` and the `path` of the settings file tell the
/// source of a wrong setting.
pub(crate) fn checked(
    settings: DaemonSettings,
    matches: &ArgMatches,
    path: &Path,
) -> Result<Config> {
    let config = settings.config();
    config.check().map_err(|(key, why)| {
        let setting = all().into_iter().find(|setting| setting.key == key);
        let source = matches.try_contains_id(key).ok().and_then(|_| matches.value_source(key));
        let by = match (source, setting) {
            (Some(ValueSource::CommandLine), _) => format!("--{}", key.replace('_', "-")),
            (Some(ValueSource::EnvVariable), Some(setting)) => setting.variable,
            _ => format!("{}, key `{key}`", path.display()),
        };
        Error::InvalidArgument(format!("{by}: {}", why.message()))
    })?;
    Ok(config)
}

/// Returns the matches of the innermost subcommand.
pub(crate) fn innermost(mut matches: &ArgMatches) -> &ArgMatches {
    while let Some((_, inner)) = matches.subcommand() {
        matches = inner;
    }
    matches
}

/// Returns the source of a setting's value. `matches` are those that the settings were parsed from.
pub(crate) fn origin(setting: &Setting, matches: &ArgMatches, file: &Table, path: &Path) -> String {
    match matches.value_source(&setting.key) {
        Some(ValueSource::CommandLine) => "flag".into(),
        Some(ValueSource::EnvVariable) => format!("environment {}", setting.variable),
        _ if file.contains_key(&setting.key) => format!("file {}", path.display()),
        _ => "default".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::settings_file::parse;

    fn read(text: &str) -> Result<DaemonSettings> {
        parse(text, Path::new("f"))
    }

    #[test]
    fn every_setting_is_a_key_and_a_variable_with_an_explanation() {
        for setting in all() {
            let error = read(&format!("{} = []", setting.key)).unwrap_err();
            assert!(!error.message().contains("unknown key"), "{error}");
            let variable = format!("LMDB_IMAGES_{}", setting.key.to_uppercase());
            let expected = if setting.key == "log" { "RUST_LOG" } else { &variable };
            assert_eq!(setting.variable, expected);
            assert!(!setting.help.is_empty() && !setting.value.is_empty(), "{setting:?}");
        }
    }

    #[test]
    fn the_stronger_source_wins_key_by_key() {
        let file = read("max_calls = 2\nmax_connections = 3").unwrap();
        let flags = read("max_calls = 4").unwrap();
        let merged = flags.merged(&file).unwrap();
        let wanted = DaemonSettings {
            max_calls: flags.max_calls,
            max_connections: file.max_connections,
            ..DaemonSettings::defaults()
        };
        assert_eq!(merged, wanted);
        let config = merged.config();
        assert_eq!((config.limits.calls, config.limits.connections), (4, 3));
    }

    #[test]
    fn the_defaults_lie_in_their_bounds() {
        let defaults = DaemonSettings::defaults();
        let text = toml::to_string(&defaults).unwrap();
        assert_eq!(read(&text).unwrap(), defaults);
        let (config, limits) = (defaults.config(), Limits::default());
        assert_eq!(format!("{:?}", config.limits), format!("{limits:?}"));
    }
}
