#!/usr/bin/env bash
# bench.sh [PART...]: times daxfile and each peer in turn (A B A B ...) on a loop-mounted XFS, and prints medians and their
# ratios. Parts: extents, files, calls, list, space, pins, startup, growth. The variable RUNS says how many rounds, 5 unless
# set; FILES, how many files, 100,000 unless set; FILESYSTEM, which filesystem, xfs unless set to ext4.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/scripts/packages.sh

runs=${RUNS:-5}
parts=("$@")
((${#parts[@]})) || parts=(extents files calls list space pins startup growth)
files=${FILES:-100000}
filesystem=${FILESYSTEM:-xfs}

if ((EUID != 0)); then
    exec sudo --preserve-env=PATH,RUNS,FILES,FILESYSTEM,TMPDIR "$0" "$@"
fi
if [[ -z ${IN_NAMESPACE:-} ]]; then
    need cc=gcc /usr/include/stdio.h=libc6-dev mkfs.xfs=xfsprogs filefrag=e2fsprogs mount=mount unshare=util-linux \
        perl=perl-base strace=strace getfattr=attr taskset=util-linux /usr/include/xfs/xfs.h=xfslibs-dev
    # Linked as deb.sh does it.
    cargo rustc --release -p daxfile --bin daxfile -- -l static:-bundle=gcc_eh
    # Nothing stays mounted, however this script ends.
    IN_NAMESPACE=1 exec unshare --mount --propagation private "$0" "$@"
fi

daxfile=$PWD/target/release/daxfile
work=$(mktemp -d -t daxfile-bench.XXXXXX)
trap 'cd /; umount "$work/mnt" 2>/dev/null || :; rm -rf "$work"' EXIT
for program in bulkstat fiemap measure pins; do
    cc -O2 -Wall -o "$work/$program" "tests/scripts/bench/$program.c"
done
truncate -s 24G "$work/image"
case $filesystem in
    xfs) mkfs.xfs -q -m rmapbt=0 "$work/image" ;;
    ext4) mkfs.ext4 -q -F -N $((2 * files + 100000)) "$work/image" ;;
esac
mkdir "$work/mnt"
mount -o loop "$work/image" "$work/mnt"
cd "$work/mnt"

# compare WORK BEFORE LABEL COMMAND LABEL COMMAND...: the first is daxfile, and alternates with one peer after the other,
# because a third program would change the caches for the next one. BEFORE runs before each, unmeasured.
compare() {
    local title=$1 before=$2 label=$3 command=$4 run
    shift 4
    while (($#)); do
        # The first round warms the caches, and is not counted.
        for ((run = 0; run <= runs; run++)); do
            sample "$before" "$command" "$work/samples.daxfile.$((run > 0))"
            sample "$before" "$2" "$work/samples.peer.$((run > 0))"
        done
        {
            medians "$label" "$work/samples.daxfile.1"
            medians "$1" "$work/samples.peer.1"
        } | awk -F'\t' -v title="$title" '
            function row(work) {
                printf "| %s | %s | %.3f s | %.3f s | %.1f MiB |", work, $1, $2 / 1e6, $3 / 1e6, $4 / 1024
            }
            NR == 1 { wall = $2; cpu = $3; if (title != "") { row(title); print " | |" } }
            NR == 2 { row(""); printf " %.2f | %.2f |\n", wall / $2, cpu / $3 }'
        rm -f "$work"/samples.*
        # The row of daxfile itself is that of its first pair.
        title=
        shift 2
    done
}

sample() {
    eval "$1"
    if ! eval "'$work/measure' $2" >>"$3" 2>"$work/errors"; then
        echo "failed: $2" >&2
        cat "$work/errors" >&2
        exit 1
    fi
}

medians() {
    printf '%s\t%s\t%s\t%s\n' "$1" "$(median 1 <"$2")" "$(median 2 <"$2")" "$(median 3 <"$2")"
}

median() {
    cut -d' ' -f"$1" | sort -n | awk '{ value[NR] = $1 } END { print value[int((NR + 1) / 2)] }'
}

header() {
    echo
    echo "| work | command | wall | CPU | peak memory | daxfile's wall ÷ its | daxfile's CPU ÷ its |"
    echo "|---|---|---|---|---|---|---|"
}

# Files of 1,000, 10,000, 100,000 and 1,000,000 extents of a block each, written: all free space is in single blocks.
fragments() {
    [[ ! -e extents.1000000 ]] || return 0
    local blocks=1111000
    xfs_io -f -c "falloc 0 $((2 * blocks * 4096))" filler
    xfs_io -f -c "falloc 0 $(($(stat -f -c %a .) * 4096 - (64 << 20)))" rest
    seq 0 8192 $(((2 * blocks - 1) * 4096)) | sed 's/.*/fpunch & 4096/' | xfs_io filler >/dev/null
    sync -f .
    local n
    for n in 1000 10000 100000 1000000; do
        xfs_io -f -c "falloc 0 $((n * 4096))" "extents.$n"
        dd if=/dev/zero of="extents.$n" bs=4000K count="$((n / 1000))" oflag=direct conv=notrunc,fsync status=none
    done
    rm rest
    sync -f .
}

# A thousand files in each directory.
many() {
    [[ ! -e list ]] || return 0
    mkdir many
    perl -e 'for (0 .. $ARGV[0] - 1) {
        my $directory = "many/" . int($_ / 1000);
        $_ % 1000 or mkdir $directory or die;
        open my $file, ">", "$directory/$_" or die;
        print $file "x" x 4096;
        print "$directory/$_\n";
    }' "$files" >list
    sync -f .
}

part_extents() {
    fragments
    local file=extents.1000000 peers
    peers=('raw FIEMAP' "'$work/fiemap' $file" filefrag "filefrag -v $file" 'xfs_io fiemap' "xfs_io -r -c 'fiemap -v' $file"
        xfs_bmap "xfs_bmap -v -p $file")
    header
    local verb
    for verb in stat 'stat --extents' 'stat --json --extents' check; do
        compare "$verb, 1,000,000 extents" : "daxfile $verb" "'$daxfile' $verb $file" "${peers[@]}"
    done
    "$daxfile" pin -q $file
    compare 'verify, 1,000,000 extents' : 'daxfile verify' "'$daxfile' verify $file" "${peers[@]}"
    "$daxfile" unpin -q $file
}

part_files() {
    many
    header
    local verb on
    "$daxfile" pin -q --files-from list
    for verb in verify stat check; do
        [[ $verb == verify ]] || "$daxfile" unpin -q --files-from list
        for on in 0 0-1; do
            compare "$verb, $files files, processors $on" : "daxfile $verb" \
                "taskset -c $on '$daxfile' $verb --files-from list" filefrag "taskset -c $on xargs -a list filefrag"
        done
    done
}

# calls VERB...: prints the calls of a run on 1,000 files beyond those of a run on one, for each file. Another verb may have
# to run first.
part_calls() {
    many
    head -n 1000 list >thousand
    head -n 1 list >one
    echo
    echo "| verb | system calls for each file |"
    echo "|---|---|"
    local verb list
    for verb in stat check pin verify unpin; do
        for list in one thousand; do
            case $verb in
                pin) "$daxfile" unpin -q --files-from thousand ;;
                unpin) "$daxfile" pin -q --files-from thousand ;;
            esac
            taskset -c 0 strace -f -c -o "$work/$list" "$daxfile" $verb --files-from $list >/dev/null
        done
        awk -v verb=$verb '$NF == "total" { total[FNR == NR] = $(NF == 5 ? 3 : 4) }
            END { printf "| %s | %.2f |\n", verb, (total[0] - total[1]) / 999 }' "$work/one" "$work/thousand"
    done
}

