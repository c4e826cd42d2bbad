# shellcheck shell=bash
# Functions for a cluster on this machine. To be sourced after common.sh, by bash.
#
# A cluster has one directory, with the cluster file, the authority (authority.pem) and, for each replica, its certificate (NAME.pem),
# its data (NAME), its log (NAME.log) and its process id (NAME.pid). After a crash, the system may have given that process id to another process. Therefore a process counts as the
# replica only if it is a stablechatd with the replica's data directory.

# The longest time from starting a replica until it listens, and from SIGTERM or SIGKILL until its process has ended.
START_LIMIT_S=20
STOP_LIMIT_S=10

# Selects the cluster in the directory $1. If the directory has no cluster file, makes one: $4 replicas named a, b, c and so on,
# on loopback, at consecutive ports from $2 on, with a delivery bound of $3 milliseconds.
use_cluster() {
    local directory=$1 base_port=$2 delivery_bound_ms=$3 count=$4
    [[ $count =~ ^[1-9]$ ]] || die "$count is not a number of replicas; give 1 to 9"
    [[ $base_port =~ ^[1-9][0-9]{0,4}$ && $((base_port + count - 1)) -le 65535 ]] ||
        die "$base_port cannot be the first of $count consecutive ports; give 1 to $((65536 - count))"
    [[ $delivery_bound_ms =~ ^[1-9][0-9]{0,4}$ ]] ||
        die "$delivery_bound_ms is not a delivery bound in milliseconds; give a number such as 1000"
    mkdir -p -- "$directory" || return
    CLUSTER_DIRECTORY=$(cd -- "$directory" && pwd) || return
    CLUSTER_FILE="$CLUSTER_DIRECTORY/cluster.toml"
    if [[ ! -e $CLUSTER_FILE ]]; then
        make_cluster "$base_port" "$delivery_bound_ms" "$count" || return
    fi
    read_cluster_file
}

# Makes the files of a cluster. The cluster file comes last, so that a cluster is complete or not there.
make_cluster() {
    local base_port=$1 delivery_bound_ms=$2 count=$3 names=(a b c d e f g h i) at options=() new="$CLUSTER_DIRECTORY/new"
    build_programs || return
    for ((at = 0; at < count; at++)); do
        options+=(--replica "${names[at]}=127.0.0.1:$((base_port + at))")
    done
    rm -rf -- "$new"
    "$STABLECHATD" init --dir "$new" --name local --registration open --delivery-bound-ms "$delivery_bound_ms" \
        "${options[@]}" >/dev/null || return
    for ((at = 0; at < count; at++)); do
        mv -- "$new/replica-${names[at]}/identity.pem" "$CLUSTER_DIRECTORY/${names[at]}.pem" || return
    done
    mv -- "$new/authority.pem" "$new/operator.key" "$CLUSTER_DIRECTORY" || return
    mv -- "$new/clients/cluster.toml" "$CLUSTER_FILE" && rm -rf -- "$new"
}

