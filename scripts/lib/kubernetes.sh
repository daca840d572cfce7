# shellcheck shell=bash
# A Kubernetes of one node, of real parts, in a booted Debian; sourced after common.sh, debian.sh, machine.sh and
# certificates.sh, never run.
#
# The node has a network, processes and mounts of its own, which end with it. Its control groups are below
# /${WORK##*/}, and are removed at exit.

NODE=node-17 NODE_ADDRESS=10.10.0.1
# Where the node has the programs and the certificates.
PROGRAMS=/opt/kubernetes PKI=/etc/kubernetes/pki

# prepare_node CONTAINERD: makes DEBIAN_ROOT a node with the containerd of that folder; nothing runs yet.
prepare_node() {
    local program
    debian_root node
    KUBERNETES_BIN=$("$SCRIPTS/lib/get-go-tool" kubernetes)
    ETCD_BIN=$("$SCRIPTS/lib/get-program" etcd)
    CNI_BIN=$("$SCRIPTS/lib/get-program" cni)
    for program in containerd ctr containerd-shim-runc-v2; do
        install -m 755 "$1/$program" "$DEBIAN_ROOT/usr/bin/$program"
    done
    install -m 755 "$ETCD_BIN/etcd" "$("$SCRIPTS/lib/get-go-tool" helm)/helm" "$("$SCRIPTS/lib/get-go-tool" crictl)/crictl" \
        "$DEBIAN_ROOT/usr/bin/"
    ln -s "$PROGRAMS/kubectl" "$DEBIAN_ROOT/usr/bin/kubectl"
    mkdir -p "$DEBIAN_ROOT$PROGRAMS" "$DEBIAN_ROOT/opt/cni/bin" "$DEBIAN_ROOT$PKI" "$DEBIAN_ROOT/root/.kube"
    node_network_settings
    node_containerd_settings
    node_certificates
    node_units
    "$SCRIPTS/lib/make-oci-image" -c '/bin/sleep 2147483647' "$DEBIAN_ROOT/root/pause.tar" localhost/pause:1
}

