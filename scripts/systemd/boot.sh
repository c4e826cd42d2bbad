# shellcheck shell=bash
# Boots a systemd of one's own, as process 1 of namespaces of its own, to try units in. To be sourced after common.sh, by bash.
#
# It has a root directory in memory, with a copy of /etc, and sees of this machine's files only programs, the checkout and what
# is built, none of which it can change. That matters, since booting cleans up: Debian's systemd empties /tmp, for one. It has its
# own network, processes and devices too. Needs root, Linux with cgroup v2, and Debian's systemd.

# How long it may take to boot, and how long a command may take in there.
BOOT_LIMIT_S=120

# Says why a systemd cannot be booted here; says nothing if it can.
why_no_boot() {
    local said
    if ((EUID != 0)); then
        echo "only root can make namespaces and mounts"
    elif [[ ! -x /lib/systemd/systemd ]]; then
        echo "there is no /lib/systemd/systemd; scripts/setup test installs it"
    elif ! grep -qw cgroup2 /proc/filesystems; then
        echo "the kernel has no cgroup v2"
    elif ! said=$(unshare --mount --pid --fork --uts --ipc --net --cgroup \
        bash "$ROOT/scripts/systemd/boot.sh" make_root 2>&1); then
        echo "namespaces and mounts are not allowed here: $said"
    fi
}

# Boots it. Afterwards BOOT_PID is the number that its process 1 has out here, and BOOT_LOG is what it said.
boot() {
    BOOT_LOG=$1
    : >"$BOOT_LOG"
    unshare --mount bash "$ROOT/scripts/systemd/boot.sh" in_a_cgroup >"$BOOT_LOG" 2>&1 </dev/null &
    BOOT_SHELL=$!
    local deadline=$((SECONDS + BOOT_LIMIT_S))
    until BOOT_PID=$(sed -n 's/^process 1 is //p' "$BOOT_LOG") && [[ -n $BOOT_PID ]] && has_booted; do
        if ((SECONDS >= deadline)) || ! kill -0 "$BOOT_SHELL" 2>/dev/null; then
            say "systemd does not boot; it says:"
            sed 's/^/    /' "$BOOT_LOG" >&2
            return 1
        fi
        sleep 0.1
    done
}

# Whether all that belongs to booting is done.
has_booted() {
    [[ $(readlink "/proc/$BOOT_PID/exe") == */systemd ]] || return 1
    case $(within systemctl is-system-running 2>/dev/null) in
    running | degraded) ;;
    *) return 1 ;;
    esac
}

# Runs a command in there; fails if that takes too long.
within() {
    nsenter --target "$BOOT_PID" --mount --uts --ipc --net --pid --cgroup --root --wd="$ROOT" -- \
        timeout "$BOOT_LIMIT_S" "$@"
}

# Ends it with all that runs in it.
shut_down() {
    [[ -n ${BOOT_SHELL-} ]] || return 0
    if [[ -n ${BOOT_PID-} ]]; then
        # Process 1 takes everything in its namespace with it.
        kill -s KILL "$BOOT_PID" 2>/dev/null || true
    fi
    wait "$BOOT_SHELL" || true
    BOOT_SHELL=
}

# In a mount namespace of its own: makes a cgroup below ours for what boots, and removes it when all is over.
in_a_cgroup() {
    local cgroup
    mount --make-rprivate /
    mount -t tmpfs tmpfs /mnt
    mkdir /mnt/cgroup
    mount -t cgroup2 cgroup2 /mnt/cgroup
    cgroup="/mnt/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/stablechat-boot-$$"
    mkdir "$cgroup"
    (
        echo "$BASHPID" >"$cgroup/cgroup.procs"
        exec unshare --pid --fork --kill-child=KILL --mount --uts --ipc --net --cgroup \
            bash "$ROOT/scripts/systemd/boot.sh" as_process_1
    ) || true
    # What was killed takes a moment to go.
    local deadline=$((SECONDS + 10))
    while [[ -e $cgroup ]] && ((SECONDS < deadline)); do
        find "$cgroup" -depth -type d -exec rmdir {} \; 2>/dev/null || true
        sleep 0.1
    done
}

# In a mount namespace of its own: makes /mnt/root, which is to be the root directory.
make_root() {
    local name
    mount --make-rprivate /
    mount -t tmpfs -o mode=755 tmpfs /mnt
    mkdir /mnt/root
    mount -t tmpfs -o mode=755 tmpfs /mnt/root
    cd /mnt/root
    mkdir dev etc mnt proc root run sys tmp usr var
    chmod 1777 tmp
    for name in bin sbin lib lib32 lib64; do
        if [[ -L /$name ]]; then
            cp -a "/$name" .
        elif [[ -d /$name ]]; then
            show "/$name"
        fi
    done
    for name in /usr "$ROOT" "$CARGO_TARGET_DIR"; do
        show "$name"
    done
    mount -t tmpfs -o mode=755 tmpfs usr/local
    cp -a /etc/. etc
    # What this machine would start is not wanted in there.
    rm -rf etc/systemd/system
    mkdir etc/systemd/system
}

# Shows a directory of this machine at the same place below the current directory, to be read only.
show() {
    mkdir -p ".$1"
    mount --bind "$1" ".$1"
    mount -o remount,bind,ro ".$1"
}

# In all its namespaces: leaves this machine's files behind, mounts what systemd expects, and becomes systemd.
as_process_1() {
    local pid name
    # The number that this process has out there, where /proc still is.
    read -r pid _ </proc/self/stat
    make_root

    mount -t tmpfs -o mode=755 tmpfs dev
    for name in null zero full random urandom tty; do
        touch "dev/$name"
        mount --bind "/dev/$name" "dev/$name"
    done
    mkdir dev/{pts,shm}
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
    mount -t tmpfs -o mode=1777 tmpfs dev/shm
    ln -s pts/ptmx dev/ptmx
    mount -t proc proc proc
    # The kernel's settings are everybody's.
    mount --bind proc/sys proc/sys
    mount -o remount,bind,ro proc/sys
    mount -t sysfs -o ro sysfs sys
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    mount -t tmpfs -o mode=755 tmpfs run
    hostname stablechat

    mkdir mnt/old
    pivot_root . mnt/old
    cd /
    umount -l /mnt/old
    # Units have mount namespaces of their own, and systemd mounts credentials for them out here.
    mount --make-rshared /
    # Nothing of this machine may be left that it could write to, or it would clean up there.
    [[ $(stat -f -c %T / /tmp /var /etc | uniq) == tmpfs ]] || die "this is not a root directory of its own"
    echo "process 1 is $pid"
    export container=stablechat
    exec /lib/systemd/systemd --system --unit=basic.target --log-target=journal
}

# Run as a program, it is one of the steps above.
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    set -euo pipefail
    # shellcheck source=scripts/common.sh
    source "$(dirname -- "${BASH_SOURCE[0]}")/../common.sh"
    "$@"
fi