# Reads the cluster file: REPLICAS gets the names of the replicas in the order of the file, and ADDRESSES their addresses by
# name. It understands only the part of TOML that `stablechatd init` uses.
read_cluster_file() {
    REPLICAS=()
    declare -gA ADDRESSES=()
    local line name='' in_replica=''
    local pair='^[[:space:]]*(name|address)[[:space:]]*=[[:space:]]*["'\'']([^"'\'']*)["'\'']'
    while IFS= read -r line || [[ -n $line ]]; do
        if [[ $line =~ ^[[:space:]]*\[\[replica\]\] ]]; then
            in_replica=yes
        elif [[ -n $in_replica && $line =~ $pair ]]; then
            if [[ ${BASH_REMATCH[1]} == name ]]; then
                name=${BASH_REMATCH[2]}
                REPLICAS+=("$name")
            elif [[ -n $name ]]; then
                ADDRESSES[$name]=${BASH_REMATCH[2]}
            fi
        fi
    done <"$CLUSTER_FILE"
    ((${#REPLICAS[@]} > 0)) || die "the cluster file $CLUSTER_FILE has no [[replica]]; correct it, or remove it to get a new one"
    for name in "${REPLICAS[@]}"; do
        [[ $name =~ ^[a-z0-9][a-z0-9._-]*$ ]] ||
            die "the cluster file $CLUSTER_FILE has a replica $name, which is not a valid name"
        [[ ${ADDRESSES[$name]-} =~ ^.+:[0-9]+$ ]] ||
            die "in the cluster file $CLUSTER_FILE, replica $name has no address HOST:PORT"
    done
}

# Prints the process id of a replica. Fails if the replica does not run.
replica_pid() {
    local name=$1 pid arguments
    read -r pid 2>/dev/null <"$CLUSTER_DIRECTORY/$name.pid" || return 1
    [[ $pid =~ ^[1-9][0-9]*$ ]] || return 1
    mapfile -t -d '' arguments 2>/dev/null <"/proc/$pid/cmdline" || return 1
    [[ ${arguments[0]-} == */stablechatd ]] || return 1
    local at
    for at in "${!arguments[@]}"; do
        if [[ ${arguments[at]} == --data && ${arguments[at + 1]-} == "$CLUSTER_DIRECTORY/$name" ]]; then
            printf '%s\n' "$pid"
            return 0
        fi
    done
    return 1
}

# Whether a process accepts connections at HOST:PORT.
accepts() {
    (exec 3<>"/dev/tcp/${1%:*}/${1##*:}") 2>/dev/null
}

# Starts a replica and waits until it accepts connections. If it does not, prints why with the end of its log, and fails.
start_replica() {
    local name=$1 pid
    local address=${ADDRESSES[$name]} log="$CLUSTER_DIRECTORY/$name.log" pid_file="$CLUSTER_DIRECTORY/$name.pid"
    if replica_pid "$name" >/dev/null; then
        say "replica $name is already running"
        return 0
    fi
    if accepts "$address"; then
        say "replica $name cannot start, because another process listens at $address; stop that process first"
        return 1
    fi
    rm -f -- "$pid_file"
    touch -- "$log" || return
    local log_before
    log_before=$(wc -c <"$log") || return

    # setsid, so that the replica gets neither the terminal's signals (Ctrl-C) nor a SIGHUP when the terminal is closed. setsid
    # forks in some cases, so the process id of the background job may not be the replica's. The inner shell therefore writes
    # its own process id, which stays the same through exec.
    # shellcheck disable=SC2016 # for the inner shell
    setsid bash -c 'echo "$$" >"$1" && shift && exec "$@"' start_replica "$pid_file" \
        "$STABLECHATD" run --cluster "$CLUSTER_FILE" --name "$name" --identity "$CLUSTER_DIRECTORY/$name.pem" \
        --data "$CLUSTER_DIRECTORY/$name" >>"$log" 2>&1 </dev/null &
    disown

    local deadline=$((SECONDS + START_LIMIT_S)) why="does not listen at $address $START_LIMIT_S s after its start"
    while ((SECONDS < deadline)); do
        if replica_pid "$name" >/dev/null; then
            accepts "$address" && return 0
        elif read -r pid 2>/dev/null <"$pid_file" && ! kill -0 "$pid" 2>/dev/null; then
            why="ended before it listened at $address"
            break
        fi
        sleep 0.05
    done
    say "replica $name $why; the end of its log, $log:"
    tail -c "+$((log_before + 1))" -- "$log" | tail -n 20 | sed 's/^/    /' >&2
    signal_replica "$name" KILL || true
    return 1
}

# Sends the signal $2 to replica $1. Fails if the replica does not run.
signal_replica() {
    local pid
    pid=$(replica_pid "$1") && kill -s "$2" "$pid" 2>/dev/null
}

# Waits until the process of a replica has ended. Fails after STOP_LIMIT_S.
wait_for_end() {
    local name=$1 deadline=$((SECONDS + STOP_LIMIT_S))
    while replica_pid "$name" >/dev/null; do
        ((SECONDS < deadline)) || return 1
        sleep 0.05
    done
    rm -f -- "$CLUSTER_DIRECTORY/$name.pid"
}

# Sends SIGTERM to all given replicas at once, and waits until their processes have ended. Prints the names of replicas that
# are still running after STOP_LIMIT_S, and fails if there are any.
stop_replicas() {
    local name status=0
    for name in "$@"; do
        signal_replica "$name" TERM || true
    done
    for name in "$@"; do
        wait_for_end "$name" || {
            say "replica $name is still running $STOP_LIMIT_S s after SIGTERM; to end it: scripts/cluster kill $name"
            status=1
        }
    done
    return "$status"
}

# Ends replicas with SIGKILL, so that they can neither hand over nor say goodbye, and waits until their processes have ended.
kill_replicas() {
    local name status=0
    for name in "$@"; do
        signal_replica "$name" KILL || true
    done
    for name in "$@"; do
        wait_for_end "$name" || {
            say "replica $name is still running $STOP_LIMIT_S s after SIGKILL"
            status=1
        }
    done
    return "$status"
}

# Removes the data of replicas. Removes nothing and fails if one of them is running.
wipe_replicas() {
    local name
    for name in "$@"; do
        if replica_pid "$name" >/dev/null; then
            say "replica $name is running, so no data was removed; stop it first: scripts/cluster stop $name"
            return 1
        fi
    done
    for name in "$@"; do
        rm -rf -- "${CLUSTER_DIRECTORY:?}/${name:?}" || return
    done
}
