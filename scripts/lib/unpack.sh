# shellcheck shell=bash
# Programs of Debian's packages, unpacked and not installed; sourced after common.sh, never run.
#
# No service is started, and the machine's package lists stay as they are: apt gets a
# configuration, lists and a cache of its own, with the machine's mirror.

# shellcheck source=SCRIPTDIR/debian.sh
. "$SCRIPTS/lib/debian.sh"
umask 022

# prepare_apt SUITE: fetches that suite's package list into $WORK/apt, with the
# machine's mirror, proxy and credentials, but nothing else of it.
prepare_apt() {
    local suite=$1 address architecture signed_by keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    architecture=$(dpkg --print-architecture)
    # Without the keyring's file apt falls back to the keys that it trusts anyway.
    signed_by=$([[ ! -r $keyring ]] || printf ' signed-by=%s' "$keyring")
    mkdir -p "$WORK"/apt/{lists,cache}/partial
    : >"$WORK/apt/status"
    : >"$WORK/apt/words"
    # Given with -c it is read last, so that it can also take back hooks, pins
    # and a default release, which would not fit a foreign suite.
    cat >"$WORK/apt/apt.conf" <<CONF
#clear APT::Update;
#clear DPkg;
#clear APT::Architectures;
APT::Architectures { "$architecture"; };
APT::Default-Release "";
APT::Sandbox::User "";
APT::Update::Error-Mode "any";
Acquire::Retries "3";
Dir::Etc::sourcelist "$WORK/apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "$WORK/apt";
Dir::State::lists "$WORK/apt/lists";
Dir::State::status "$WORK/apt/status";
Dir::Cache "$WORK/apt/cache";
Dir::Cache::archives "$WORK/apt/cache";
CONF
    say "fetching the package list of Debian $suite"
    for address in $(mirrors); do
        # "target" leaves out contents and icons, "lang" the translations.
        printf 'deb [arch=%s lang=none target=Packages%s] %s %s main\n' \
            "$architecture" "$signed_by" "$address" "$suite" >"$WORK/apt/sources.list"
        # The signature tells whether it is Debian's archive.
        ! own_apt apt-get -qq update >>"$WORK/apt/words" 2>&1 || return 0
    done
    cat "$WORK/apt/words" >&2
    die "no source of apt's on this machine gave the package list of Debian $suite"
}

own_apt() {
    local program=$1
    shift
    LC_ALL=C "$program" -c "$WORK/apt/apt.conf" "$@"
}

# fetch SUITE PACKAGE WANTED: unpacks PACKAGE into $WORK/root. WANTED is the
# upstream version that it must have, or nothing.
fetch() {
    local suite=$1 package=$2 wanted=$3 field version='' upstream found=''
    prepare_apt "$suite"
    while read -r field version; do
        [[ $field == Version: ]] || continue
        # 1:1.6.20~ds1-1+deb12u1 is upstream's 1.6.20.
        upstream=${version#*:}
        upstream=${upstream%%[~+-]*}
        found+="${found:+, }$version"
        [[ -n $wanted && $upstream != "$wanted" ]] || break
        version=
    done < <(own_apt apt-cache show "$package" 2>/dev/null)
    [[ -n $found ]] || die "Debian $suite has no package $package for this machine"
    [[ -n $version ]] ||
        die "Debian $suite no longer has $package $wanted but $found; use that version, or put the programs of $wanted into the folder by hand"

    say "fetching $package $version"
    mkdir "$WORK/deb" "$WORK/root"
    (cd "$WORK/deb" && own_apt apt-get -qq download "$package=$version" >&2) ||
        die "cannot fetch $package $version, see apt's words above"
    dpkg-deb -x "$WORK"/deb/*.deb "$WORK/root"
    printf '%s %s, Debian %s\n' "$package" "$version" "$suite" >"$WORK/origin"
}

# provide DIR NAME SUITE PACKAGE WANTED PROGRAM...: has DIR/NAME hold all of the
# package's programs, at least those named.
provide() {
    local dir=$1 name=$2 suite=$3 package=$4 wanted=$5 new program lock
    shift 5
    # A complete folder appears in one rename, so this needs no lock.
    [[ ! -d $dir/$name ]] || return 0
    mkdir -p "$dir"
    exec {lock}>"$dir/.$name.lock"
    flock -n "$lock" || {
        say "waiting for another ${0##*/} $name"
        flock -w 600 "$lock" || die "another ${0##*/} $name has held $dir/.$name.lock for ten minutes"
    }
    [[ ! -d $dir/$name ]] || return 0
    # A killed process may have left this folder; only one process has the lock.
    rm -rf "$dir/.$name.new"

    make_tmp
    fetch "$suite" "$package" "$wanted"
    new=$dir/.$name.new
    mkdir "$new"
    # Side by side, whichever of Debian's folders they are in: then containerd
    # finds its shim without PATH, and no script has to know the package's layout.
    find "$WORK/root" -type f \( -path '*bin/*' -o -path '*/cli-plugins/*' -o -path '*/cni/*' \) -exec cp -t "$new" {} +
    cp "$WORK/root/usr/share/doc/$package/copyright" "$WORK/origin" "$new"
    for program in "$@"; do
        [[ -x $new/$program ]] || die "$package of Debian $suite holds no program $program"
    done
    # A package of a newer Debian may want a newer C library.
    "$new/$1" --help >/dev/null 2>"$WORK/words" ||
        die "$package of Debian $suite does not run on this machine: $(tail -n 1 "$WORK/words")"
    mv -T "$new" "$dir/$name"
}
