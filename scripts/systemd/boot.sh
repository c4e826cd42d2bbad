# shellcheck shell=bash
# Boots a guest systemd as process 1 of new namespaces, so that tests can install and run units without changing this machine. To
# be sourced after common.sh, by bash. Needs root, Linux with cgroup v2, and Debian's systemd.
#
# The guest has its own network, processes and devices. Its root directory is in memory, with a copy of /etc. Of this machine's
# files it sees only the programs, the checkout and the build, all read-only: booting deletes files (Debian's systemd empties
# /tmp, for example), and must not be able to delete those of this machine.

# The longest time that the guest may take to boot, and a command to run in it.
BOOT_LIMIT_S=120

# Prints why a systemd cannot be booted here, and nothing if it can.
why_no_boot() {
    local output
    if ((EUID != 0)); then
        echo "only root can make namespaces and mounts"
    elif [[ ! -x /lib/systemd/systemd ]]; then
        echo "there is no /lib/systemd/systemd; scripts/setup test installs it"
    elif ! grep -qw cgroup2 /proc/filesystems; then
        echo "the kernel has no cgroup v2"
    elif ! output=$(unshare --mount --pid --fork --uts --ipc --net --cgroup \
        bash "$ROOT/scripts/systemd/boot.sh" make_root 2>&1); then
        echo "namespaces and mounts are not allowed here: $output"
    fi
}

# Boots a guest, with its console output in the file $1. Sets BOOT_PID to the id of the guest's process 1 as seen from outside,
# and BOOT_SHELL to the id of the process that removes the guest's cgroup when the guest has ended.
boot() {
    BOOT_LOG=$1
    : >"$BOOT_LOG"
    unshare --mount bash "$ROOT/scripts/systemd/boot.sh" in_a_cgroup >"$BOOT_LOG" 2>&1 </dev/null &
    BOOT_SHELL=$!
    local deadline=$((SECONDS + BOOT_LIMIT_S))
    until BOOT_PID=$(sed -n 's/^process 1 is //p' "$BOOT_LOG") && [[ -n $BOOT_PID ]] && has_booted; do
        if ((SECONDS >= deadline)) || ! kill -0 "$BOOT_SHELL" 2>/dev/null; then
            say "systemd has not booted within $BOOT_LIMIT_S s, or has ended; its output, $BOOT_LOG:"
            sed 's/^/    /' "$BOOT_LOG" >&2
            return 1
        fi
        sleep 0.1
    done
}

# Whether the guest has finished booting. It is degraded if a unit of the basic system has failed, which does not matter here.
has_booted() {
    [[ $(readlink "/proc/$BOOT_PID/exe") == */systemd ]] || return 1
    case $(within systemctl is-system-running 2>/dev/null) in
    running | degraded) ;;
    *) return 1 ;;
    esac
}

# Runs a command in the guest. Fails if it takes longer than BOOT_LIMIT_S.
within() {
    nsenter --target "$BOOT_PID" --mount --uts --ipc --net --pid --cgroup --root --wd="$ROOT" -- \
        timeout "$BOOT_LIMIT_S" "$@"
}

# Ends the guest and all its processes.
shut_down() {
    [[ -n ${BOOT_SHELL-} ]] || return 0
    if [[ -n ${BOOT_PID-} ]]; then
        # The kernel kills all processes of a process namespace when its process 1 ends.
        kill -s KILL "$BOOT_PID" 2>/dev/null || true
    fi
    wait "$BOOT_SHELL" || true
    BOOT_SHELL=
}

# Step 1, in a new mount namespace: makes a cgroup below the cgroup of this process, runs the guest in it, and removes it when the
# guest has ended.
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
    # A cgroup can be removed only when its processes have ended, which takes a moment after they were killed.
    local deadline=$((SECONDS + 10))
    while [[ -e $cgroup ]] && ((SECONDS < deadline)); do
        find "$cgroup" -depth -type d -exec rmdir {} \; 2>/dev/null || true
        sleep 0.1
    done
}

# Makes the guest's root directory, /mnt/root, in a new mount namespace. why_no_boot runs this step alone, to see whether the
# necessary mounts are allowed.
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
    # The guest must not start the units that this machine has enabled.
    rm -rf etc/systemd/system
    mkdir etc/systemd/system
}

# Mounts a directory of this machine read-only at the same path below the current directory.
show() {
    mkdir -p ".$1"
    mount --bind "$1" ".$1"
    mount -o remount,bind,ro ".$1"
}

# Step 2, in all the new namespaces: makes the root directory, mounts the file systems that systemd expects, leaves this machine's
# root directory, and becomes systemd.
as_process_1() {
    local pid name
    # The id of this process as seen from outside, because /proc is still that of this machine.
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
    # Read-only, because most of the kernel's settings are shared with this machine.
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
    # Shared, so that the credentials that systemd mounts here for a unit appear in the mount namespace of the unit.
    mount --make-rshared /
    # If one of these were still a directory of this machine, booting would delete files in it.
    [[ $(stat -f -c %T / /tmp /var /etc | uniq) == tmpfs ]] || die "the guest still sees this machine's /, /tmp, /var or /etc; not booting, to protect them"
    echo "process 1 is $pid"
    export container=stablechat
    exec /lib/systemd/systemd --system --unit=basic.target --log-target=journal
}

# When run as a program, this file executes one of the steps above.
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    set -euo pipefail
    # shellcheck source=scripts/common.sh
    source "$(dirname -- "${BASH_SOURCE[0]}")/../common.sh"
    "$@"
fi
