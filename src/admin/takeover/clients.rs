//! The clients of containerd whose settings are on this machine, and the address that each of them uses.
//!
//! Only the files that the clients read by default are read. A file that cannot be parsed is a note, and does not stop
//! a takeover.

use std::path::{Path, PathBuf};

use super::client::{Client, Endpoint, named, with_images};
use super::commands::{ClientCommand, ClientCommands};
use super::kubelet::kubelet;
use super::layout::{ADDRESS, DOCKER_UNIT};
use super::settings::{not_parsed, settings, variable};
use super::systemd::Systemd;
use super::yaml::top_value;

const DOCKER_FILE: &str = "/etc/docker/daemon.json";
const CRICTL_FILE: &str = "/etc/crictl.yaml";
const NERDCTL_FILE: &str = "/etc/nerdctl/nerdctl.toml";
const BUILDKIT_FILE: &str = "/etc/buildkit/buildkitd.toml";

/// The file with variables for every session, by pam_env.
const ENVIRONMENT_FILE: &str = "/etc/environment";

/// The variable from which ctr and nerdctl take the address, unless a flag names it.
const ADDRESS_VARIABLE: &str = "CONTAINERD_ADDRESS";

/// The clients that were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Clients {
    /// The clients, one for each address that its settings can name.
    pub(crate) found: Vec<Client>,
    /// Whether docker's containers outlive a restart of dockerd, by its settings.
    pub(crate) docker_has_live_restore: bool,
}

impl Clients {
    /// Looks for the clients of this machine.
    pub(crate) fn of_machine(systemd: &mut impl Systemd) -> Self {
        Self::below(Path::new("/"), &ClientCommands::of_machine(systemd))
    }

    /// Looks for the clients that have these commands, or settings below a folder.
    pub(crate) fn below(root: &Path, commands: &ClientCommands) -> Self {
        let (docker, docker_has_live_restore) = docker(root, commands.dockerd.as_ref());
        let kubelet = kubelet(root, commands.kubelet.as_ref());
        let found = [docker, crictl(root), nerdctl(root), buildkit(root), kubelet, sessions(root)];
        Self { found: found.into_iter().flatten().collect(), docker_has_live_restore }
    }

    /// [`ADDRESS`], and the other paths by which clients come to it. Each path once.
    pub(crate) fn moved_paths(&self) -> Vec<PathBuf> {
        let mut paths = vec![PathBuf::from(ADDRESS)];
        for path in self.found.iter().filter_map(Client::moved_path) {
            if !paths.iter().any(|known| known == path) {
                paths.push(path.to_owned());
            }
        }
        paths
    }
}

fn docker(root: &Path, command: Option<&ClientCommand>) -> (Vec<Client>, bool) {
    let value = |flag| command.map_or(Ok(None), |command| command.value(flag));
    let settings = match value("--config-file") {
        Ok(file) => docker_settings(root, file),
        Err(why) => Err(why),
    };
    if command.is_none() && settings == Ok(None) {
        return (Vec::new(), false);
    }
    let is_live = |json: &serde_json::Value| json.get("live-restore")?.as_bool();
    let live = command.is_some_and(|command| command.is_on("--live-restore"))
        || settings
            .as_ref()
            .is_ok_and(|found| found.as_ref().and_then(|(_, json)| is_live(json)) == Some(true));
    let endpoint = match (value("--containerd"), settings) {
        (Ok(Some(value)), _) => named(&format!("{DOCKER_UNIT}'s --containerd"), Some(value)),
        (Err(why), _) | (_, Err(why)) => Endpoint::Unknown(why),
        (Ok(None), Ok(None)) => Endpoint::Default,
        (Ok(None), Ok(Some((name, json)))) => {
            named(&name, json.get("containerd").and_then(serde_json::Value::as_str))
        }
    };
    (vec![Client::new(root, "client docker", endpoint)], live)
}

