# shellcheck shell=bash
# A booted Debian in a container, with systemd as PID 1; sourced after common.sh and debian.sh, never run.
# debian_root makes its files.

# machine_boot: boots DEBIAN_ROOT, with the further arguments for systemd-nspawn in MACHINE_ARGUMENTS. Its
# output goes to $WORK/boot.log; the machine ends with the script.
MACHINE_ARGUMENTS=()
machine_boot() {
    local own=${WORK##*/}.machine hierarchy
    # As its own, without the machine's systemd, which need not be there. Two machines in one control group would take
    # each other's services for their own.
    on_exit await 20 "the end of the machine's control groups" cgroups_are_gone
    for hierarchy in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
        [[ ! -e $hierarchy/cgroup.procs ]] || mkdir -p "$hierarchy/$own"
    done
    (
        for hierarchy in /sys/fs/cgroup/{systemd,unified}/"$own"; do
            [[ ! -d $hierarchy ]] || echo "$BASHPID" >"$hierarchy/cgroup.procs"
        done
        exec systemd-nspawn --quiet --boot --register=no --keep-unit --private-network --console=pipe \
            --machine="li-$$" --directory="$DEBIAN_ROOT" "${MACHINE_ARGUMENTS[@]}"
    ) </dev/null >>"$WORK/boot.log" 2>&1 &
    MACHINE_PID=$!
    record_pid "$MACHINE_PID"
    on_exit machine_kill
    await 60 "PID 1" machine_is_booted || { tail -n 20 "$WORK/boot.log" >&2; die "no systemd boots in a container here"; }
}
machine_is_booted() { machine systemctl is-system-running | grep -E 'running|degraded'; }

# machine_stop: shuts it down in order, as TERM is nspawn's word for that.
machine_stop() { stop_process "$MACHINE_PID"; }

# machine_kill: ends all of it at once, and nspawn with it. nspawn does not take it along when it is killed itself.
machine_kill() {
    local first
    ! first=$(machine_first) || kill -KILL "$first"
}

# machine_first: prints the id of its first process, which is nspawn's only child.
machine_first() {
    local first
    read -r first _ < <(cat /proc/"$MACHINE_PID"/task/*/children 2>/dev/null) || true
    # With a number: in a trap, bash would return what was before it.
    [[ $first ]] || return 1
    printf '%s\n' "$first"
}

# machine COMMAND...: in it, as from a login.
machine() {
    local first
    first=$(machine_first) || return 1
    nsenter --target "$first" --mount --uts --ipc --net --pid --cgroup --root --wd \
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 SYSTEMD_PAGER= "$@"
}

# remove_machine_folder: the one that nspawn leaves where /run is on a disk. It is the last thing that is done at exit.
remove_machine_folder() { rmdir "/run/systemd/nspawn/propagate/li-$$" 2>/dev/null || true; }
on_exit remove_machine_folder
