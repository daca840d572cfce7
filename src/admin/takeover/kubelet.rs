//! The addresses that the kubelet uses. A flag counts before the files of `--config-dir`, these before the file of
//! `--config`, and this before the default.

use std::path::{Path, PathBuf};

use super::client::{Client, Endpoint, named, with_images};
use super::commands::ClientCommand;
use super::layout::KUBELET_UNIT;
use super::settings::{arguments_of_variables, last_value, not_parsed, settings};
use super::yaml::top_value;

/// The file of settings that kubeadm writes, and that a kubelet is taken to read unless its flags say otherwise.
pub(super) const KUBELET_FILE: &str = "/var/lib/kubelet/config.yaml";

/// The file with the flags that kubeadm writes. Its variable is in the command of kubeadm's unit.
pub(super) const KUBELET_FLAGS_FILE: &str = "/var/lib/kubelet/kubeadm-flags.env";

/// The ending of files in `--config-dir`. Files with another one are not read.
const DROP_IN_SUFFIX: &str = ".conf";

/// Files of `--config-dir` that are read. With more, the address is not known.
const MAX_DROP_INS: usize = 64;

/// The kubelet of this machine, if there is one.
pub(super) fn kubelet(root: &Path, command: Option<&ClientCommand>) -> Vec<Client> {
    let is_there = |name| settings(root, name).is_some();
    if command.is_none() && !is_there(KUBELET_FILE) && !is_there(KUBELET_FLAGS_FILE) {
        return Vec::new();
    }
    let read = KubeletSettings::read(root, command);
    let client = |subject, flag, key| Client::new(root, subject, read.endpoint(flag, key));
    let runtime =
        client("client kubelet", "--container-runtime-endpoint", "containerRuntimeEndpoint");
    let images =
        client("client kubelet, images", "--image-service-endpoint", "imageServiceEndpoint");
    with_images(runtime, images)
}

/// The kubelet's settings, as texts.
struct KubeletSettings<'c> {
    command: Option<&'c ClientCommand>,
    /// The flags in kubeadm's file, unless the command has them already.
    flags: Result<Vec<String>, String>,
    /// Names and texts of files, the one that counts most first.
    files: Result<Vec<(String, String)>, String>,
}

impl<'c> KubeletSettings<'c> {
    fn read(root: &Path, command: Option<&'c ClientCommand>) -> Self {
        let is_running = command.is_some_and(|command| command.is_running);
        let flags = match is_running {
            true => Ok(Vec::new()),
            false => settings(root, KUBELET_FLAGS_FILE)
                .transpose()
                .map(|text| arguments_of_variables(&text.unwrap_or_default())),
        };
        Self { command, flags, files: read_files(root, command, is_running) }
    }

    fn endpoint(&self, flag: &str, key: &str) -> Endpoint {
        self.find(flag, key).unwrap_or_else(Endpoint::Unknown)
    }

    fn find(&self, flag: &str, key: &str) -> Result<Endpoint, String> {
        if let Some(value) = value(self.command, flag)? {
            return Ok(named(&format!("{KUBELET_UNIT}'s {flag}"), Some(value)));
        }
        let flags = self.flags.as_ref().map_err(Clone::clone)?;
        if let Some(value) = last_value(flags, flag) {
            return Ok(named(KUBELET_FLAGS_FILE, Some(value)));
        }
        for (name, text) in self.files.as_ref().map_err(Clone::clone)? {
            let found = top_value(text, key).map_err(|why| not_parsed(name, why))?;
            // A null in a drop-in means the default, too.
            if let Some(value) = found {
                return Ok(named(name, Some(&value)));
            }
        }
        Ok(Endpoint::Default)
    }
}

fn value<'c>(command: Option<&'c ClientCommand>, flag: &str) -> Result<Option<&'c str>, String> {
    command.map_or(Ok(None), |command| command.value(flag))
}

/// The files of `--config-dir` and of `--config`.
fn read_files(
    root: &Path,
    command: Option<&ClientCommand>,
    is_running: bool,
) -> Result<Vec<(String, String)>, String> {
    let mut files = Vec::new();
    if let Some(folder) = value(command, "--config-dir")? {
        // The kubelet does not follow a link here, unless the path ends in a slash.
        let link = folder_of(root, folder).symlink_metadata().is_ok_and(|at| at.is_symlink());
        if !link || folder.ends_with('/') {
            add_drop_ins(root, folder, &mut files)?;
            files.reverse();
        }
    }
    match value(command, "--config")? {
        Some(name) => {
            let text = settings(root, name).ok_or_else(|| format!("there is no {name}"))??;
            files.push((name.to_owned(), text));
        }
        // A process without that flag reads no file.
        None if is_running => {}
        None => {
            let text = settings(root, KUBELET_FILE).transpose()?;
            files.extend(text.map(|text| (KUBELET_FILE.to_owned(), text)));
        }
    }
    Ok(files)
}