/// The name of dockerd's file of settings, and the file. It need not exist, unless a flag names it.
fn docker_settings(
    root: &Path,
    by_flag: Option<&str>,
) -> Result<Option<(String, serde_json::Value)>, String> {
    let name = by_flag.unwrap_or(DOCKER_FILE);
    match settings(root, name).transpose()? {
        None if by_flag.is_some() => Err(format!("there is no {name}")),
        None => Ok(None),
        Some(text) if text.trim().is_empty() => Ok(Some((name.into(), serde_json::Value::Null))),
        Some(text) => {
            let json = serde_json::from_str(&text).map_err(|e| not_parsed(name, e))?;
            Ok(Some((name.into(), json)))
        }
    }
}

fn crictl(root: &Path) -> Vec<Client> {
    let Some(text) = settings(root, CRICTL_FILE) else { return Vec::new() };
    let endpoint = |key| match &text {
        Ok(text) => match top_value(text, key) {
            Ok(found) => named(CRICTL_FILE, found.as_deref()),
            Err(why) => Endpoint::Unknown(not_parsed(CRICTL_FILE, why)),
        },
        Err(why) => Endpoint::Unknown(why.clone()),
    };
    with_images(
        Client::new(root, "client crictl", endpoint("runtime-endpoint")),
        Client::new(root, "client crictl, images", endpoint("image-endpoint")),
    )
}

fn nerdctl(root: &Path) -> Vec<Client> {
    toml_client(root, "client nerdctl", NERDCTL_FILE, |table| {
        named(NERDCTL_FILE, table.get("address").and_then(toml::Value::as_str))
    })
}

fn buildkit(root: &Path) -> Vec<Client> {
    toml_client(root, "client buildkit", BUILDKIT_FILE, |table| {
        let worker = table.get("worker").and_then(|workers| workers.get("containerd"));
        let of = |key| worker.and_then(|worker| worker.get(key));
        if of("enabled").and_then(toml::Value::as_bool) == Some(false) {
            return Endpoint::Off(BUILDKIT_FILE.into());
        }
        named(BUILDKIT_FILE, of("address").and_then(toml::Value::as_str))
    })
}

fn toml_client(
    root: &Path,
    subject: &'static str,
    name: &str,
    endpoint: impl Fn(&toml::Table) -> Endpoint,
) -> Vec<Client> {
    let Some(text) = settings(root, name) else { return Vec::new() };
    let table = text.and_then(|text| {
        // The error's own text repeats the line, over several lines.
        text.parse::<toml::Table>().map_err(|e| not_parsed(name, e.message()))
    });
    let endpoint = table.as_ref().map_or_else(|why| Endpoint::Unknown(why.clone()), endpoint);
    vec![Client::new(root, subject, endpoint)]
}

/// The variable of every session, if the file has it.
fn sessions(root: &Path) -> Vec<Client> {
    let place = format!("{ADDRESS_VARIABLE} in {ENVIRONMENT_FILE}");
    let endpoint = match settings(root, ENVIRONMENT_FILE) {
        None => return Vec::new(),
        Some(Err(why)) => Endpoint::Unknown(why),
        Some(Ok(text)) => match variable(&text, ADDRESS_VARIABLE) {
            None => return Vec::new(),
            Some(value) => named(&place, Some(value)),
        },
    };
    vec![Client::new(root, "client ctr, nerdctl", endpoint)]
}

#[cfg(test)]
mod tests {
    use super::super::client::testing::{beside, machine};
    use super::super::kubelet::{KUBELET_FILE, KUBELET_FLAGS_FILE};
    use super::super::settings::MAX_SETTINGS_BYTES;
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn commands(dockerd: Option<&str>) -> ClientCommands {
        ClientCommands { dockerd: dockerd.map(ClientCommand::of_text), kubelet: None }
    }

    /// The lines of the clients with these files.
    fn lines(files: &[(&str, &str)], dockerd: Option<&str>) -> Vec<String> {
        let machine = machine(files);
        let found = Clients::below(machine.path(), &commands(dockerd)).found;
        found.iter().map(|client| format!("{}: {client}", client.subject)).collect()
    }

