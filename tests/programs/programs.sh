#!/usr/bin/env bash
# programs.sh make|use|clean PROGRAM: makes the file $F, which is pinned then, runs the program on it as its users would, or
# removes what both have left outside of $DIR. $DIR is a directory on the same filesystem, which is $FS. A program that is
# done says how many bytes it wrote to the file or its blocks, and how many it read back and found right.
set -euo pipefail
export LC_ALL=C HOME=$DIR
size=8388608

wrote() {
    echo "wrote $1"
}

verified() {
    echo "verified $1"
}

# noise BYTES: no two blocks are the same, and each time it is the same.
noise() {
    { seq 1 9999999 2>/dev/null || :; } | head -c "$1"
}

# same BYTES WHAT FILE: that many bytes are the same in both.
same() {
    cmp -n "$1" "$2" "$3"
    verified "$1"
}

make() {
    daxfile alloc -q -s "$size" "$F"
}

# Runs fio: use fio ENGINE ARGUMENT...
use_fio() {
    local engine=$1
    shift
    # Without these options it would make the file anew.
    fio --name="$engine" --filename="$F" --ioengine="$engine" --size="$size" --bs=64k --iodepth=8 --rw=randwrite \
        --fallocate=none --overwrite=1 --verify=crc32c --verify_fatal=1 --do_verify=1 "$@" >said 2>&1 ||
        { grep -a '^fio: pid' said; exit 1; }
    wrote "$(transferred WRITE)"
    verified "$(transferred READ)"
}

# transferred READ|WRITE: the bytes that fio reports.
transferred() {
    sed -nE "s/^ +$1: .* io=([0-9.]+[KMG])iB .*/\1/p" said | numfmt --from=iec
}

# qemu CACHE AIO: as the disk of a machine.
use_qemu() {
    qemu-io -f raw -t "$1" -i "$2" -c 'write -P 0x5a 0 2M' -c 'aio_write -P 0xa5 2M 2M' -c aio_flush \
        -c 'read -P 0x5a 0 2M' -c 'read -P 0xa5 2M 2M' -c flush "$F" 2>&1
    wrote 4194304
    verified 4194304
}

use_qemu-discard() {
    qemu-io -f raw -d unmap -c 'discard 1M 1M' "$F" 2>&1
}

use_qemu-zeroes() {
    qemu-io -f raw -c 'write -z 1M 1M' -c 'read -P 0 1M 1M' "$F" 2>&1
    wrote 1048576
    verified 1048576
}

use_qemu-img() {
    noise "$size" >source
    qemu-img convert -n -f raw -O raw source "$F" 2>&1
    wrote "$size"
    same "$size" source "$F"
}

use_dd() {
    noise "$size" >source
    dd if=source of="$F" bs=1M conv=notrunc,fsync status=none
    wrote "$size"
    same "$size" source "$F"
}

make_lmdb() {
    printf 'VERSION=3\nformat=print\ntype=btree\nmapsize=%s\nHEADER=END\nDATA=END\n' "$size" | mdb_load -n "$F"
    # LMDB extends the file as it fills it, until the file is as large as the map.
    truncate -s "$size" "$F"
    daxfile prepare -q "$F"
}

use_lmdb() {
    {
        printf 'VERSION=3\nformat=print\ntype=btree\nmapsize=%s\nHEADER=END\n' "$size"
        seq -f ' %06g' 1 20000 | sed 'p; s/^ / value/'
        echo DATA=END
    } >given
    mdb_load -n -f given "$F"
    mdb_dump -n -p "$F" >taken
    diff <(sed '1,/HEADER/d' given) <(sed '1,/HEADER/d' taken)
    wrote "$(wc -c <given)"
    verified "$(wc -c <taken)"
}

# A database of a fixed size: the pages are there, and free.
make_sqlite() {
    sqlite3 "$F" "PRAGMA journal_mode = $1; CREATE TABLE t (n INTEGER PRIMARY KEY, b BLOB);
        INSERT INTO t SELECT value, randomblob(4000) FROM generate_series(1, 1800); DELETE FROM t;" >/dev/null
    daxfile prepare -q "$F"
}

use_sqlite() {
    sqlite3 -bail "$F" "INSERT INTO t SELECT value, zeroblob(4000) FROM generate_series(1, 1000);
        UPDATE t SET b = randomblob(4000);" 2>&1
    sqlite3 -bail "$F" "PRAGMA wal_checkpoint(TRUNCATE)" 2>&1
    wrote "$(sqlite3 -bail "$F" 'SELECT sum(length(b)) FROM t')"
    [[ $(sqlite3 -bail "$F" 'PRAGMA integrity_check') == ok ]]
    verified "$(sqlite3 -bail "$F" 'SELECT sum(length(b)) FROM t')"
}

make_swap() {
    make
    chmod 600 "$F"
    mkswap "$F" >/dev/null
}