fn folder_of(root: &Path, folder: &str) -> PathBuf {
    root.join(folder.trim_matches('/'))
}

/// Adds the files of `--config-dir` and its folders, in the order in which the kubelet reads them.
fn add_drop_ins(
    root: &Path,
    folder: &str,
    files: &mut Vec<(String, String)>,
) -> Result<(), String> {
    let failed = |e| format!("{folder}, of the kubelet's --config-dir, cannot be read: {e}");
    let entries =
        folder_of(root, folder).read_dir().and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut entries = entries.map_err(failed)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let name = format!("{}/{}", folder.trim_end_matches('/'), name.to_string_lossy());
        // As the kubelet does, this does not go into a folder through a link.
        if entry.file_type().map_err(failed)?.is_dir() {
            add_drop_ins(root, &name, files)?;
        } else if name.ends_with(DROP_IN_SUFFIX) {
            if files.len() == MAX_DROP_INS {
                return Err(format!(
                    "the kubelet's --config-dir has more than {MAX_DROP_INS} files"
                ));
            }
            let text = settings(root, &name).ok_or_else(|| format!("there is no {name}"))??;
            files.push((name, text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::client::testing::{beside, machine};
    use super::super::layout::ADDRESS;
    use super::*;
    use std::fs;

    /// The lines of a kubelet that runs with these flags.
    fn running(files: &[(&str, &str)], flags: &str) -> Vec<String> {
        let machine = machine(files);
        let mut command = ClientCommand::of_text(&format!("/usr/bin/kubelet {flags}"));
        command.is_running = true;
        let found = kubelet(machine.path(), Some(&command));
        found.iter().map(|client| format!("{}: {client}", client.subject)).collect()
    }

    #[test]
    fn a_kubelet_that_runs_has_the_settings_of_its_command() {
        let default = format!("client kubelet: uses {ADDRESS}, by default");
        // kubeadm's files are another kubelet's.
        let files = [
            (KUBELET_FILE, "containerRuntimeEndpoint: unix:///file.sock\n"),
            (KUBELET_FLAGS_FILE, "KUBELET_KUBEADM_ARGS=--container-runtime-endpoint=/flags.sock\n"),
            ("/etc/k/own.yaml", "containerRuntimeEndpoint: unix:///own.sock\n"),
            ("/etc/k/plain.json", "{\"containerRuntimeEndpoint\": \"unix:///json.sock\"}"),
            ("/etc/k/without.yaml", "kind: KubeletConfiguration\n"),
        ];
        for flags in ["--v=2", "--config= --config-dir= --container-runtime-endpoint="] {
            assert_eq!(running(&files, flags), std::slice::from_ref(&default));
        }
        assert_eq!(running(&files, "--config=/etc/k/without.yaml"), [default]);
        let flag = "kubelet.service's --container-runtime-endpoint";
        let flags = "--config=/etc/k/own.yaml --container-runtime-endpoint=/a --container-runtime-endpoint=/b";
        for (flags, place, value) in [
            ("--config /etc/k/own.yaml", "/etc/k/own.yaml", "unix:///own.sock"),
            ("--config=/etc/k/plain.json", "/etc/k/plain.json", "unix:///json.sock"),
            (flags, flag, "/b"),
            ("--container-runtime-endpoint=/a=b", flag, "/a=b"),
        ] {
            assert_eq!(running(&files, flags), [beside("kubelet", place, value)]);
        }
        let found = running(&files, "--config=/etc/k/none.yaml --container-runtime-endpoint=/a");
        assert_eq!(found[0], beside("kubelet", flag, "/a"), "the flag needs no file");
        let found = running(&[], "--config=/etc/k/none.yaml");
        assert_eq!(
            found,
            ["client kubelet: its address is not known: there is no /etc/k/none.yaml"]
        );
    }

    #[test]
    fn a_kubelet_that_does_not_run_has_kubeadms_files() {
        let files = [(KUBELET_FILE, "containerRuntimeEndpoint: unix:///file.sock\n")];
        let machine = machine(&files);
        let stopped = |flags: &str| {
            let command = ClientCommand::of_text(&format!("/usr/bin/kubelet {flags}"));
            kubelet(machine.path(), Some(&command))[0].to_string()
        };
        let kubeadm = "$KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS";
        let expected = format!("{KUBELET_FILE} names unix:///file.sock, ");
        assert!(stopped(kubeadm).starts_with(&expected), "{}", stopped(kubeadm));
        for flag in ["--config=${X}", "--config-dir=/etc/$X", "--container-runtime-endpoint=$X"] {
            assert!(stopped(flag).starts_with("its address is not known: its --co"), "{flag}");
        }
        let flags = machine.path().join(KUBELET_FLAGS_FILE.trim_start_matches('/'));
        fs::write(
            flags,
            "# was: --container-runtime-endpoint=/old.sock\nKUBELET_KUBEADM_ARGS=\"--v=2 --container-runtime-endpoint=/new.sock\"\n",
        )
        .unwrap();
        let expected = format!("{KUBELET_FLAGS_FILE} names /new.sock, ");
        assert!(stopped(kubeadm).starts_with(&expected), "{}", stopped(kubeadm));
    }

    #[test]
    fn drop_ins_count_before_the_file_the_last_one_most() {
        let at = |value: &str| format!("containerRuntimeEndpoint: unix:///{value}.sock\n");
        let (base, a, b, c, other) = (at("base"), at("a"), at("b"), at("c"), at("other"));
        let files = [
            ("/etc/k/base.yaml", base.as_str()),
            ("/etc/k/d/10-a.conf", &a),
            ("/etc/k/d/20/b.conf", &b),
            ("/etc/k/d/90-other.yaml", &other),
            ("/etc/k/d/95-none.conf", "kind: KubeletConfiguration\n"),
        ];
        let flags = "--config=/etc/k/base.yaml --config-dir=/etc/k/d/";
        let expected = beside("kubelet", "/etc/k/d/20/b.conf", "unix:///b.sock");
        assert_eq!(running(&files, flags), [expected]);
        let more = [files.as_slice(), &[("/etc/k/d/30.conf", c.as_str())]].concat();
        let expected = beside("kubelet", "/etc/k/d/30.conf", "unix:///c.sock");
        assert_eq!(running(&more, flags), [expected]);
        let null = [files.as_slice(), &[("/etc/k/d/40.conf", "containerRuntimeEndpoint: null\n")]];
        let default = format!("client kubelet: uses {ADDRESS}, by default");
        assert_eq!(running(&null.concat(), flags), [default], "a null takes the value back");
        let found = running(&files, "--config-dir=/etc/none");
        assert!(found[0].contains("its address is not known: /etc/none, of the"), "{found:?}");
    }

    #[test]
    fn a_folder_of_drop_ins_is_followed_through_a_link_only_with_a_slash() {
        let file = "containerRuntimeEndpoint: unix:///a.sock\n";
        let machine = machine(&[("/etc/k/d/a.conf", file)]);
        std::os::unix::fs::symlink("d", machine.path().join("etc/k/link")).unwrap();
        let found = |folder| {
            let mut command = ClientCommand::of_text(&format!("kubelet --config-dir={folder}"));
            command.is_running = true;
            kubelet(machine.path(), Some(&command))[0].to_string()
        };
        assert!(found("/etc/k/link").ends_with("by default"));
        assert!(found("/etc/k/link/").contains("unix:///a.sock"), "{}", found("/etc/k/link/"));
    }

    #[test]
    fn too_many_drop_ins_are_a_note() {
        let machine = machine(&[]);
        let folder = machine.path().join("etc/k");
        fs::create_dir_all(&folder).unwrap();
        let command = ClientCommand::of_text("kubelet --config-dir=/etc/k");
        let found = |count: usize| {
            for name in 0..count {
                fs::write(folder.join(format!("{name}.conf")), "").unwrap();
            }
            kubelet(machine.path(), Some(&command))[0].to_string()
        };
        assert!(found(MAX_DROP_INS).ends_with("by default"));
        assert!(found(MAX_DROP_INS + 1).ends_with("has more than 64 files"));
    }

    #[test]
    fn images_may_have_an_address_of_their_own() {
        let file =
            "containerRuntimeEndpoint: unix:///r.sock\nimageServiceEndpoint: \"unix:///i.sock\"\n";
        let files = [("/k.yaml", file)];
        let expected = [
            beside("kubelet", "/k.yaml", "unix:///r.sock"),
            beside("kubelet, images", "/k.yaml", "unix:///i.sock"),
        ];
        assert_eq!(running(&files, "--config=/k.yaml"), expected);
        let flags = "--config=/k.yaml --image-service-endpoint=/r.sock";
        assert_eq!(running(&files, flags), expected[..1], "the same socket");
    }
}
