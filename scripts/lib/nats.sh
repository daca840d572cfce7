# shellcheck shell=bash
# Servers of NATS with JetStream, of a script's own; sourced after common.sh, never run.

need python3 python3
need curl curl
NATS_BIN=${NATS_BIN:-$("$SCRIPTS/lib/get-program" nats-server)}

# free_ports COUNT: prints that many TCP ports of loopback that nothing listens on.
free_ports() {
    python3 - "$1" <<'PY'
import socket, sys
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(s.getsockname()[1] for s in held))
PY
}

# make_nats NAME COUNT [USERS]: settings of a cluster of COUNT servers below $WORK/NAME; USERS is the text of its
# authorization. Sets NATS_DIR, NATS_HOSTS (HOST:PORT,…), and for each server NATS_PORTS and NATS_MONITORS.
make_nats() {
    local name=$1 count=$2 users=${3:-} server
    local -a ports routes=()
    make_tmp
    NATS_DIR=$WORK/$name
    mkdir -p "$NATS_DIR"
    chmod 711 "$WORK"
    read -r -a ports <<<"$(free_ports $((3 * count)))"
    NATS_PORTS=("${ports[@]:0:count}")
    NATS_MONITORS=("${ports[@]:count:count}")
    for server in "${ports[@]:2*count:count}"; do routes+=("nats://127.0.0.1:$server"); done
    for ((server = 0; server < count; server++)); do
        {
            printf 'server_name: n%s\nlisten: "127.0.0.1:%s"\nhttp: "127.0.0.1:%s"\n' \
                "$server" "${NATS_PORTS[server]}" "${NATS_MONITORS[server]}"
            printf 'jetstream { store_dir: "%s/n%s", max_file: 1G, max_mem: 64M }\n' "$NATS_DIR" "$server"
            ((count == 1)) ||
                printf 'cluster { name: test, listen: "127.0.0.1:%s", routes: [%s] }\n' \
                    "${ports[2 * count + server]}" "$(IFS=,; printf '%s' "${routes[*]}")"
            printf '%s\n' "$users"
        } >"$NATS_DIR/n$server.conf"
        mkdir -p "$NATS_DIR/n$server"
        ((EUID != 0)) || chown 65534:65534 "$NATS_DIR/n$server"
    done
    NATS_HOSTS=$(printf ',127.0.0.1:%s' "${NATS_PORTS[@]}")
    NATS_HOSTS=${NATS_HOSTS#,}
    NATS_PIDS=()
}

# start_nats SERVER...: starts these servers of the cluster; their processes are NATS_PIDS[SERVER].
start_nats() {
    local server
    local -a drop_root=()
    ((EUID != 0)) || drop_root=(setpriv --reuid=65534 --regid=65534 --clear-groups)
    for server; do
        "${drop_root[@]}" "$NATS_BIN/nats-server" -c "$NATS_DIR/n$server.conf" </dev/null >>"$NATS_DIR/n$server.log" 2>&1 &
        NATS_PIDS[server]=$!
        record_pid "${NATS_PIDS[server]}"
    done
    for server; do
        await 30 "nats-server $server" nats_listens "$server" || { tail -n 20 "$NATS_DIR/n$server.log" >&2; return 1; }
    done
}

nats_listens() { curl -fsS "http://127.0.0.1:${NATS_MONITORS[$1]}/varz" | jq -e .jetstream.config >/dev/null; }

# kill_nats SERVER: ends it as a crash does.
kill_nats() {
    kill -KILL "${NATS_PIDS[$1]}"
    { wait "${NATS_PIDS[$1]}" || true; } 2>/dev/null
}

# stream_leader: prints the number of the server that leads the stream of the reports.
stream_leader() {
    local monitor leader
    for monitor in "${NATS_MONITORS[@]}"; do
        leader=$(curl -fsS "http://127.0.0.1:$monitor/jsz?streams=1&accounts=1" 2>/dev/null | jq -r '[.account_details[]?.stream_detail[]?
            | select(.name == "LMDB_IMAGES_FLEET") | .cluster.leader // ""] | map(select(. != "")) | first // ""')
        [[ ! $leader =~ ^n[0-9]$ ]] || { printf '%s\n' "${leader#n}"; return 0; }
    done
    return 1
}

# nats_request USER PASSWORD SUBJECT TEXT: publishes to the first server, and prints the server's answer.
nats_request() {
    python3 - "${NATS_PORTS[0]}" "$@" <<'PY'
import json, re, socket, sys
port, user, password, subject, text = sys.argv[1:]
server = socket.create_connection(("127.0.0.1", int(port)))
server.settimeout(10)
hello = {"user": user, "pass": password, "verbose": False, "pedantic": False, "headers": True, "no_responders": True}
inbox = f"_INBOX.{user}.1"
text = text.encode()
server.sendall(f"CONNECT {json.dumps(hello)}\r\nSUB {inbox} 1\r\nPUB {subject} {inbox} {len(text)}\r\n".encode() + text + b"\r\nPING\r\n")
said = b""
while not re.search(rb"PONG", said) or (b"MSG" not in said and b"-ERR" not in said):
    received = server.recv(65536)
    if not received:
        break
    said += received
print(said.decode())
PY
}
