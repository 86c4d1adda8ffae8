#!/bin/busybox sh
# First process of the virtual machine, in its initial RAM file system: makes its root of this machine's files, which come by
# 9p and are read through a cache, and of a memory over them that takes what is written. Then `guest.sh` goes on in it.
set -e
/bin/busybox --install -s /bin
export PATH=/bin
new=/new
mkdir -p /dev /proc /sys /shared /files /changes $new
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
for module in /modules/*; do insmod "$module"; done

options=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o "$options" shared /shared
mount -t 9p -o "ro,$options,cache=loose" files /files
mount -t tmpfs -o size=75% changes /changes
mkdir /changes/upper /changes/work
mount -t overlay -o lowerdir=/files,upperdir=/changes/upper,workdir=/changes/work root $new

mount -t tmpfs -o mode=755 run $new/run
mkdir $new/run/shared
for dir in dev proc sys; do mount --move "/$dir" "$new/$dir"; done
mount --move /shared $new/run/shared
exec switch_root $new /bin/sh /run/shared/guest.sh