    #[test]
    fn a_client_without_a_setting_uses_the_address() {
        assert_eq!(lines(&[], None), [""; 0], "no client");
        let files = [
            (DOCKER_FILE, "{\"bridge\": \"none\"}"),
            (CRICTL_FILE, "timeout: 2\nruntime-endpoint: \"\"\n"),
            (NERDCTL_FILE, "debug = false\n"),
            (BUILDKIT_FILE, "[worker.oci]\nenabled = true\n"),
            (KUBELET_FILE, "kind: KubeletConfiguration\nx:\n  containerRuntimeEndpoint: /y\n"),
        ];
        let expected = ["docker", "crictl", "nerdctl", "buildkit", "kubelet"]
            .map(|name| format!("client {name}: uses {ADDRESS}, by default"));
        assert_eq!(lines(&files, None), expected);
        assert_eq!(lines(&[], Some("/usr/sbin/dockerd -H fd://")), expected[..1]);
        assert_eq!(
            lines(&[(DOCKER_FILE, "")], None),
            expected[..1],
            "dockerd accepts an empty file"
        );
    }

    #[test]
    fn the_setting_of_each_client_is_found() {
        let files = [
            (DOCKER_FILE, "{\"containerd\": \"/d.sock\"}"),
            (
                CRICTL_FILE,
                "\"runtime-endpoint\": unix:///r.sock # here\nimage-endpoint: '/i.sock'\n",
            ),
            (NERDCTL_FILE, "address = \"unix:///var/run/containerd/containerd.sock\"\n"),
            (
                BUILDKIT_FILE,
                "[worker.containerd]\naddress = \"/run/lmdb-images/containerd.sock\"\n",
            ),
            (KUBELET_FILE, "containerRuntimeEndpoint: unix:///k.sock\n"),
        ];
        let expected = [
            beside("docker", DOCKER_FILE, "/d.sock"),
            beside("crictl", CRICTL_FILE, "unix:///r.sock"),
            beside("crictl, images", CRICTL_FILE, "/i.sock"),
            format!(
                "client nerdctl: uses unix:///var/run/containerd/containerd.sock, by {NERDCTL_FILE}"
            ),
            format!(
                "client buildkit: {BUILDKIT_FILE} names /run/lmdb-images/containerd.sock, our own socket: it goes \
                 through us already"
            ),
            beside("kubelet", KUBELET_FILE, "unix:///k.sock"),
        ];
        assert_eq!(lines(&files, None), expected);
        // Flags count before files.
        let flags = "KUBELET_KUBEADM_ARGS=\"--x=1 --container-runtime-endpoint=unix:///f.sock\"\n";
        let files = [(KUBELET_FLAGS_FILE, flags), (KUBELET_FILE, "containerRuntimeEndpoint: /k\n")];
        assert_eq!(lines(&files, None), [beside("kubelet", KUBELET_FLAGS_FILE, "unix:///f.sock")]);
        let dockerd = "/usr/sbin/dockerd --containerd-namespace x --containerd=/run/containerd/containerd.sock $OPTS";
        let expected = format!("client docker: uses {ADDRESS}, by docker.service's --containerd");
        assert_eq!(lines(&[(DOCKER_FILE, "{}")], Some(dockerd)), [expected]);
        let off = [(BUILDKIT_FILE, "[worker.containerd]\nenabled = false\n")];
        let expected = format!("client buildkit: uses no containerd, by {BUILDKIT_FILE}");
        assert_eq!(lines(&off, None), [expected]);
    }

    #[test]
    fn docker_has_the_file_that_its_flag_names() {
        let files = [
            (DOCKER_FILE, "{\"containerd\": \"/d.sock\", \"live-restore\": true}"),
            ("/x.json", "{\"containerd\": \"/x.sock\"}"),
        ];
        let command = "/usr/bin/dockerd --config-file /x.json --containerd=";
        assert_eq!(lines(&files, Some(command)), [beside("docker", "/x.json", "/x.sock")]);
        let machine = machine(&files);
        assert!(!Clients::below(machine.path(), &commands(Some(command))).docker_has_live_restore);
        let found = lines(&files, Some("/usr/bin/dockerd --config-file=/none.json"));
        assert_eq!(found, ["client docker: its address is not known: there is no /none.json"]);
    }

