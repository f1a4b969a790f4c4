#!/usr/bin/env bash
# lab.sh [--kills N] [--count] [--hibernate] [--boot PARAMETERS] [--arch arm64|arm64-16k] KERNEL PROGRAM[,PROGRAM...] [ARGUMENT...]
# Runs test programs, with these arguments, in a virtual machine: tests/lab.sh 6.1 filesystem maps::a_test_name
# KERNEL is one of Debian's (6.1, 6.12 or newest), or a path:
#   DIRECTORY      holds boot/vmlinuz-VERSION (or vmlinuz beside the modules) and lib/modules/VERSION or usr/lib/modules/VERSION:
#                  a Debian package unpacked with dpkg -x, or what make install and make modules_install wrote there
#   IMAGE:MODULES  names a bzImage and its modules' directory, …/lib/modules/VERSION
# With --kills, lab.sh runs them N + 1 times: it kills the machine when they ask for it, and boots it again.
# With --count, the machine has one processor, on which an instruction takes a nanosecond: a time is a count of instructions.
# With --hibernate, the machine has two disks. Where it powers off before the tests are done, lab.sh boots it again with the
# parameters that they said last.
# With --boot, the kernel gets these parameters as well: --boot 'lockdown=integrity apparmor=0'
# With --arch, the machine is an arm64 one with pages of 4 KiB or 16 KiB, without persistent memory. Its kernels: 6.12, newest,
# or a path. The first run fetches a Rust compiler and a userland for it, 200 MB.
# With UPDATE_HOLDS=1 in the environment, attacks rewrites what daxfile-attacks(7) and daxfile-holds(7) say of that kernel.
set -euo pipefail
usage() {
    sed -n '2,/^set /s/^# //p' "${BASH_SOURCE[0]}" >&2
    exit 2
}
kills=0
hibernate=
boot_parameters=
architecture=amd64
processors=(-smp 2)
while [[ ${1-} == -* ]]; do
    case $1=${2-} in
        --kills=[1-9]*) kills=$2 ;;
        --count=*)
            processors=(-smp 1 -icount "shift=0,sleep=off")
            shift
            continue
            ;;
        --arch=arm64 | --arch=arm64-16k) architecture=$2 ;;
        --hibernate=*)
            hibernate=yes
            shift
            continue
            ;;
        --boot=*) boot_parameters=${2-} ;;
        *) usage ;;
    esac
    shift 2 || usage
