#!/bin/busybox sh
# The lab's first program: loads the disk driver, mounts the disks and runs the lab's init from the input disk.
# The disks are, in order: the lab's root, the input disk, the work disk.
/bin/busybox mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do
    /bin/busybox insmod "$module"
done
/bin/busybox mount -t ext4 /dev/vda /root
/bin/busybox mount -t ext4 -o ro /dev/vdb /root/in
/bin/busybox mount -t ext4 /dev/vdc /root/lab
exec /bin/busybox switch_root /root /in/init
