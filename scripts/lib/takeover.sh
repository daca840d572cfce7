# shellcheck shell=bash
# A booted Debian whose containerd is taken over and released; sourced after common.sh, debian.sh, containerd.sh,
# machine.sh and expect.sh, never run.

address=/run/containerd/containerd.sock upstream=/run/containerd/containerd-upstream.sock
export address upstream

# takeover_root DEB [VERSION]: a Debian with the package, and with that containerd in place of Debian's own.
takeover_root() {
    local bin program
    need systemd-nspawn systemd-container
    debian_root d
    # shellcheck disable=SC2034 # machine_boot takes them
    MACHINE_ARGUMENTS=(--capability=all)
    if [[ ${2:-} ]]; then
        bin=$(containerd_in "$2")
        for program in containerd ctr containerd-shim-runc-v2; do
            install -m 755 "$bin/$program" "$DEBIAN_ROOT/usr/bin/$program"
        done
    fi
    cp "$1" "$DEBIAN_ROOT/root/lmdb-images.deb"
    inside dpkg -i /root/lmdb-images.deb >"$WORK/dpkg" 2>&1 || fail "dpkg: $(<"$WORK/dpkg")"
}

# takeover_boot: boots it. Containers in it need what runc asks of the kernel.
takeover_boot() {
    SYSTEMD_SECCOMP=0 machine_boot
    # The variable is that shell's.
    # shellcheck disable=SC2016
    machine sh -c 'for top in /sys/fs/cgroup /sys/fs/cgroup/*; do mount -o remount,bind,rw "$top" 2>/dev/null; done; :'
    await 60 "containerd" machine ctr version || fail "containerd does not run in it"
}

# seconds_since MOMENT: since that value of EPOCHREALTIME.
seconds_since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'; }

listens_on() { machine cat /proc/net/unix | awk -v path="$1" '$4 == "00010000" && $8 == path' | grep -q .; }
# is_ours: a service that containerd does not have refuses at that address.
is_ours() {
    local said
    said=$(machine timeout 10 lmdb-images watch --address "$address" --from 999999 2>&1) || true
    printf '%s\n' "$said"
    [[ $said == *999999* ]]
}
files() { machine find /etc /run/containerd -name '*takeover*' -o -name '*upstream*' | sort; }

# make_systemctl_kill: a systemctl before the real one in the PATH, which kills its parent where kill_at says.
make_systemctl_kill() {
    machine tee /usr/local/sbin/systemctl >/dev/null <<'SH'
#!/bin/bash
[[ -e /run/kill-at ]] || exec /usr/bin/systemctl "$@"
read -r when number </run/kill-at
for verb in daemon-reload enable disable start stop restart; do
    [[ " $* " == *" $verb "* ]] || continue
    count=$(($(cat /run/kill-count 2>/dev/null || echo 0) + 1))
    echo "$count" >/run/kill-count
    if ((count == number)); then
        rm /run/kill-at
        [[ $when == before ]] || /usr/bin/systemctl "$@"
        kill -KILL "$PPID"
        exit 1
    fi
done
exec /usr/bin/systemctl "$@"
SH
    machine chmod 755 /usr/local/sbin/systemctl
}

# kill_at before|after NUMBER: the next command is killed there, at that change that it asks of systemd.
kill_at() { machine bash -c "rm -f /run/kill-count; echo $1 $2 >/run/kill-at"; }

# run_has_ended: the unit in which the steps run, and its way back.
run_has_ended() { [[ $(machine /usr/bin/systemctl is-active lmdb-images-takeover-run.service || true) =~ inactive|failed|unknown ]]; }
