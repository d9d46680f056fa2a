# Changes a Debian root file system to the layout of Arch: one directory for programs and one for libraries. Also adds
# what images of real machines may have: mounts of missing disks, a root user without a login shell and with a symbolic
# link as home directory, SELinux, and no machine id yet.
set -eu
cd "$1"
rm -rf usr/share/doc usr/share/man usr/share/locale var/lib/apt/lists
mv usr/sbin/* usr/bin/
mv usr/lib64/* usr/lib/
rm -rf usr/sbin usr/lib64 sbin lib64 root
ln -s bin usr/sbin
ln -s lib usr/lib64
ln -s usr/bin sbin
ln -s usr/lib lib64
ln -s var/roothome root
sed -i 's,^root:.*,root:x:0:0:root:/root:/usr/sbin/nologin,' etc/passwd
printf 'LABEL=arch / ext4 rw 0 1\nUUID=12-34 /boot vfat rw 0 2\n/dev/sda3 none swap sw 0 0\n' >etc/fstab
mkdir -p etc/selinux
printf 'SELINUX=enforcing\nSELINUXTYPE=targeted\n' >etc/selinux/config
echo uninitialized >etc/machine-id
