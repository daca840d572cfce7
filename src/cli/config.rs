//! `lmdb-images config`.

use clap::{ArgMatches, Args, Subcommand};
use serde_json::json;

use super::output::{Failure, print};
use super::paths;
use super::settings::{self, DaemonSettings};
use super::settings_file::File;
use crate::model::printable::escaped;

/// Show, check or generate the configuration
///
/// Each setting is a flag of serve, an environment variable and a key of the file. The flag takes
/// precedence over the variable, the variable over the file, the file over the default.
#[derive(Args)]
pub(crate) struct Config {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Print a file with every setting, its default and its meaning
    Default,

    /// Check a file; print the first error with its line and exit with 1 if there is one
    Check {
        #[command(flatten)]
        file: File,
    },

    /// Print the settings in effect, and the source of each
    ///
    /// Takes the flags of serve. The output can be used as a file.
    Show {
        #[command(flatten)]
        file: File,
        #[command(flatten)]
        settings: Box<DaemonSettings>,
        /// Print one JSON object: the value of each setting, null if there is none, and its source
        #[arg(long)]
        json: bool,
    },
}

impl Config {
    /// Runs the action. `matches` are those of the whole command line.
    pub(crate) fn run(self, matches: &ArgMatches) -> Result<(), Failure> {
        match self.action {
            Action::Default => {
                let text = default_file();
                print(|out| out.write_all(text.as_bytes()))?;
            }
            Action::Check { file } => {
                let found = file.read_if_exists()?;
                let is_there = found.is_some();
                let settings = DaemonSettings::default().merged(&found.unwrap_or_default())?;
                settings::checked(settings, settings::innermost(matches), &file.path())?;
                let state = if is_there { "right" } else { "not there: the defaults hold" };
                print(|out| writeln!(out, "{} is {state}", file.path().display()))?;
            }
            Action::Show { file, settings, json } => {
                show(&file, &settings, json, settings::innermost(matches))?;
            }
        }
        Ok(())
    }
}

/// Returns a file in which all settings are commented out, so that it changes nothing as it is.
fn default_file() -> String {
    let defaults = DaemonSettings::defaults().table();
    let socket = paths::default_state().join("metrics.sock").to_string_lossy().into_owned();
    let socket = toml::Value::from(socket).to_string();
    let mut text = String::from(
        "# Settings of lmdb-images. Each is also a flag of \"lmdb-images serve\" and an environment\n\
         # variable, which take precedence over this file. A line that is commented out shows the default,\n\
         # or an example if there is none.\n",
    );
    for setting in settings::all() {
        let value = match (defaults.get(&setting.key), setting.value.as_str()) {
            (Some(value), _) => value.to_string(),
            (None, "SOCKET") => "\"/run/containerd/containerd.sock\"".into(),
            // A port would not do in the packaged service, which has no network.
            (None, "ADDRESS") => socket.clone(),
            (None, _) => "0".into(),
        };
        let unset = if defaults.contains_key(&setting.key) { "" } else { " (default: none)" };
        text.push_str(&format!("\n{}\n", comment(&format!("{}{unset}", setting.help))));
        text.push_str(&format!("#{} = {value}\n", setting.key));
    }
    text
}

/// Formats a text as a comment with lines of at most 100 characters.
fn comment(text: &str) -> String {
    let mut lines = vec![String::from("#")];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < 99 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("# {word}")),
        }
    }
    lines.join("\n")
}

fn show(
    file: &File,
    settings: &DaemonSettings,
    as_json: bool,
    matches: &ArgMatches,
) -> Result<(), Failure> {
    let from_file = file.read()?;
    let (merged, from_file) = (settings.merged(&from_file)?.table(), from_file.table());
    let (mut object, mut lines) = (serde_json::Map::new(), Vec::new());
    for setting in settings::all() {
        let origin = settings::origin(&setting, matches, &from_file, &file.path());
        let value = merged.get(&setting.key);
        lines.push(match value {
            Some(value) => format!("{:<42} # {origin}", format!("{} = {value}", setting.key)),
            None => format!("{:<42} # none", format!("#{} =", setting.key)),
        });
        object.insert(setting.key, json!({ "value": value, "from": origin }));
    }
    print(|out| match as_json {
        true => writeln!(out, "{}", serde_json::Value::Object(object)),
        false => lines.iter().try_for_each(|line| writeln!(out, "{}", escaped(line))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_file_changes_nothing_and_names_every_key() {
        let text = default_file();
        assert_eq!(toml::from_str::<DaemonSettings>(&text).unwrap(), DaemonSettings::default());
        let uncommented: String = text
            .lines()
            .filter_map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')))
            .map(|line| format!("{line}\n"))
            .collect();
        let all = toml::from_str::<DaemonSettings>(&uncommented).unwrap().table();
        assert_eq!(all.len(), settings::all().len());
        for (key, value) in DaemonSettings::defaults().table() {
            assert_eq!(all.get(&key), Some(&value), "{key}");
        }
        assert!(text.lines().all(|line| line.len() <= 100));
    }
}