part_list() {
    many
    local peers=(find 'find . -xdev -type f' getfattr 'getfattr -R -m daxfile .')
    [[ $filesystem != xfs ]] || peers+=('BULKSTAT, then find' "sh -c \"'$work/bulkstat' . && find . -xdev -type f\"")
    shuf -n 1000 --random-source=list list >some
    "$daxfile" pin -q --files-from some
    header
    compare "list, $files files, 1,000 pinned" : 'daxfile list' "'$daxfile' list ." "${peers[@]}"
    "$daxfile" unpin -q --files-from some
}

part_space() {
    header
    compare 'alloc, 4 GiB' 'rm -f new; sync -f .' 'daxfile alloc' "'$daxfile' alloc -s 4G new" \
        'fallocate, dd direct' "sh -c 'fallocate -l 4G new; dd if=/dev/zero of=new bs=8M oflag=direct conv=notrunc,fsync count=512'" \
        'xfs_io -d pwrite' "xfs_io -f -d -c 'pwrite -q -b 4m 0 4g' -c fsync new" \
        'dd' "dd if=/dev/zero of=new bs=1M count=4096 conv=fsync"
    compare 'prepare, 4 GiB unwritten' 'rm -f new; fallocate -l 4G new; sync -f .' 'daxfile prepare' "'$daxfile' prepare new" \
        'dd direct' 'dd if=/dev/zero of=new bs=8M oflag=direct conv=notrunc,fsync count=512'
    compare 'prepare, 1 GiB shared' \
        'rm -f new other; dd if=/dev/zero of=other bs=8M oflag=direct count=128 status=none; cp --reflink=always other new; sync -f .' \
        'daxfile prepare' "'$daxfile' prepare new" \
        'xfs_io funshare' "xfs_io -c 'funshare 0 1g' -c fsync new" \
        'dd direct' 'dd if=/dev/zero of=new bs=8M oflag=direct conv=notrunc,fsync count=128'
    rm -f new other
}

