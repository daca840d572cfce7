//! Reads the command of a service from the text of its unit.
//!
//! `systemctl show` has the command too, but without its quotes, so its output cannot be written to another unit.
//! This module returns the unchanged text of the unit, which can.

use std::path::Path;

use go_compat::quote::quote;

/// Returns the command of the only `ExecStart=` that holds, from the text of `systemctl cat`.
///
/// # Errors
/// A sentence, if there is not exactly one.
pub(crate) fn command(text: &str) -> Result<String, String> {
    let (mut section, mut commands) = (String::new(), Vec::new());
    for line in logical_lines(text) {
        if line.starts_with('[') {
            section = line;
            continue;
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        if section != "[Service]" || key.trim() != "ExecStart" {
            continue;
        }
        // An empty value takes back those before it.
        match value.trim() {
            "" => commands.clear(),
            value => commands.push(value.to_owned()),
        }
    }
    let mut commands = commands.into_iter();
    match (commands.next(), commands.next()) {
        (Some(command), None) => Ok(command),
        (None, _) => Err("its unit has no ExecStart=".into()),
        (Some(_), Some(_)) => Err("its unit has more than one ExecStart=".into()),
    }
}

/// Joins lines that end in a backslash. Comments end nothing.
fn logical_lines(text: &str) -> Vec<String> {
    let (mut lines, mut open) = (Vec::new(), String::new());
    for line in text.lines() {
        if line.trim_start().starts_with(['#', ';']) {
            continue;
        }
        match line.strip_suffix('\\') {
            Some(begun) => {
                open.push_str(begun);
                open.push(' ');
            }
            None => {
                open.push_str(line);
                lines.push(std::mem::take(&mut open).trim().to_owned());
            }
        }
    }
    lines.push(open.trim().to_owned());
    lines
}

/// Returns the program of a command.
pub(crate) fn program(command: &str) -> &str {
    let bare = command.trim_start_matches(['-', '@', ':', '+', '!', '|']);
    bare.split_whitespace().next().unwrap_or_default()
}

/// Checks that flags at the end of a command become flags of containerd's.
///
/// # Errors
/// The reason against a takeover, and what to do.
pub(crate) fn check_containerd(command: &str) -> Result<(), String> {
    let shown = quote(command);
    let is_containerd =
        Path::new(program(command)).file_name().is_some_and(|name| name == "containerd");
    if !is_containerd {
        return Err(format!(
            "its unit starts it by {shown}, and not as containerd itself, so it takes no further flag: \
             start it directly"
        ));
    }
    let modifiers = command.split(program(command)).next().unwrap_or_default();
    if modifiers.contains(':') {
        return Err(format!(
            "its unit's command {shown} has the prefix \":\", which turns variables off: remove the prefix"
        ));
    }
    let mut words = command.split_whitespace().skip(1);
    let own_address = |word: &str| {
        let name = word.split('=').next().unwrap_or_default();
        matches!(name, "--address" | "-address" | "-a" | "--a")
    };
    if let Some(word) =
        words.find(|word| own_address(word) || *word == ";" || word.starts_with('#'))
    {
        return Err(format!(
            "its unit's command {shown} has {}, so no further --address can follow: remove it",
            quote(word)
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_command_of_a_unit_is_used_unchanged() {
        let text = "# /lib/systemd/system/containerd.service\n\
                    [Unit]\nExecStart=/not/this\n[Service]\nExecStartPre=-/sbin/modprobe overlay\n\
                    ExecStart=/usr/bin/containerd\n\
                    # /etc/systemd/system/containerd.service.d/x.conf\n[Service]\nExecStart=\n\
                    ExecStart=/opt/containerd --config \"/etc/a b\" \\\n# a comment\n    --log-level ${LEVEL}\n";
        let expected = "/opt/containerd --config \"/etc/a b\"      --log-level ${LEVEL}";
        let found = command(text).unwrap();
        assert_eq!(
            found.split_whitespace().collect::<Vec<_>>(),
            expected.split_whitespace().collect::<Vec<_>>()
        );
        assert_eq!(command("[Service]\nType=notify\n").unwrap_err(), "its unit has no ExecStart=");
        let two = command("[Service]\nExecStart=/a\nExecStart=/b\n").unwrap_err();
        assert_eq!(two, "its unit has more than one ExecStart=");
    }

    #[test]
    fn only_a_command_that_takes_a_further_flag_is_containerds() {
        for good in ["/usr/bin/containerd", "-@/opt/bin/containerd containerd --config /x -l debug"]
        {
            check_containerd(good).unwrap();
        }
        for (bad, why) in [
            ("/bin/sh -c \"exec containerd\"", "not as containerd itself"),
            ("/usr/bin/containerd --address /run/other.sock", "has \"--address\""),
            ("/usr/bin/containerd -a=/run/other.sock", "has \"-a=/run/other.sock\""),
            (":/usr/bin/containerd $X", "the prefix \":\""),
            ("/usr/bin/containerd ; /bin/true", "has \";\""),
        ] {
            let error = check_containerd(bad).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
