# In the virtual machine, on its own root: what systemd has mounted where a machine runs for itself, and then the command.
# What it says goes to `log.txt` of the shared folder, the number that it ends with to `status`, and the machine ends.
exec >/run/shared/log.txt 2>&1 </dev/null

mount --make-rshared /
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
for dir in /dev/shm /tmp /var/tmp; do mount -t tmpfs -o mode=1777 tmpfs "$dir"; done
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t securityfs securityfs /sys/kernel/security
# The modules of this kernel.
mkdir -p /lib/modules
mount -t tmpfs modules /lib/modules
ln -s @MODULES@ "/lib/modules/$(uname -r)"
ip link set lo up
hostname vm
ulimit -n 1048576

export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# Where systemd runs, it makes the node of tun, and the module is loaded when that is opened; Docker loads the other one.
modprobe -a tun br_netfilter
mkdir -p @SHARED@
mount --bind /run/shared @SHARED@
cd @ROOT@
( @COMMAND@ )
echo $? >/run/shared/status
sync
busybox poweroff -f
