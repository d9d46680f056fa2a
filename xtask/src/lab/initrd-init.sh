#!/bin/busybox sh
# The lab's first program: loads the disk driver and hands over to the lab's init on the disk that the run brings.
# The disks are, in order: the lab's root, what the run brings, the room to work in.
/bin/busybox mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do
    /bin/busybox insmod "$module"
done
/bin/busybox mount -t ext4 /dev/vda /root
/bin/busybox mount -t ext4 -o ro /dev/vdb /root/in
/bin/busybox mount -t ext4 /dev/vdc /root/lab
exec /bin/busybox switch_root /root /in/init