part_pins() {
    many
    head -n 10000 list >some
    header
    compare 'pin and unpin, 10,000 files' : 'daxfile' \
        "sh -c '\"$daxfile\" pin -q --files-from some && \"$daxfile\" unpin -q --files-from some'" \
        'chattr +i, chattr -i' "sh -c 'xargs -a some chattr +i && xargs -a some chattr -i'" \
        'the same in C' "sh -c '\"$work/pins\" pin some && \"$work/pins\" unpin some'"
}

part_startup() {
    head -c 4096 /dev/zero >small
    sync -f .
    header
    hundred() { echo "sh -c 'i=0; while [ \$i -lt 100 ]; do $1; i=\$((i + 1)); done'"; }
    compare '100 times stat of a small file' : 'daxfile stat' "$(hundred "$daxfile stat small")" \
        'filefrag' "$(hundred 'filefrag small')" 'stat' "$(hundred 'stat small')"
    compare '100 times -V' : 'daxfile -V' "$(hundred "$daxfile -V")" 'filefrag -V' "$(hundred 'filefrag -V')"
}

part_growth() {
    fragments
    many
    header
    local n
    for n in 1000 10000 100000 1000000; do
        compare "stat, $n extents" : 'daxfile stat' "'$daxfile' stat extents.$n" 'raw FIEMAP' "'$work/fiemap' extents.$n"
    done
    for n in 100 1000 10000 100000; do
        head -n "$n" list >some
        compare "stat, $n files" : 'daxfile stat' "'$daxfile' stat --files-from some" filefrag 'xargs -a some filefrag'
    done
}

echo "kernel $(uname -r), $(nproc) cores, load $(cut -d' ' -f1 /proc/loadavg); $filesystem on a loop device over $(stat -f -c %T "$work"); caches warm; medians of $runs"
for part in "${parts[@]}"; do
    "part_$part"
done
