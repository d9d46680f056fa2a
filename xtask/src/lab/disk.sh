#!/bin/sh
# disk.sh TAR INIT OUT: creates the lab's root disk, kernel and initrd from the tar of its root file system.
# Runs as root, or as root of a user namespace, so that files keep their owners.
set -eu
tar=$1 init=$2 out=$3
root=$out/root.partial
rm -rf "$root"
mkdir -p "$root"
# A user namespace cannot create device nodes, and the kernel creates its own.
tar -x --numeric-owner --exclude='./dev/*' -C "$root" -f "$tar"
mkdir -p "$root/in" "$root/lab"

version=$(ls "$root/lib/modules")
initrd=$root/tmp/initrd
mkdir -p "$initrd/bin" "$initrd/dev" "$initrd/root" "$initrd/modules"
cp "$root/bin/busybox" "$initrd/bin/busybox"
cp "$init" "$initrd/init"
chmod 755 "$initrd/init"
# Numbered, because the initrd loads them in this order.
chroot "$root" /sbin/modprobe -S "$version" --show-depends -a virtio_pci virtio_blk |
    awk '$1 == "insmod" && !seen[$2]++ { print $2 }' |
    { number=10; while read -r module; do
        cp "$root$module" "$initrd/modules/$number-${module##*/}"
        number=$((number + 1))
    done; }
chroot "$root" /bin/sh -c 'cd /tmp/initrd && find . | cpio --quiet -o -H newc' | gzip -1 >"$out/initrd"
rm -rf "$initrd"
cp "$root/boot/vmlinuz-$version" "$out/vmlinuz"
# The lab never boots from its own disk.
rm -rf "$root/boot"
mke2fs -q -F -t ext4 -E lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0 -d "$root" "$out/root.ext4" 3G >/dev/null
rm -rf "$root"
