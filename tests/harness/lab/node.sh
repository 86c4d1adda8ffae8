# A lab node's namespaces, in three stages: it joins the node's cgroups, leaves everything that it shared with the
# host, and then, as process 1 of the node, builds the node's own /run, /etc, /sys and /proc.
# The host sees none of these mounts, and all of them go when process 1 does.
#
#   bash node.sh enter|settle|inside NAME
set -eu
export PATH="$PATH:/usr/sbin:/sbin:/usr/bin:/bin"
stage=$1 name=$2
dir=/run/mesh-lab/$name

hierarchies() {
	while read -r _ point type _; do
		case "$type:$point" in cgroup*:/sys/fs/cgroup*) echo "$type $point" ;; esac
	done </proc/mounts
}

enter() {
	hierarchies | while read -r _ point; do echo $$ >"$point/mesh-lab/$name/cgroup.procs"; done
	exec unshare --cgroup bash "$dir/node.sh" settle "$name"
}

# The node's group is the root that its cgroup namespace shows; cgroup2 gives controllers only to the children of a
# group that holds no process itself.
settle() {
	hierarchies | sed -n 's/^cgroup2 //p' | while read -r point; do
		echo $$ >"$point/mesh-lab/$name/init/cgroup.procs"
	done
	exec unshare --mount --uts --net --pid --ipc --fork bash "$dir/node.sh" inside "$name"
}

# Only the node's own directory in it is the host's: the docker socket there can be used from outside.
private_run() {
	mkdir -p "$dir/run"
	mount -t tmpfs -o mode=755 tmpfs "$dir/run"
	mkdir -p "$dir/run/mesh-lab/$name" "$dir/run/lock" "$dir/run/mesh-agent" "$dir/run/cgroup"
	mount --bind "$dir" "$dir/run/mesh-lab/$name"
	mount --rbind "$dir/run" /run
}

# A name server that refuses at once: otherwise every task spends 20 s looking for a registry.
private_etc() {
	mkdir /run/etc /run/etc.work
	mount -t overlay -o lowerdir=/etc,upperdir=/run/etc,workdir=/run/etc.work overlay /etc 2>/dev/null || {
		cp -a /etc/. /run/etc/
		mount --bind /run/etc /etc
	}
	rm -f /etc/resolv.conf
	echo 'nameserver 127.0.0.1' >/etc/resolv.conf
	echo "127.0.0.1 localhost $name" >/etc/hosts
	echo '{}' >/run/docker.json
}

# In memory: fast, and overlay2 works there whatever the machine's disk is formatted with.
private_docker_state() {
	mount -t tmpfs -o mode=711 tmpfs /var/lib/docker
	mkdir -p /var/lib/docker/swarm
}

# The node's subtree of each hierarchy, in the place where a machine of its own would have the whole.
private_cgroups() {
	type=$(hierarchies | sed -n 's, /sys/fs/cgroup$,,p')
	if [ "$type" = cgroup2 ]; then
		mount --bind "/sys/fs/cgroup/mesh-lab/$name" /run/cgroup
	else
		hierarchies | while read -r _ point; do
			mkdir -p "/run/cgroup/${point##*/}"
			mount --bind "$point/mesh-lab/$name" "/run/cgroup/${point##*/}"
		done
		find /sys/fs/cgroup -maxdepth 1 -type l -exec cp -P {} /run/cgroup/ \;
	fi
}

delegate_cgroup2() {
	hierarchies | sed -n 's/^cgroup2 //p' | while read -r point; do
		for controller in $(cat "$point/cgroup.controllers"); do
			echo "+$controller" >"$point/cgroup.subtree_control" || true
		done
	done
}

inside() {
	# The host's /proc still answers here, so this is the process number the host knows.
	read -r pid _ </proc/self/stat
	mount --make-rprivate /
	hostname "$name"
	private_run
	private_etc
	private_docker_state
	private_cgroups
	mount -t proc proc /proc
	mount -t sysfs sysfs /sys
	mount --rbind /run/cgroup /sys/fs/cgroup
	mount -t bpf bpf /sys/fs/bpf
	# Where the kernel has AppArmor, Docker finds it here.
	mount -t securityfs securityfs /sys/kernel/security 2>/dev/null || true
	delegate_cgroup2
	# As systemd has it on real machines: what is mounted later appears in containers that asked for it.
	mount --make-rshared /
	ip link set lo up
	echo "$pid" >"$dir/pid.new"
	mv "$dir/pid.new" "$dir/pid"
	# A shell reaps what containers leave to process 1.
	while :; do
		sleep 3600 &
		wait
	done
}

"$stage"
