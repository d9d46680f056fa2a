#!/bin/bash
# PID 1 of the lab: sets up the host, runs the command, reports its exit status, and powers off.
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
ln -s /proc/self/fd /dev/fd
for number in 0:stdin 1:stdout 2:stderr; do
    ln -s "/proc/self/fd/${number%:*}" "/dev/${number#*:}"
done
mount -t devpts -o gid=5,mode=620 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=755 tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# vhost_vsock is for QEMU; Firecracker has its own vsock.
modprobe -a kvm_amd tun virtio_console vhost_vsock
# As udev does.
chmod 0666 /dev/net/tun
chown root:kvm /dev/kvm
chmod 0660 /dev/kvm
ip link set lo up
hostname lab
# A scenario mounts its own over it.
touch /etc/resolv.conf
mkdir -p /dev/virtio-ports
for port in /sys/class/virtio-ports/*; do
    ln -s "../${port##*/}" "/dev/virtio-ports/$(cat "$port/name")"
done
exec 3>/dev/virtio-ports/status
echo ready >&3
# A heartbeat until the lab ends.
while echo alive >&3; do sleep 5; done &

# The scenarios link the template's files, so their directories and the template share this disk. Only the store is
# changed, so it is copied.
mkdir -p /lab/template /lab/home
for part in state cache config; do
    if [ -d "/lab/$part" ]; then
        mv "/lab/$part" /lab/template/
        cp -al "/lab/template/$part" /lab/home/
    else
        mkdir -p "/lab/home/$part"
    fi
done
for tree in /lab/*.tar.zst; do
    if [ -f "$tree" ]; then
        mv "$tree" /lab/template/
    fi
done
for store in /lab/template/state/banger/store.db*; do
    if [ -f "$store" ]; then
        cp --remove-destination "$store" /lab/home/state/banger/
    fi
done
export HOME=/root USER=root LOGNAME=root LANG=C.UTF-8 TERM=${TERM:-linux}
export PATH=/in/programs:/in/tools:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export XDG_STATE_HOME=/lab/home/state XDG_CACHE_HOME=/lab/home/cache XDG_CONFIG_HOME=/lab/home/config
export BANGER_PROGRAMS=/in/programs BANGER_SMOKE_TEMPLATE=/lab/template
export BANGER_FAIL_PROGRAMS=/in/failing
cd /root

mapfile -d '' -t command </in/command
if [ -f /in/terminal ]; then
    # shellcheck disable=SC1091
    . /in/terminal
    # Kept open, because a terminal loses its size when no process has it open.
    exec 4<>/dev/hvc0
    stty rows "$ROWS" cols "$COLUMNS" <&4
    unset ROWS COLUMNS
    setsid --ctty --wait "${command[@]}" <&4 >&4 2>&4 3>&- 4>&-
    status=$?
else
    # Through pipes, because a port cannot be opened twice and a program may open its /dev/stderr.
    mkfifo /run/out /run/err
    cat /run/out >/dev/virtio-ports/out 3>&- &
    out=$!
    cat /run/err >/dev/virtio-ports/err 3>&- &
    err=$!
    "${command[@]}" </dev/null >/run/out 2>/run/err 3>&-
    status=$?
    # With a time limit, because processes that the command left running may keep the pipes open.
    for _ in {1..20}; do
        kill -0 "$out" 2>/dev/null || kill -0 "$err" 2>/dev/null || break
        sleep 0.1
    done
fi
echo "status $status" >&3
busybox poweroff -f
