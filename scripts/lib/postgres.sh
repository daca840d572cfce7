# shellcheck shell=bash
# A PostgreSQL of a script's own; sourced after common.sh, never run.

# postgres_bin: prints the folder of PostgreSQL's programs: the machine's, or Debian's package, which is
# installed where the script may.
postgres_bin() {
    local found
    found=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
    if [[ ! -x $found/initdb ]]; then
        need pg_createcluster postgresql-common
        # Without a cluster of the machine's own.
        mkdir -p /etc/postgresql-common
        grep -q '^create_main_cluster' /etc/postgresql-common/createcluster.conf 2>/dev/null ||
            printf 'create_main_cluster = false\n' >>/etc/postgresql-common/createcluster.conf
        apt_get install --no-install-recommends postgresql || die "cannot install postgresql: $AWAITED"
        found=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
    fi
    [[ -x $found/initdb ]] || die "there is no PostgreSQL below /usr/lib/postgresql"
    printf '%s\n' "$found"
}

# as_postgres COMMAND...: PostgreSQL refuses to run as root.
as_postgres() {
    if ((EUID == 0)); then
        setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
    else
        "$@"
    fi
}

# start_postgres NAME [SETTING=VALUE...]: a server in $WORK/NAME with a unix socket there, and on no port
# unless a setting names one. Every role may log in at the socket. Started again, it finds its data as it was.
# With POSTGRES_NETWORK, a file such as /proc/PID/ns/net, its ports are in that network.
# Sets POSTGRES_PID, POSTGRES_DIR (also the socket's folder), POSTGRES_URL (of the superuser).
start_postgres() {
    local name=$1 setting
    local -a settings=()
    shift
    make_tmp
    POSTGRES_BIN=${POSTGRES_BIN:-$(postgres_bin)}
    POSTGRES_DIR=$WORK/$name
    if [[ ! -d $POSTGRES_DIR/data ]]; then
        mkdir -p "$POSTGRES_DIR"
        chmod 711 "$WORK"
        ((EUID != 0)) || chown 65534:65534 "$POSTGRES_DIR"
        as_postgres "$POSTGRES_BIN/initdb" --no-sync --username=postgres --auth=trust --encoding=UTF8 --locale=C.UTF-8 \
            --pgdata="$POSTGRES_DIR/data" >"$POSTGRES_DIR.initdb" 2>&1 </dev/null ||
            { cat "$POSTGRES_DIR.initdb" >&2; die "initdb failed"; }
    fi
    for setting; do settings+=(-c "$setting"); done
    # Not as_postgres: the process in the background must be the server, which is killed by its id.
    local -a drop_root=()
    ((EUID != 0)) || drop_root=(setpriv --reuid=65534 --regid=65534 --clear-groups)
    [[ -z ${POSTGRES_NETWORK:-} ]] || drop_root=(nsenter "--net=$POSTGRES_NETWORK" "${drop_root[@]}")
    POSTGRES_URL="postgresql://postgres@/postgres?host=$POSTGRES_DIR"
    # After a kill its other processes end by themselves; until then it does not start.
    for _ in {1..20}; do
        "${drop_root[@]}" "$POSTGRES_BIN/postgres" -D "$POSTGRES_DIR/data" -k "$POSTGRES_DIR" -c listen_addresses= \
            -c shared_buffers=64MB -c dynamic_shared_memory_type=mmap "${settings[@]}" </dev/null >>"$POSTGRES_DIR.log" 2>&1 &
        POSTGRES_PID=$!
        record_pid "$POSTGRES_PID"
        await 60 "PostgreSQL" postgres_answers_or_died || true
        ! is_running "$POSTGRES_PID" || break
        stop_process "$POSTGRES_PID"
    done
    is_running "$POSTGRES_PID" || { tail -n 20 "$POSTGRES_DIR.log" >&2; die "PostgreSQL does not run"; }
    export POSTGRES_PID POSTGRES_DIR POSTGRES_URL
}

postgres_answers_or_died() {
    is_gone "$POSTGRES_PID" || "$POSTGRES_BIN/pg_isready" -q -h "$POSTGRES_DIR" -U postgres
}

# kill_postgres: ends the server as a crash does. It is gone afterwards, no zombie: the next one looks for it.
kill_postgres() {
    kill -KILL "$POSTGRES_PID"
    { wait "$POSTGRES_PID" || true; } 2>/dev/null
}

# sql [OPTION...]: psql of the superuser, or of the role PGUSER; prints values only.
sql() {
    "$POSTGRES_BIN/psql" -X -q -A -t -v ON_ERROR_STOP=1 -h "$POSTGRES_DIR" -U "${PGUSER:-postgres}" -d postgres "$@"
}
