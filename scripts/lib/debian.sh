# shellcheck shell=bash
# Debian's archive, and a small Debian to try things in; sourced after common.sh, never run.

# mirrors: prints the addresses at which the machine may have Debian's archive,
# the likeliest first. apt itself is asked, as it alone knows all forms of its
# sources; "--no-release-info" has it answer for lists never fetched, too.
# A source is likely a mirror if it carries the machine's own release and has the name of an archive;
# other repositories may look the same, so each mirror is only a candidate.
mirrors() {
    local release address codename rank
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
    while IFS='|' read -r release address; do
        rank=0
        [[ $release != "$codename" ]] || rank=$((rank + 1))
        [[ $address != */debian/ ]] || rank=$((rank + 2))
        printf '%s %s\n' "$rank" "$address"
    done < <(apt-get indextargets --no-release-info \
        --format "\$(RELEASE)|\$(REPO_URI)" 'Created-By: Packages') |
        sort -s -k1,1nr | awk '!seen[$2]++ { print $2 }'
}

# The packages of a tree beside a minimal Debian: systemd as PID 1, Debian's containerd and
# its dockerd, and the readers of manual pages and completions.
DEBIAN_PACKAGES=systemd,systemd-sysv,dbus,ca-certificates,man-db,bash-completion,zsh,fish,containerd,runc,docker.io

# debian_base: has target/trees/bookworm hold a Debian 12, made the first time and never
# changed; sets DEBIAN_BASE.
debian_base() {
    local address made=
    DEBIAN_BASE=$REPO/target/trees/bookworm
    [[ $(cat "$DEBIAN_BASE.packages" 2>/dev/null) != "$DEBIAN_PACKAGES" ]] || return 0
    ((EUID == 0)) || die "a tree of Debian is made as root only"
    need debootstrap debootstrap
    make_tmp
    mkdir -p "$REPO/target/trees"
    say "making a Debian 12 in target/trees (some minutes, the first time)"
    for address in $(mirrors); do
        rm -rf --one-file-system "$DEBIAN_BASE" "$DEBIAN_BASE.new"
        ! debootstrap --variant=minbase --include="$DEBIAN_PACKAGES" bookworm "$DEBIAN_BASE.new" "$address" \
            >"$WORK/debootstrap.log" 2>&1 </dev/null || { made=1; break; }
    done
    [[ $made ]] || { tail -n 20 "$WORK/debootstrap.log" >&2; die "debootstrap failed"; }
    rm -f "$DEBIAN_BASE.new"/var/cache/apt/archives/*.deb
    # Only where a script asks for it: it wants settings of its own to run in a container.
    chroot "$DEBIAN_BASE.new" systemctl --quiet disable docker.service docker.socket
    mv -T "$DEBIAN_BASE.new" "$DEBIAN_BASE"
    printf '%s\n' "$DEBIAN_PACKAGES" >"$DEBIAN_BASE.packages"
}

# debian_root NAME: a Debian of the script's own, as debian_base made it, gone at exit; sets
# DEBIAN_ROOT. Changes in it stay in memory if the kernel allows that.
debian_root() {
    local dir
    debian_base
    make_tmp
    dir=$WORK/$1
    DEBIAN_ROOT=$dir/root
    mkdir -p "$dir"
    mount -t tmpfs -o mode=755 tree "$dir"
    mkdir "$dir/changed" "$dir/work" "$DEBIAN_ROOT"
    mount -t overlay -o "lowerdir=$DEBIAN_BASE,upperdir=$dir/changed,workdir=$dir/work" tree "$DEBIAN_ROOT" 2>/dev/null ||
        cp -a "$DEBIAN_BASE/." "$DEBIAN_ROOT"
}

# inside COMMAND...: in that Debian, with processes and /proc of its own: none is left.
inside() {
    unshare --mount --pid --fork --kill-child --mount-proc="$DEBIAN_ROOT/proc" \
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
        chroot "$DEBIAN_ROOT" "$@" </dev/null
}
