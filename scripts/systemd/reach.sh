#!/usr/bin/env bash
# ssh and scp, by the name under which it is called, as far as docs/OPERATIONS.md uses them, to machines that are namespaces: a
# machine's process 1 has its number in the file $STABLECHAT_PIDS/ADDRESS.
#
# usage: ssh root@ADDRESS COMMAND...
#        scp [-r] FILE... TO, of which one may be root@ADDRESS:[PATH]
set -euo pipefail

main() {
    local name=${0##*/}
    case "$name" in
    ssh | scp) "$name" "$@" ;;
    *) fail "call it ssh or scp" ;;
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
    (($# >= 2)) || fail "usage: scp [-r] FILE... root@ADDRESS:[PATH], or root@ADDRESS:FILE to take it from there"
    local word words=()
    for word in "$@"; do
        [[ $word == root@*:* ]] && word=$(path_of "$word")
        words+=("$word")
    done
    exec cp "${words[@]}"
}

# Where a file of another machine, root@ADDRESS:[PATH], is seen from here.
path_of() {
    local pid path=${1#*:}
    pid=$(process_1 "$(cut -d: -f1 <<<"${1#root@}")")
    [[ $path == /* ]] || path="/root/$path"
    echo "/proc/$pid/root$path"
}

# The number of the process 1 of the machine at address $1.
process_1() {
    cat -- "$STABLECHAT_PIDS/$1" 2>/dev/null || fail "no machine answers at $1"
}

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 255
}

main "$@"