done
if (($# < 2)) || [[ ! $kills =~ ^[0-9]+$ ]]; then
    usage
fi
# Only persistent memory survives a kill.
if [[ $architecture != amd64 ]] && { ((kills > 0)) || [[ -n $hibernate ]]; }; then
    usage
fi
linux=
# A path is relative to where the caller is.
case $1 in
    6.1 | 6.12 | newest) ;;
    *:*) linux=$(realpath -e "${1%:*}") modules=$(realpath -e "${1##*:}") ;;
    *)
        directory=$(realpath -e "$1")
        modules=
        for candidate in "$directory"/{usr/,}lib/modules/*/; do
            version=$(basename "$candidate")
            for image in "$directory/boot/vmlinuz-$version" "$candidate/vmlinuz"; do
                [[ ! -e $image ]] || linux=$image modules=$(realpath "$candidate")
            done
        done
        if [[ -z $linux ]]; then
            echo "lab.sh: $directory: no boot/vmlinuz-VERSION with lib/modules/VERSION" >&2
            exit 2
        fi
        ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/scripts/packages.sh
need qemu-system-x86_64=qemu-system-x86 cpio=cpio depmod=kmod jq=jq strip=binutils \
    /usr/share/keyrings/debian-archive-keyring.gpg=debian-archive-keyring \
    mkfs.xfs=xfsprogs mkfs.ext4=e2fsprogs mkfs.btrfs=btrfs-progs mkfs.erofs=erofs-utils \
    mount=mount setfattr=attr capsh=libcap2-bin strace=strace perl=perl-base \
    clang=clang /usr/include/bpf/bpf_helpers.h=libbpf-dev bpftool=bpftool rsync=rsync dmsetup=dmsetup \
    sfdisk=fdisk mkfs.f2fs=f2fs-tools apparmor_parser=apparmor
if [[ $architecture != amd64 ]]; then
    need qemu-system-aarch64=qemu-system-arm aarch64-linux-gnu-gcc=gcc-aarch64-linux-gnu \
        aarch64-linux-gnu-strip=binutils-aarch64-linux-gnu /usr/aarch64-linux-gnu/lib/libc.a=libc6-dev-arm64-cross
fi
# Packages whose programs the tests call.
packages=(apparmor attr bash bpftool btrfs-progs coreutils diffutils dmsetup dpkg e2fsprogs erofs-utils f2fs-tools fdisk findutils
    grep gzip jq kmod libc-bin libcap2-bin mawk mount ncurses-base perl-base procps rsync sed strace tar util-linux
    util-linux-extra xfsprogs)
# The guest loads these at once; the others when they are asked for.
devices=(loop nd_e820 nd_pmem nd_btt dax_pmem virtio_pci virtio_pmem)
names_of_modules=("${devices[@]}" xfs ext4 quota_v2 btrfs erofs overlay fuse f2fs nfsd nfsv4 crc32_generic crc32c_generic
    crc32c_cryptoapi dm_mod dm_crypt crypto_null virtio_blk)
IFS=, read -ra names <<<"$2"
limit=2h
# What tests/programs runs, with Python for one of the programs.
if [[ ,$2, == *,programs,* ]]; then
    need fio=fio qemu-img=qemu-utils mdb_load=lmdb-utils sqlite3=sqlite3 logrotate=logrotate borg=borgbackup \
        stress-ng=stress-ng rpc.nfsd=nfs-kernel-server ip=iproute2
    mapfile -t -O "${#packages[@]}" packages < <(apt-cache depends --recurse --installed --no-recommends --no-suggests \
        --no-conflicts --no-breaks --no-replaces --no-enhances borgbackup | grep -E '^(lib)?python|^borg' | cut -d: -f1 | sort -u)
    packages+=(fio iproute2 lmdb-utils logrotate nfs-common nfs-kernel-server qemu-utils sqlite3 stress-ng)
    names_of_modules+=(nfsd nfsv4)
fi

if [[ -z $linux ]]; then
    kernel=$(tests/scripts/lab/fetch.sh "$1" "$architecture")
    version=${kernel##*/}
    modules=$kernel/usr/lib/modules/$version
    linux=$kernel/boot/vmlinuz-$version
    [[ -e $linux ]] || linux=$modules/vmlinuz
