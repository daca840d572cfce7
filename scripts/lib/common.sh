# shellcheck shell=bash
# Functions shared by all scripts; sourced, never run:
#
#   set -euo pipefail
#   # shellcheck source=SCRIPTDIR/../lib/common.sh
#   . "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"
#
# Functions return results that outlive a call in variables, not on standard output:
# the clean-up list would be lost in the subshell of "$(...)".

# The repository's top folder, and the folder of the scripts.
SCRIPTS=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
REPO=$(dirname -- "$SCRIPTS")
export SCRIPTS REPO

# ---------------------------------------------------------------- messages

# say TEXT...: one line for the reader, on stderr, as stdout may be a result.
say() { printf '%s\n' "$*" >&2; }

# die TEXT...: says why and ends the script (the clean-up still runs).
die() {
    say "${0##*/}: $*"
    exit 1
}

# run COMMAND...: prints "$ COMMAND", quoted only where a shell needs it, then
# runs it with both its outputs on stdout, so that a demo reads in order.
# Returns the command's status.
run() {
    local word line='$'
    for word in "$@"; do
        [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || word=${word@Q}
        line+=" $word"
    done
    printf '%s\n' "$line"
    "$@" 2>&1
}

# ---------------------------------------------------------------- arguments

# parse_seed ARGUMENTS...: reads the option "--seed NUMBER", which a script for random tests has,
# and hands it to the tests in the environment. Sets ARGUMENTS to the other arguments.
parse_seed() {
    ARGUMENTS=()
    while (($# > 0)); do
        case $1 in
            --seed)
                require_number --seed "${2:-}"
                export LMDB_IMAGES_SEED=$2
                shift 2
                ;;
            -*) die "there is no option $1; the first lines of $0 list what it takes" ;;
            *)
                ARGUMENTS+=("$1")
                shift
                ;;
        esac
    done
}

# require_number NAME VALUE: ends the script unless the argument is a number.
require_number() {
    [[ $2 =~ ^[0-9]+$ ]] || die "$1 must be a number, not \"$2\""
}

