# shellcheck shell=bash
# Daemons, shippers and their rows in PostgreSQL; sourced after common.sh, daemon.sh and postgres.sh,
# never run.

need jq jq
need python3 python3
PROGRAM=$TARGET/lmdb-images

# make_roles NODE...: roles that log in: these nodes, reader, collector.
make_roles() {
    local node
    sql -c 'CREATE ROLE reader LOGIN IN ROLE fleet_reader' -c 'CREATE ROLE collector LOGIN IN ROLE fleet_collector'
    for node; do sql -c "CREATE ROLE \"$node\" LOGIN IN ROLE fleet_node"; done
}

# url ROLE [FOLDER]: the server's address, or that of another socket.
url() { printf 'postgres://%s@/postgres?host=%s' "$1" "${2:-$POSTGRES_DIR}"; }
ask() { "$PROGRAM" fleet "$@" --from "$(url reader)"; }

# address_of ROLE [FOLDER]: where it reports. A script may have another way.
address_of() { url "$@"; }

# start_ship NAME ROLE [FOLDER]: starts a shipper that reports the images of daemon NAME. Sets SHIP_PID.
start_ship() {
    "$PROGRAM" ship --to "$(address_of "$2" "${3:-}")" --address "$WORK/$1/state/readonly.sock" --heartbeat 2 \
        --machine "machine-$1" </dev/null >>"$WORK/ship-$1.log" 2>&1 &
    SHIP_PID=$!
    record_pid "$SHIP_PID"
}

# change NAME COUNT SEED: that many batches of random changes at a daemon.
change() {
    python3 - "$2" "$3" <<'PY' >"$WORK/batches-$1"
import json, random, sys
draw = random.Random(int(sys.argv[2]))
for _ in range(int(sys.argv[1])):
    lines = []
    for n in draw.sample(range(40), draw.randint(1, 9)):
        target = {"mediaType": "m", "digest": "sha256:%064x" % draw.randrange(12), "size": 1}
        image = {"namespace": "default", "name": f"example.org/app:{n}", "target": target, "labels": {}}
        lines.append(json.dumps({"put": image}))
    print("\t".join(lines))
PY
    local line
    while IFS= read -r line; do
        tr '\t' '\n' <<<"$line" >"$WORK/batch-$1"
        "$PROGRAM" apply --address "$WORK/$1/state/images.sock" "$WORK/batch-$1" >/dev/null
    done <"$WORK/batches-$1"
}
remove() { printf '{"remove":"example.org/app:%s"}\n' "$2" >"$WORK/rm"; "$PROGRAM" apply --address "$WORK/$1/state/images.sock" "$WORK/rm" >/dev/null; }

# log_of NAME: its log, one change a line.
log_of() {
    local last watcher
    last=$("$PROGRAM" stat --json --root "$WORK/$1/root" | jq .log.last)
    timeout 60 "$PROGRAM" watch --all --json --address "$WORK/$1/state/images.sock" >"$WORK/watched" &
    watcher=$!
    await 30 "change $last of the log" has_watched "$last" || return
    kill "$watcher"
    wait "$watcher" || true
    jq -r '[.seq, .kind, .namespace, .name, .before.target.digest // "", .after.target.digest // ""] | join("|")' \
        "$WORK/watched"
}
has_watched() { [[ $(tail -n 1 "$WORK/watched" | jq .seq) == "$1" ]]; }
# rows_of ROLE: the rows of this node in the database.
rows_of() {
    sql -c "SELECT seq, kind, namespace, name, before, after FROM fleet.changes
        WHERE node = '$1' AND origin <> 'snapshot' ORDER BY epoch, seq"
}
# images_of NAME, inventory ROLE: its images, and those that the server has of it.
images_of() { "$PROGRAM" ls --all-namespaces --root "$WORK/$1/root" --json | jq -r '[.namespace, .name, .target.digest] | join("|")'; }
inventory() { sql -c "SELECT namespace, name, digest FROM fleet.images WHERE node = '$1' ORDER BY namespace, name COLLATE \"C\""; }
# is_shipped NAME ROLE: whether the database has the images of the node.
is_shipped() { [[ $(images_of "$1") == "$(inventory "$2")" && $(sql -c "SELECT seq = last FROM fleet.node WHERE name = '$2'") == t ]]; }
incidents() { sql -c "SELECT kind FROM fleet.incidents WHERE node = '$1' ORDER BY at"; }