fi
version=${modules##*/}
echo "== Linux $version: ${names[*]}"
work=$(mktemp -d)
qemu=
trap '[[ -z $qemu ]] || kill "$qemu" || :; rm -rf "$work"' EXIT
tree=$work/tree
mkdir -p "$tree"/{usr/{bin,sbin,lib,lib64},dev,proc,sys,run,root,tmp,var/tmp,etc,lab}
ln -s usr/{bin,sbin,lib,lib64} "$tree"

# Built like in run.sh: with fewer targets, dependencies would have other features, and cargo would build them again.
target=$(cargo metadata --format-version 1 --no-deps | jq -r .target_directory)
built=$target/debug
strip="strip"
if [[ $architecture != amd64 ]]; then
    toolchain=$(tests/scripts/lab/fetch.sh toolchain)
    userland=$(tests/scripts/lab/fetch.sh userland "${packages[@]}")
    # The other compiler takes a directory of its own.
    export RUSTC=$toolchain/rustc CARGO_TARGET_DIR=$target/arm64 CARGO_BUILD_TARGET=aarch64-unknown-linux-gnu
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
    built=$CARGO_TARGET_DIR/$CARGO_BUILD_TARGET/debug
    strip=aarch64-linux-gnu-strip
fi
cargo build --workspace --features daxfile/guard --all-targets --message-format=json >"$work/built"
program='first(inputs | select(.executable and .target.kind == ["test"] and .target.name == $name).executable)'
for name in "${names[@]}"; do
    programs+=("$(jq -enr --arg name "$name" "$program" "$work/built")") || {
        echo "lab.sh: no test program $name" >&2
        exit 2
    }
done
attacks=$(jq -r 'select(.reason == "build-script-executed" and (.package_id | contains("daxfile-tests"))).out_dir' "$work/built")

# Every file has the same path as here, because some paths are compiled into the tests.
copy() {
    sed 's,^/,,' | tar -C / --dereference --files-from=- -c | tar -C "$tree" --keep-directory-symlink -x
}
executables=("$built/daxfile" "${programs[@]}" "$attacks"/*)
printf '%s\n' "${executables[@]}" "$PWD"/{README.md,man,tests} | copy
"$strip" "${executables[@]/#/$tree}"

# No configuration: no modprobe(8) files of a package, and none that this machine's administrator wrote.
if [[ $architecture == amd64 ]]; then
    mapfile -t files < <(dpkg -L "${packages[@]}" | grep -E '^(/usr)?/(s?bin|lib)/' | grep -v /modprobe.d/ |
        while read -r file; do if [[ -f $file && -r $file ]]; then echo "$file"; fi; done)
    mapfile -t libraries < <(printf '%s\n' "${executables[@]}" "${files[@]}" | xargs ldd 2>/dev/null |
        grep -oE '/[^ ]+ \(0x' | cut -d' ' -f1 | sort -u)
    printf '%s\n' "${files[@]}" "${libraries[@]}" | copy
else
    tar -C "$userland" --exclude=modprobe.d --exclude=gconv -c bin sbin lib usr/bin usr/sbin usr/lib |
        tar -C "$tree" --keep-directory-symlink -x
fi
for file in passwd group; do
    cp "/usr/share/base-passwd/$file.master" "$tree/etc/$file"
done
ln -sf bash "$tree/usr/bin/sh"
ln -sf mawk "$tree/usr/bin/awk"

tests/scripts/lab/modules.sh "$modules" "$tree" "${names_of_modules[@]}"

cp tests/scripts/lab/init "$tree/init"
cp tests/scripts/lab/skipped "$tree/lab/skipped"
printf '%s\n' "${programs[@]}" >"$tree/lab/programs"
printf '%s\0' "${@:3}" >"$tree/lab/arguments"
pmem=(memmap=512M!1G)
nodes=(loop-control pmem0 pmem1)
# And one whose stores only a flush by the device makes durable.
machine=(-M q35 -m 6G,maxmem=10G -object "memory-backend-file,id=pmem,size=64M,mem-path=$work/pmem,share=on"
    -device virtio-pmem-pci,memdev=pmem)
if ((kills > 0)); then
    # Four devices: a kernel with a randomised address avoids no more of them. Gaps between them keep them apart.
    pmem=(memmap=320M!1G memmap=320M!1408M memmap=320M!4608M memmap=320M!5120M)
    nodes=(loop-control pmem{0..3})
    # The memory is a file, which outlives the machine.
    machine=(-M q35,memory-backend=ram -m 4G -object "memory-backend-file,id=ram,size=4G,mem-path=$work/ram,share=on")
fi
if [[ -n $hibernate ]]; then
    pmem=()
    devices=(loop virtio_pci virtio_blk)
    nodes=(loop-control vda vdb)
    machine=(-M q35 -m 2G)
    for disk in "$work"/disk{0,1}; do
        truncate -s 1G "$disk"
        machine+=(-drive "file=$disk,format=raw,if=virtio,cache=unsafe")
    done
fi
machine+=(-cpu max -serial "file:$work/console" -serial "file:$work/out")
emulator="qemu-system-x86_64"
lines="console=ttyS0 LAB_LINE=ttyS1"
if [[ $architecture != amd64 ]]; then
    emulator="qemu-system-aarch64"
    # pauth-impdef: the architecture's own cipher is slow to emulate.
    machine=(-M "virt,gic-version=3" -m 4G -cpu "max,pauth-impdef=on" -serial "file:$work/console"
        -chardev "file,id=lab,path=$work/out" -device "pci-serial,chardev=lab")
    lines="console=ttyAMA0 LAB_LINE=ttyS0"
    pmem=()
    nodes=(loop-control)
fi
printf '%s\n' "${devices[@]}" >"$tree/lab/modules"
printf '/dev/%s\n' "${nodes[@]}" >"$tree/lab/nodes"
pages=(man/daxfile-attacks.7 man/daxfile-holds.7)
realpath "${pages[@]}" >"$tree/lab/pages"
(cd "$tree" && find . -print0 | cpio --null --quiet -o -H newc -R 0:0) >"$work/initramfs"

# no_timer_check: on a busy host, the kernel finds the timer too slow and panics.
# Its processors take turns in one thread: in threads of their own they fall over code that another one is patching, as
# kernels do where a probe is set or taken away.
start() {
    : >"$work/out"
    rm -f "$work/pid"
    timeout "$limit" "$emulator" "${machine[@]}" -accel tcg,thread=single "${processors[@]}" -nodefaults -no-user-config \
        -display none -no-reboot -pidfile "$work/pid" -kernel "$linux" -initrd "$work/initramfs" \
        -append "$lines quiet no_timer_check mitigations=off preempt=full panic=-1 oops=panic ${pmem[*]} \
$boot_parameters ${UPDATE_HOLDS+UPDATE_HOLDS=}" </dev/null &
    qemu=$!
}

# The number of the boot and the lines said before go on top of the initramfs.
add_boot() {
    echo "$1 $kills" >"$tree/lab/boot"
    touch "$work/said"
    cp "$work/said" "$tree/lab/said"
    cp "$work/base" "$work/initramfs"
    (cd "$tree" && printf 'lab/%s\n' boot said | cpio --quiet -o -H newc -R 0:0) >>"$work/initramfs"
}

if ((kills > 0)); then
    mv "$work/initramfs" "$work/base"
    add_boot 0
fi
for ((boot = 0; boot < kills; boot++)); do
    start
    while kill -0 "$qemu" 2>/dev/null && ! grep -aq '^lab: kill now' "$work/out"; do
        sleep 0.1
    done
    sleep "$((RANDOM % 2)).$((RANDOM % 10))"
    # QEMU removes it when it ends by itself.
    if ! { read -r pid <"$work/pid" && kill -KILL "$pid"; } 2>/dev/null; then
        qemu=
        cat "$work/out"
        echo "lab.sh: Linux $version: over before kill $((boot + 1)) of $kills"
        tail -n 60 "$work/console"
        exit 1
    fi
    wait "$qemu" 2>/dev/null || :
    echo "killed: $((boot + 1)) of $kills"
    # A line that the kill cut short was not said.
    tr -d '\r' <"$work/out" | sed '$d' | grep -a '^lab: ' >>"$work/said"
    add_boot $((boot + 1))
done
while :; do
    start
    tail --pid="$qemu" -s 0.2 -n +1 -f "$work/out" | grep --line-buffered -avE '^(page|status): ' || :
    status=0
    wait "$qemu" || status=$?
    qemu=
    boot_with=$(tr -d '\r' <"$work/out" | sed -n 's/^lab: boot with //p' | tail -n 1)
    if [[ -z $hibernate || -z $boot_with ]] || ((status != 0)) || grep -aq '^status: ' "$work/out"; then
        break
    fi
    echo "lab.sh: powered off; boots with $boot_with"
    boot_parameters=$boot_with
done
for page in "${pages[@]}"; do
    if [[ -v UPDATE_HOLDS ]] && grep -aq "^page: ${page##*/}: " "$work/out"; then
        tr -d '\r' <"$work/out" | sed -n "s/^page: ${page##*/}: //p" >"$page"
    fi
done
# If the guest ends in another way, there is no status.
case $status=$(tr -d '\r' <"$work/out" | sed -n 's/^status: //p') in
    0=0) exit 0 ;;
    0=1) exit 1 ;;
    124=*) echo "lab.sh: Linux $version: not done after $limit" ;;
    *) echo "lab.sh: Linux $version: the guest died" ;;
esac
tail -n 60 "$work/console"
exit 1