# containerd_in VERSION|DIR: prints the folder with that containerd: Debian's of that
# version, or DIR, a path with a "/" in it.
containerd_in() {
    if [[ $1 != */* ]]; then
        "$SCRIPTS/lib/get-containerd" "$1"
        return
    fi
    [[ -x $1/containerd ]] || die "no containerd in $1"
    (cd "$1" && pwd -P)
}

# ---------------------------------------------------------------- waiting

# await SECONDS DESCRIPTION COMMAND...: runs COMMAND until it succeeds; at the
# deadline prints DESCRIPTION and the last output of COMMAND, and returns 1.
# COMMAND runs in a subshell; AWAITED has its last output afterwards.
# The one place that sleeps: for conditions that no event announces.
await() {
    local seconds=$1 what=$2 now end
    shift 2
    # EPOCHREALTIME has a comma in some locales; digits alone are microseconds.
    now=${EPOCHREALTIME//[!0-9]/}
    end=$((now + seconds * 1000000))
    until AWAITED=$("$@" 2>&1); do
        now=${EPOCHREALTIME//[!0-9]/}
        if ((now >= end)); then
            say "waited ${seconds} s in vain for ${what}${AWAITED:+; last answer: ${AWAITED##*$'\n'}}"
            return 1
        fi
        sleep 0.05
    done
}

# ---------------------------------------------------------------- clean-up

declare -a CLEANUP=()         # commands, run last first when the script ends
declare -A PROCESS_STARTED=() # pid -> start time, see record_pid
CLEANUP_SHELL=$BASHPID

# on_exit COMMAND...: has COMMAND run when the script ends, whatever ends it.
on_exit() {
    ((BASHPID == CLEANUP_SHELL)) || die "on_exit $1: called in a subshell, where it would be forgotten"
    CLEANUP+=("${*@Q}")
}

run_cleanup() {
    local status=$? i
    # A second Ctrl-C must not leave half of it behind.
    trap '' INT TERM HUP
    trap - EXIT
    set +e
    ((status == 0)) || show_logs
    for ((i = ${#CLEANUP[@]} - 1; i >= 0; i--)); do
        eval "${CLEANUP[i]}"
    done
    exit "$status"
}
trap run_cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# process_start PID: prints the start time of a live process; fails when there
# is none or only a zombie. The name in /proc/PID/stat may hold blanks and
# parentheses, so the text up to the last ")" is cut off first.
process_start() {
    local stat
    local -a field
    { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
    read -r -a field <<<"${stat##*) }"
    if [[ ${field[0]} == [ZX] ]]; then
        # Not gone while another of its threads is still ending: it holds its files.
        local -a threads=("/proc/$1/task"/*)
        ((${#threads[@]} > 1)) || return 1
    fi
    printf '%s\n' "${field[19]}"
}

# record_pid PID: notes a process that this script started and ends it at exit.
# The start time is kept, so that a pid that was given to another process in the
# meantime is never signalled.
record_pid() {
    PROCESS_STARTED[$1]=$(process_start "$1") || return 0
    on_exit stop_process "$1"
}

# is_running PID: whether that recorded process is still there.
is_running() {
    [[ -n ${PROCESS_STARTED[$1]:-} && $(process_start "$1") == "${PROCESS_STARTED[$1]}" ]]
}
is_gone() { ! is_running "$1"; }

# stop_process PID [KILL]: TERM, ten seconds, then KILL; or KILL at once, to test
# a crash. Only for pids given to record_pid; success when the process has gone.
# Sets STOPPED_STATUS: the exit status of a child that TERM sufficed for, 137 when
# it took KILL, 127 when it was no child.
stop_process() {
    local pid=$1 signal=${2:-TERM}
    if is_running "$pid" && [[ $signal == TERM ]]; then
        kill -TERM "$pid" 2>/dev/null || true
        await 10 "the end of process $pid" is_gone "$pid" || signal=KILL
    fi
    if is_running "$pid"; then
        # bash would announce the killed job; it forgets those it has disowned.
        disown "$pid" 2>/dev/null || true
        kill -KILL "$pid" 2>/dev/null || true
        await 5 "the end of the killed process $pid" is_gone "$pid" || return 1
    fi
    # Takes the status of a child, so that no zombie stays.
    STOPPED_STATUS=0
    wait "$pid" 2>/dev/null || STOPPED_STATUS=$?
    # The status that "wait" gives for a disowned child depends on chance.
    [[ $signal == TERM ]] || STOPPED_STATUS=137
    export STOPPED_STATUS
    unset "PROCESS_STARTED[$pid]"
}

# make_tmp: makes the script's temporary folder once and sets WORK to it; gone
# at exit with everything mounted below it, unless KEEP=1.
make_tmp() {
    [[ -z ${WORK:-} ]] || return 0
    WORK=$(mktemp -d "${TMPDIR:-/tmp}/li.XXXXXX")
    WORK=$(cd "$WORK" && pwd -P) # /proc/self/mountinfo has no symlinks
    on_exit remove_tmp
    # A unix socket's path has 107 bytes at most; NAME/containerd.sock.ttrpc
    # and the like need some of them.
    ((${#WORK} <= 60)) || die "TMPDIR=${TMPDIR:-/tmp} is too long a path for unix sockets; set TMPDIR to a shorter one"
}

# show_logs: prints the end of each log in $WORK. A script that fails has its daemons' logs in its output,
# as often only they tell the cause, and the folder goes.
show_logs() {
    local log
    [[ -n ${WORK:-} ]] || return 0
    while IFS= read -r -d '' log; do
        say "-- the end of ${log#"$WORK/"}:"
        tail -n 40 "$log" >&2
    done < <(find "$WORK" -maxdepth 2 -type f -size +0 \( -name log -o -name '*.log' \) -print0 2>/dev/null)
}

# unmount_below DIR: unmounts all that is mounted below DIR, the newest first,
# as mounts stack; lazily where something still holds one.
unmount_below() {
    local dir=$1 line point
    local -a fields points=()
    while read -r line; do
        read -r -a fields <<<"$line"
        printf -v point %b "${fields[4]}" # blanks are written \040
        if [[ $point == "$dir"/* ]]; then points=("$point" "${points[@]}"); fi
    done </proc/self/mountinfo
    for point in "${points[@]}"; do
        umount "$point" 2>/dev/null || umount -l "$point" 2>/dev/null || say "cannot unmount $point"
    done
}

remove_tmp() {
    unmount_below "$WORK"
    if [[ ${KEEP:-} == 1 ]]; then
        say "kept: $WORK"
    else
        # Never into a mount that would not go: its files are not ours.
        rm -rf --one-file-system "$WORK"
    fi
}

# remove_cgroups: the control groups of this script, which are named as $WORK is, wherever they are: those of a machine
# (machine.sh) are below this process's own. The kernel removes none that has a process.
remove_cgroups() { find /sys/fs/cgroup -depth -type d -path "*/${WORK##*/}*" -exec rmdir {} +; }
cgroups_are_gone() { ! remove_cgroups 2>&1 | grep .; }

# ---------------------------------------------------------------- packages

# apt_get ARGUMENTS...: runs the machine's apt-get; AWAITED has its output. The
# timeout below covers dpkg's locks only: "update" gives up at once when another
# process holds the lists' lock, so that case is repeated here.
apt_get() {
    await 120 "apt's locks" apt_get_unless_locked "$@" || return
    # The last line is apt-get's status, as success only ended the waiting.
    local status=${AWAITED##*$'\n'}
    AWAITED=${AWAITED%$'\n'*}
    return "$status"
}

apt_get_unless_locked() {
    local log status=0
    log=$(DEBIAN_FRONTEND=noninteractive LC_ALL=C apt-get -q -y \
        -o DPkg::Lock::Timeout=120 -o APT::Update::Error-Mode=any "$@" 2>&1 </dev/null) || status=$?
    printf '%s\n' "$log" "$status"
    ((status == 0)) || [[ $log != *'Could not get lock'* && $log != *'Unable to lock'* ]]
}

# need PROGRAM PACKAGE: installs PACKAGE when PROGRAM is not there.
need() {
    local program=$1 package=$2
    ! command -v "$program" >/dev/null || return 0
    command -v apt-get >/dev/null || die "$program is missing and there is no apt-get to install it with"
    ((EUID == 0)) || die "$program is missing; as root: apt-get install $package"
    say "installing $package, for $program"
    # The lists on the machine do for most; when they are missing or name a file
    # that the mirror has replaced, they are fetched anew.
    if ! apt_get install --no-install-recommends "$package"; then
        say "apt-get update, as the machine's package lists do not do"
        apt_get update || die "apt-get update failed: $AWAITED"
        apt_get install --no-install-recommends "$package" || die "cannot install $package: $AWAITED"
    fi
    hash -r
    command -v "$program" >/dev/null || die "$package is installed, but brought no $program"
}