use_swap() {
    swapon "$F" 2>&1
    swapoff "$F"
}

use_rsync() {
    noise "$size" >source
    rsync --checksum "$@" source "$F" 2>&1
    wrote "$size"
    same "$size" source "$F"
}

use_backup-rsync() {
    rsync -a "$F" copy 2>&1
    same "$size" "$F" copy
}

use_backup-tar() {
    mkdir restored
    tar -C "$(dirname "$F")" -cf - "$(basename "$F")" | tar -C restored -xf - 2>&1
    same "$size" "$F" restored/*
}

use_backup-borg() {
    export BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes
    borg init -e none repository 2>&1
    borg create repository::one "$F" 2>&1
    mkdir restored
    (cd restored && borg extract --noflags --noxattrs ../repository::one 2>&1)
    same "$size" "$F" "restored$F"
}

use_restore() {
    noise "$size" >"$(basename "$F")"
    tar -cf - "$(basename "$F")" | tar -C "$(dirname "$F")" "$@" -xf - 2>&1
    wrote "$size"
    same "$size" "$(basename "$F")" "$F"
}

use_logrotate() {
    printf '%s {\nrotate 1\n%s\n}\n' "$F" "$*" >rotate.conf
    chmod 644 rotate.conf
    logrotate --force --state "$PWD/state" rotate.conf 2>&1
}

# On a filesystem of its own: device-mapper does not share a device with a mounted filesystem.
make_dmsetup() {
    truncate -s 320M image
    "mkfs.$FS" -q image
    losetup --find --show image >loop
    mount "$(cat loop)" "$(dirname "$F")"
    make
}

use_dmsetup() {
    # The trap outlives the function.
    name=programs-$$
    local table
    table=$(daxfile map --format dmsetup "$F")
    umount "$(dirname "$F")"
    trap 'umount inside 2>/dev/null || :; dmsetup --noudevsync remove --retry "$name"; mount "$(cat loop)" "$(dirname "$F")"' EXIT
    dmsetup --noudevsync create "$name" --table "$table" 2>&1
    dmsetup mknodes "$name"
    mkfs.ext4 -q "/dev/mapper/$name"
    mkdir inside
    mount "/dev/mapper/$name" inside
    noise 4194304 >inside/file
    umount inside
    wrote 4194304
    e2fsck -fn "/dev/mapper/$name" 2>&1
    mount "/dev/mapper/$name" inside
    noise 4194304 >source
    same 4194304 source inside/file
}

clean_dmsetup() {
    umount "$(dirname "$F")"
    losetup -d "$(cat loop)"
}

use_overlayfs() {
    mkdir upper work merged
    mount -t overlay overlay -o "lowerdir=$(dirname "$F"),upperdir=$PWD/upper,workdir=$PWD/work" merged
    trap 'umount merged' EXIT
    noise "$size" >source
    dd if=source of="merged/$(basename "$F")" bs=1M conv=notrunc,fsync status=none
    same "$size" source "merged/$(basename "$F")"
}

# A server exports one directory as its root, so exports take turns.
use_nfs() {
    exported=$(dirname "$F")
    exec {turn}>/run/programs-nfs
    flock "$turn"
    if [[ ! -e /proc/fs/nfsd/threads ]]; then
        mount -t nfsd nfsd /proc/fs/nfsd
        mkdir -p /var/lib/nfs/v4recovery
        touch /var/lib/nfs/{etab,rmtab} /etc/exports
        # As the package of the library has it.
        [[ -e /etc/netconfig ]] || printf '%s - -\n' 'udp tpi_clts v inet udp' 'tcp tpi_cots_ord v inet tcp' >/etc/netconfig
        ip link set lo up
        # No client of an earlier server will come back.
        echo 5 >/proc/fs/nfsd/nfsv4leasetime
        echo 5 >/proc/fs/nfsd/nfsv4gracetime
        rpc.mountd --no-nfs-version 3 {turn}>&-
        rpc.nfsd --no-nfs-version 3 --port 2049 2 {turn}>&-
    fi
    exportfs -o rw,no_root_squash,insecure,fsid=0,no_subtree_check "127.0.0.1:$exported" 2>&1
    mkdir client
    trap 'umount client; exportfs -u "127.0.0.1:$exported"; exportfs -f' EXIT
    mount -i -t nfs4 -o addr=127.0.0.1,clientaddr=127.0.0.1,vers=4.2 127.0.0.1:/ client 2>&1
    noise "$size" >source
    dd if=source of="client/$(basename "$F")" bs=1M conv=notrunc,fsync status=none
    wrote "$size"
    same "$size" source "$F"
}

cd "$DIR"
case $1 in
    make)
        if declare -F "make_$2" >/dev/null; then "make_$2" "${@:3}"; else make; fi
        ;;
    use) "use_$2" "${@:3}" ;;
    clean) ! declare -F "clean_$2" >/dev/null || "clean_$2" ;;
esac
