#!/usr/bin/env bash
# Stands in for ssh and scp in scripts/test-operations, whose machines are sets of namespaces. It implements the part of both that
# docs/OPERATIONS.md uses, and acts as the one by whose name it is called. The file $STABLECHAT_PIDS/ADDRESS has the id of the
# machine's process 1.
#
# usage: ssh root@ADDRESS COMMAND...
#        scp [-r] FILE... TARGET, where each may be root@ADDRESS:[PATH]
set -euo pipefail

main() {
    local name=${0##*/}
    case "$name" in
    ssh | scp) "$name" "$@" ;;
    *) fail "this script acts as ssh or scp; call it by one of these names" ;;
    esac
}

ssh() {
    (($# >= 2)) || fail "usage: ssh root@ADDRESS COMMAND..."
    local pid
    pid=$(process_1 "${1#root@}")
    shift
    exec nsenter --target "$pid" --mount --uts --ipc --net --pid --cgroup --root --wdns=/ -- \
        env --ignore-environment HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        bash -c "cd && $*"
}

scp() {
    (($# >= 2)) || fail "usage: scp [-r] FILE... TARGET, where each may be root@ADDRESS:[PATH]"
    local word words=()
    for word in "$@"; do
        [[ $word == root@*:* ]] && word=$(path_of "$word")
        words+=("$word")
    done
    exec cp "${words[@]}"
}

# Prints the path by which this machine can access the file root@ADDRESS:[PATH].
path_of() {
    local pid path=${1#*:}
    pid=$(process_1 "$(cut -d: -f1 <<<"${1#root@}")")
    [[ $path == /* ]] || path="/root/$path"
    echo "/proc/$pid/root$path"
}

# Prints the id of process 1 of the machine at address $1.
process_1() {
    cat -- "$STABLECHAT_PIDS/$1" 2>/dev/null || fail "no machine answers at $1"
}

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 255
}

main "$@"