    #[test]
    fn the_variable_of_every_session_is_an_address() {
        let line = |text| lines(&[(ENVIRONMENT_FILE, text)], None);
        let place = "CONTAINERD_ADDRESS in /etc/environment";
        assert_eq!(line("PATH=/bin\nXCONTAINERD_ADDRESS=/x\n#CONTAINERD_ADDRESS=/y\n"), [""; 0]);
        for text in [
            "CONTAINERD_ADDRESS=/v.sock\n",
            "CONTAINERD_ADDRESS=/old.sock\n  export CONTAINERD_ADDRESS=\"/v.sock\" # ours\n",
        ] {
            assert_eq!(line(text), [beside("ctr, nerdctl", place, "/v.sock")]);
        }
        let expected = format!("client ctr, nerdctl: uses {ADDRESS}, by {place}");
        assert_eq!(line(&format!("CONTAINERD_ADDRESS='{ADDRESS}'")), [expected]);
    }

    #[test]
    fn settings_that_cannot_be_read_are_a_note() {
        let long = "a".repeat(MAX_SETTINGS_BYTES as usize + 1);
        for (file, text, why) in [
            (DOCKER_FILE, "{\"containerd\": ", "daemon.json cannot be parsed: EOF"),
            (NERDCTL_FILE, "address = ", "nerdctl.toml cannot be parsed: "),
            (BUILDKIT_FILE, "[worker.containerd\n", "buildkitd.toml cannot be parsed: "),
            (
                CRICTL_FILE,
                "runtime-endpoint: \"/x\n",
                "crictl.yaml cannot be parsed: while scanning",
            ),
            (CRICTL_FILE, "\u{1b}[1m\n", "crictl.yaml "),
            (
                KUBELET_FILE,
                "containerRuntimeEndpoint: {a: b}\n",
                "containerRuntimeEndpoint is no text",
            ),
            (CRICTL_FILE, &long, "is longer than 1048576 bytes"),
            (ENVIRONMENT_FILE, &long, "is longer than 1048576 bytes"),
            (KUBELET_FILE, "{\"containerRuntimeEndpoint\": ", "config.yaml cannot be parsed: "),
        ] {
            let found = lines(&[(file, text)], None);
            assert!(
                found[0].contains("its address is not known: ")
                    && found[0].contains(why)
                    && !found[0].contains('\u{1b}'),
                "{found:?}"
            );
        }
    }

    #[test]
    fn every_path_to_the_address_is_tried_once() {
        let link = "/run/k8s.sock";
        let files = [
            (DOCKER_FILE, "{}"),
            (
                CRICTL_FILE,
                "runtime-endpoint: unix:///var/run/containerd/containerd.sock\nimage-endpoint: \"\"\n",
            ),
            (NERDCTL_FILE, "address = \"/var/run/containerd/containerd.sock\"\n"),
            (BUILDKIT_FILE, "[worker.containerd]\naddress = \"/run/other.sock\"\n"),
            (KUBELET_FILE, "containerRuntimeEndpoint: unix:///run/k8s.sock\n"),
        ];
        let machine = machine(&files);
        let at = machine.path().join(link.trim_start_matches('/'));
        symlink("containerd/containerd.sock", &at).unwrap();
        let paths = Clients::below(machine.path(), &commands(None)).moved_paths();
        let expected = [ADDRESS, "/var/run/containerd/containerd.sock", link].map(PathBuf::from);
        assert_eq!(paths, expected);
        // Between two states there may be no socket: the folders lead there still.
        fs::remove_file(at).unwrap();
        fs::remove_file(machine.path().join(ADDRESS.trim_start_matches('/'))).unwrap();
        assert_eq!(Clients::below(machine.path(), &commands(None)).moved_paths(), expected[..2]);
    }

    #[test]
    fn live_restore_is_a_setting_or_a_flag() {
        let has = |json: &str, command: &str| {
            Clients::below(machine(&[(DOCKER_FILE, json)]).path(), &commands(Some(command)))
                .docker_has_live_restore
        };
        assert!(has("{\"live-restore\": true}", "dockerd"));
        assert!(has("{}", "dockerd --live-restore -D"));
        assert!(!has("{\"live-restore\": false}", "dockerd --live-restore=false"));
        assert!(!has("{}", "dockerd --live-restore=0"));
        assert!(!has("{\"live-restore\": ", "dockerd"), "not known");
    }
}
