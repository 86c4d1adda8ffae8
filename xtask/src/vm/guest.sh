# In the virtual machine, which has this machine's files by 9p, without a cache: programs would be read anew each time they
# are started. They are mounted again here, with a cache, and with a memory over them that takes what is written.
#
#   sh guest.sh SHARED MODULES COMMAND...
set -eu
shared=$1 modules=$2
shift 2

mkdir -p /run/files /run/changes /run/root
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose files /run/files
mount -t tmpfs -o size=75% changes /run/changes
mkdir /run/changes/upper /run/changes/work
mount -t overlay -o lowerdir=/run/files,upperdir=/run/changes/upper,workdir=/run/changes/work root /run/root

cd /run/root
mkdir -p outside lib/modules
for dir in proc sys dev; do mount --rbind "/$dir" "$dir"; done
mount -t tmpfs run run
mount -t tmpfs modules lib/modules
ln -s "$modules" "lib/modules/$(uname -r)"
mount --bind "$shared" ".$shared"
pivot_root . outside
cd /
umount -l /outside

# Of the first /run, which is outside now; `docker exec` would put its files there.
unset XDG_RUNTIME_DIR
export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec "$@"
