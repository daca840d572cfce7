//! The clients of containerd whose settings are on this machine, and the address that each of them uses.
//!
//! Only the files that the clients read by default are read. A file that cannot be parsed is a note, and does not stop
//! a takeover.

use std::fmt;
use std::path::{Path, PathBuf};

use super::layout::{ADDRESS, DOCKER_UNIT, OUR_ADDRESS};
use super::settings::{
    not_parsed, resolved, settings, socket_path, value_after, words, yaml_value,
};
use super::systemd::Systemd;
use super::unit;

const DOCKER_FILE: &str = "/etc/docker/daemon.json";
const CRICTL_FILE: &str = "/etc/crictl.yaml";
const NERDCTL_FILE: &str = "/etc/nerdctl/nerdctl.toml";
const BUILDKIT_FILE: &str = "/etc/buildkit/buildkitd.toml";
const KUBELET_FILE: &str = "/var/lib/kubelet/config.yaml";
const KUBELET_FLAGS_FILE: &str = "/var/lib/kubelet/kubeadm-flags.env";

/// The values of a flag that Go's `strconv.ParseBool` reads as false.
const GO_FALSE: [&str; 6] = ["0", "f", "F", "false", "False", "FALSE"];

/// The address that a client uses.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Endpoint {
    /// The settings do not name one.
    Default,
    /// The setting's place, and its value.
    Named(String, String),
    /// The client is set to use no containerd. The setting's place.
    Off(String),
    /// The settings cannot be read, and why.
    Unknown(String),
}

/// A client of containerd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Client {
    /// "client " and the name of the program.
    pub(crate) subject: &'static str,
    endpoint: Endpoint,
    /// The path of the socket, if the client uses one and it is known.
    path: Option<PathBuf>,
    /// Whether the takeover moves what the path leads to.
    is_moved: bool,
}

impl Client {
    fn new(root: &Path, subject: &'static str, endpoint: Endpoint) -> Self {
        let path = match &endpoint {
            Endpoint::Default => Some(PathBuf::from(ADDRESS)),
            Endpoint::Named(_, value) => socket_path(value),
            Endpoint::Off(_) | Endpoint::Unknown(_) => None,
        };
        let address = resolved(root, Path::new(ADDRESS));
        let is_moved = path.as_ref().is_some_and(|path| resolved(root, path) == address);
        Self { subject, endpoint, path, is_moved }
    }