node_network_settings() {
    mkdir -p "$DEBIAN_ROOT/etc/cni/net.d"
    cat >"$DEBIAN_ROOT/etc/cni/net.d/pods.conflist" <<'JSON'
{"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true,
  "ipam": {"type": "host-local", "subnet": "10.244.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]}}]}
JSON
}

# Version 2 is read by 1.6 and all later ones.
node_containerd_settings() {
    mkdir -p "$DEBIAN_ROOT/etc/containerd"
    cat >"$DEBIAN_ROOT/etc/containerd/config.toml" <<'TOML'
version = 2
disabled_plugins = ["io.containerd.nri.v1.nri"]

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  # The kernel need not let a container's root spare its own from being killed for memory.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
TOML
    echo 'runtime-endpoint: unix:///run/containerd/containerd.sock' >"$DEBIAN_ROOT/etc/crictl.yaml"
}

# node_certificates: the cluster's authority, a certificate for each part, and the file by which the part connects.
node_certificates() {
    local name
    make_authority cluster
    make_certificate apiserver cluster kube-apiserver "IP:127.0.0.1,IP:$NODE_ADDRESS,DNS:localhost"
    openssl genrsa -out "$WORK/certs/accounts.key" 2048 2>/dev/null
    client_certificate admin /root/.kube/config admin/O=system:masters
    client_certificate kubelet /etc/kubernetes/kubelet.conf "system:node:$NODE/O=system:nodes"
    for name in controller-manager scheduler; do
        client_certificate "$name" "/etc/kubernetes/$name.conf" "system:kube-$name"
    done
    cp "$WORK"/certs/* "$DEBIAN_ROOT$PKI/"
}
# client_certificate NAME FILE SUBJECT
client_certificate() {
    make_certificate "$1" cluster "$3"
    cat >"$DEBIAN_ROOT$2" <<YAML
apiVersion: v1
kind: Config
current-context: cluster
clusters: [{name: cluster, cluster: {server: "https://127.0.0.1:6443", certificate-authority: $PKI/cluster.crt}}]
users: [{name: $1, user: {client-certificate: $PKI/$1.crt, client-key: $PKI/$1.key}}]
contexts: [{name: cluster, context: {cluster: cluster, user: $1}}]
YAML
}

# node_unit NAME COMMAND...: a service of the node. What it prints is in /var/log/NAME.log.
node_unit() {
    local name=$1
    shift
    printf '[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=%s\nRestart=always\nRestartSec=1\nKillMode=process\nStandardOutput=append:/var/log/%s.log\nStandardError=inherit\n[Install]\nWantedBy=multi-user.target\n' \
        "$*" "$name" >"$DEBIAN_ROOT/etc/systemd/system/$name.service"
    inside systemctl --quiet enable "$name.service"
}

node_units() {
    # systemd would remove the kubelet's control groups, as none of its own.
    mkdir -p "$DEBIAN_ROOT/etc/systemd/system.conf.d"
    printf '[Manager]\nDefaultMemoryAccounting=no\nDefaultTasksAccounting=no\n' >"$DEBIAN_ROOT/etc/systemd/system.conf.d/accounting.conf"
    node_unit etcd /usr/bin/etcd --data-dir=/var/lib/etcd --unsafe-no-fsync
    node_unit kube-apiserver "$PROGRAMS/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 \
        --advertise-address="$NODE_ADDRESS" --service-cluster-ip-range=10.96.0.0/16 --allow-privileged \
        --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --client-ca-file="$PKI/cluster.crt" \
        --tls-cert-file="$PKI/apiserver.crt" --tls-private-key-file="$PKI/apiserver.key" \
        --service-account-issuer=https://cluster.local --service-account-key-file="$PKI/accounts.key" \
        --service-account-signing-key-file="$PKI/accounts.key" --endpoint-reconciler-type=none \
        --kubelet-client-certificate="$PKI/admin.crt" --kubelet-client-key="$PKI/admin.key" \
        --kubelet-preferred-address-types=InternalIP
    node_unit kube-controller-manager "$PROGRAMS/kube-controller-manager" --leader-elect=false \
        --kubeconfig=/etc/kubernetes/controller-manager.conf --use-service-account-credentials \
        --service-account-private-key-file="$PKI/accounts.key" --root-ca-file="$PKI/cluster.crt"
    node_unit kube-scheduler "$PROGRAMS/kube-scheduler" --leader-elect=false --kubeconfig=/etc/kubernetes/scheduler.conf
    node_unit kubelet "$PROGRAMS/kubelet" --config=/etc/kubernetes/kubelet.yaml --kubeconfig=/etc/kubernetes/kubelet.conf \
        --hostname-override="$NODE" --node-ip="$NODE_ADDRESS"
    # No address of another machine is reached, so pods need no name server. The collection of images is a test's.
    cat >"$DEBIAN_ROOT/etc/kubernetes/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
authentication: {anonymous: {enabled: false}, webhook: {enabled: false}, x509: {clientCAFile: $PKI/cluster.crt}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupRoot: /${WORK##*/}
failCgroupV1: false
failSwapOn: false
makeIPTablesUtilChains: false
resolvConf: ""
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
YAML
}

# node_boot: boots it, and returns when the node is ready.
node_boot() {
    local file
    for file in containerd kubelet log; do mkdir -p "$WORK/disk/$file"; done
    # shellcheck disable=SC2034 # machine_boot takes them
    MACHINE_ARGUMENTS=(--capability=all --bind=/dev/kmsg --bind-ro="$KUBERNETES_BIN:$PROGRAMS" --bind-ro="$CNI_BIN:/opt/cni/bin"
        --bind="$WORK/disk/containerd:/var/lib/containerd" --bind="$WORK/disk/kubelet:/var/lib/kubelet")
    SYSTEMD_SECCOMP=0 machine_boot
    node_cgroups
    nsenter --target "$(machine_first)" --net ip address add "$NODE_ADDRESS/32" dev lo
    # The kubelet wants these of the kernel. They are the whole machine's, so it is shown files that say so.
    # The variable is that shell's.
    # shellcheck disable=SC2016
    machine bash -c 'mkdir /run/kernel
        while read -r name value; do
            echo "$value" >"/run/kernel/$name"
            mount --bind "/run/kernel/$name" "/proc/sys/${name//.//}"
        done' <<'SYSCTL'
vm.overcommit_memory 1
vm.panic_on_oom 0
kernel.panic 10
kernel.panic_on_oops 1
kernel.keys.root_maxkeys 1000000
kernel.keys.root_maxbytes 25000000
SYSCTL
    await 30 "containerd" machine ctr version || die "containerd does not run on the node"
    ctr images import /root/pause.tar >/dev/null
    await 120 "the API server" kubectl get --raw /readyz || die "there is no API server: $(tail -n 20 "$DEBIAN_ROOT/var/log/kube-apiserver.log")"
    await 60 "the accounts of pods" has_accounts || die "the controllers make no account"
    await 60 "the node" node_is_ready || die "the node is not ready: $(tail -n 20 "$DEBIAN_ROOT/var/log/kubelet.log")"
}
has_accounts() { kubectl get serviceaccount default; }
node_is_ready() { [[ $(kubectl get node "$NODE" --output 'jsonpath={.status.conditions[?(@.type=="Ready")].status}') == True ]]; }

# node_cgroups: the one that the kubelet takes for the root, in each of version 1's hierarchies or version 2's only one.
node_cgroups() {
    # The variables are that shell's.
    # shellcheck disable=SC2016
    machine bash -c 'for top in /sys/fs/cgroup /sys/fs/cgroup/*; do
        mount -o remount,bind,rw "$top" 2>/dev/null
        [[ ! -e $top/cgroup.procs || -L $top ]] || mkdir -p "$top/$1"
    done' node_cgroups "${WORK##*/}"
}

kubectl() { machine kubectl "$@"; }
helm() { machine helm "$@"; }
crictl() { machine crictl "$@"; }
ctr() { machine ctr --namespace k8s.io "$@"; }
# shown FILTER WORD...: a part of objects, as jsonpath has it.
shown() { local path=$1; shift; kubectl get "$@" --output "jsonpath={$path}"; }

# seconds_of COMMAND...: sets TOOK; the command's status.
seconds_of() {
    local begun=$EPOCHREALTIME status=0
    "$@" || status=$?
    # shellcheck disable=SC2034 # for the script
    TOOK=$(awk -v a="$begun" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
    return "$status"
}
# has_ended POD
has_ended() { [[ $(shown .status.phase pod "$1") =~ Succeeded|Failed ]]; }