    /// The path of the socket as the client has it, if the takeover moves it.
    pub(crate) fn moved_path(&self) -> Option<&Path> {
        self.path.as_deref().filter(|_| self.is_moved)
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.endpoint {
            Endpoint::Default => write!(f, "uses {ADDRESS}, by default"),
            Endpoint::Named(place, value) if self.is_moved => {
                write!(f, "uses {value}, by {place}")
            }
            Endpoint::Named(place, value) if self.path.as_deref() == Some(OUR_ADDRESS.as_ref()) => {
                write!(f, "{place} names {value}, our own socket: it goes through us already")
            }
            Endpoint::Named(place, value) => write!(
                f,
                "{place} names {value}, which the takeover does not move: it goes on beside us"
            ),
            Endpoint::Off(place) => write!(f, "uses no containerd, by {place}"),
            Endpoint::Unknown(why) => write!(f, "its address is not known: {why}"),
        }
    }
}

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
        let text = systemd.systemctl(&["cat", DOCKER_UNIT]).ok();
        let command = text.and_then(|text| unit::command(&text).ok());
        Self::below(Path::new("/"), command.as_deref())
    }

    /// Looks for the clients whose settings are below a folder. `dockerd` is the command of docker's unit, if there
    /// is such a unit.
    pub(crate) fn below(root: &Path, dockerd: Option<&str>) -> Self {
        let (docker, docker_has_live_restore) = docker(root, dockerd);
        let found = [docker, crictl(root), nerdctl(root), buildkit(root), kubelet(root)];
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

fn docker(root: &Path, command: Option<&str>) -> (Vec<Client>, bool) {
    let subject = "client docker";
    let words = command.map(words).unwrap_or_default();
    let by_flag = value_after(&words, "--containerd")
        .map(|value| Endpoint::Named(format!("{DOCKER_UNIT}'s --containerd"), value));
    let live_flag = words.iter().position(|word| *word == "--live-restore");
    let is_off = |word: &&str| GO_FALSE.contains(word);
    let live_flag = live_flag.is_some_and(|at| !words.get(at + 1).is_some_and(is_off));
    let settings = match settings(root, DOCKER_FILE) {
        None if command.is_none() => return (Vec::new(), false),
        None => None,
        Some(Ok(text)) if text.trim().is_empty() => None,
        Some(text) => Some(text.and_then(|text| {
            serde_json::from_str::<serde_json::Value>(&text).map_err(|e| not_parsed(DOCKER_FILE, e))
        })),
    };
    let mut live = live_flag;
    let endpoint = match settings {
        None => Endpoint::Default,
        Some(Err(why)) => Endpoint::Unknown(why),
        Some(Ok(json)) => {
            live |= json.get("live-restore").and_then(serde_json::Value::as_bool) == Some(true);
            named(DOCKER_FILE, json.get("containerd").and_then(serde_json::Value::as_str))
        }
    };
    (vec![Client::new(root, subject, by_flag.unwrap_or(endpoint))], live)
}

fn crictl(root: &Path) -> Vec<Client> {
    let Some(text) = settings(root, CRICTL_FILE) else { return Vec::new() };
    let of = |key| text.as_ref().map_err(Clone::clone).and_then(|text| yaml_value(text, key));
    let endpoint = |found: Result<Option<&str>, String>| match found {
        Ok(found) => named(CRICTL_FILE, found),
        Err(why) => Endpoint::Unknown(format!("{CRICTL_FILE}: {why}")),
    };
    let runtime = Client::new(root, "client crictl", endpoint(of("runtime-endpoint")));
    match of("image-endpoint") {
        // It is that of the runtime then.
        Ok(None | Some("")) => vec![runtime],
        images => {
            let images = Client::new(root, "client crictl, images", endpoint(images));
            if images.endpoint == runtime.endpoint { vec![runtime] } else { vec![runtime, images] }
        }
    }
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

/// The flag counts before the file.
fn kubelet(root: &Path) -> Vec<Client> {
    let (flags, file) = (settings(root, KUBELET_FLAGS_FILE), settings(root, KUBELET_FILE));
    if flags.is_none() && file.is_none() {
        return Vec::new();
    }
    let found = || {
        let flags = flags.transpose()?.unwrap_or_default();
        if let Some(value) = value_after(&words(&flags), "--container-runtime-endpoint") {
            return Ok(Endpoint::Named(KUBELET_FLAGS_FILE.into(), value));
        }
        let file = file.transpose()?.unwrap_or_default();
        let value = yaml_value(&file, "containerRuntimeEndpoint");
        Ok(named(KUBELET_FILE, value.map_err(|why| format!("{KUBELET_FILE}: {why}"))?))
    };
    vec![Client::new(root, "client kubelet", found().unwrap_or_else(Endpoint::Unknown))]
}

/// An empty setting is the default.
fn named(place: &str, value: Option<&str>) -> Endpoint {
    match value {
        None | Some("") => Endpoint::Default,
        Some(value) => Endpoint::Named(place.into(), value.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::MAX_SETTINGS_BYTES;
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// A machine with these files, the address, and `/var/run` that leads to `/run`.
    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(at("/run/containerd")).unwrap();
        fs::create_dir_all(at("/var")).unwrap();
        fs::write(at(ADDRESS), "").unwrap();
        symlink("../run", at("/var/run")).unwrap();
        for (path, text) in files {
            fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            fs::write(at(path), text).unwrap();
        }
        dir
    }

    /// The lines of the clients with these files.
    fn lines(files: &[(&str, &str)], dockerd: Option<&str>) -> Vec<String> {
        let machine = machine(files);
        let found = Clients::below(machine.path(), dockerd).found;
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
            (CRICTL_FILE, "runtime-endpoint: unix:///r.sock # here\nimage-endpoint: '/i.sock'\n"),
            (NERDCTL_FILE, "address = \"unix:///var/run/containerd/containerd.sock\"\n"),
            (
                BUILDKIT_FILE,
                "[worker.containerd]\naddress = \"/run/lmdb-images/containerd.sock\"\n",
            ),
            (KUBELET_FILE, "containerRuntimeEndpoint: unix:///k.sock\n"),
        ];
        let beside = |name: &str, file: &str, value: &str| {
            format!(
                "client {name}: {file} names {value}, which the takeover does not move: it goes on beside us"
            )
        };
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
    fn settings_that_cannot_be_read_are_a_note() {
        let long = "a".repeat(MAX_SETTINGS_BYTES as usize + 1);
        for (file, text, why) in [
            (DOCKER_FILE, "{\"containerd\": ", "daemon.json cannot be parsed: EOF"),
            (NERDCTL_FILE, "address = ", "nerdctl.toml cannot be parsed: "),
            (BUILDKIT_FILE, "[worker.containerd\n", "buildkitd.toml cannot be parsed: "),
            (CRICTL_FILE, "runtime-endpoint: \"/x\n", "runtime-endpoint has no end of its quotes"),
            (KUBELET_FILE, "containerRuntimeEndpoint: {a: \u{1b}}\n", "has \"{a: \\x1b}\", not a"),
            (CRICTL_FILE, &long, "is longer than 1048576 bytes"),
        ] {
            let found = lines(&[(file, text)], None);
            assert!(
                found[0].contains("its address is not known: ") && found[0].contains(why),
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
        let paths = Clients::below(machine.path(), None).moved_paths();
        let expected = [ADDRESS, "/var/run/containerd/containerd.sock", link].map(PathBuf::from);
        assert_eq!(paths, expected);
        // Between two states there may be no socket: the folders lead there still.
        fs::remove_file(at).unwrap();
        fs::remove_file(machine.path().join(ADDRESS.trim_start_matches('/'))).unwrap();
        assert_eq!(Clients::below(machine.path(), None).moved_paths(), expected[..2]);
    }

    #[test]
    fn live_restore_is_a_setting_or_a_flag() {
        let has = |json: &str, command: &str| {
            Clients::below(machine(&[(DOCKER_FILE, json)]).path(), Some(command))
                .docker_has_live_restore
        };
        assert!(has("{\"live-restore\": true}", "dockerd"));
        assert!(has("{}", "dockerd --live-restore -D"));
        assert!(!has("{\"live-restore\": false}", "dockerd --live-restore=false"));
        assert!(!has("{}", "dockerd --live-restore=0"));
        assert!(!has("{\"live-restore\": ", "dockerd"), "not known");
    }
}
