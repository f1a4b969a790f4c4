#!/usr/bin/env bash
# Shows the main job on a loop-mounted XFS, step by step. Needs Rust; leaves nothing behind but target/.
set -euo pipefail
if [[ -z ${DAXFILE_DEMO-} ]]; then
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    . tests/scripts/packages.sh
    need mkfs.xfs=xfsprogs filefrag=e2fsprogs mount=mount unshare=util-linux
    cargo build --package daxfile
    target=$(cargo metadata --format-version 1 --no-deps | sed -E 's/.*"target_directory":"([^"]*)".*/\1/')
    # As root, and in a mount namespace of its own: nothing stays mounted, however the script ends.
    exec "${sudo[@]}" unshare --mount --propagation private -- \
        env DAXFILE_DEMO=inside PATH="$target/debug:$PATH" bash "$PWD/tests/demo.sh"
fi

. tests/scripts/scratch.sh

say() {
    printf '\n# %s\n' "$@"
}

# try STATUS COMMAND: runs it as if it had been typed, and ends the demonstration if its exit status is another.
try() {
    local status=0
    echo "\$ $2"
    eval "$2" </dev/null || status=$?
    if ((status != 0)); then
        echo "(exit status $status)"
    fi
    if ((status != $1)); then
        echo "demo.sh: expected exit status $1" >&2
        exit 1
    fi
}

say "Make a file with every block allocated, zeroed and written."
try 0 'daxfile alloc -s 64M disk.img'
try 0 'daxfile check disk.img'
try 0 'daxfile stat disk.img'
try 0 'filefrag -v disk.img | tee before'

say "Pin it. From now on the kernel refuses everything that could move its blocks."
try 0 'daxfile pin disk.img'
try 1 'truncate -s 1G disk.img'
try 1 'dd if=/dev/zero of=disk.img bs=4k count=1 conv=notrunc'
try 1 'fallocate --punch-hole -o 0 -l 4k disk.img'
try 1 'rm -f disk.img'
try 0 'touch other.img'
try 1 'mv -f other.img disk.img'

say "filefrag and verify agree that every block is where it was."
try 0 'filefrag -v disk.img | diff before - && echo same'
try 0 'daxfile verify disk.img'

say "A plain cp shares the blocks with the copy. They have not moved, so that is a note."
try 0 'cp disk.img copy.img'
try 0 'daxfile verify disk.img'
try 0 'rm copy.img'

say "Not every file can be pinned. This one has holes."
try 0 'truncate -s 1M sparse.img'
try 1 'daxfile check sparse.img'
try 1 'daxfile pin sparse.img'
remedy=$(daxfile check sparse.img | sed -n 's/^ *remedy: //p') || :
say "Run the remedy that check names:"
try 0 "$remedy"
try 0 'daxfile pin sparse.img'

say "After unpin it is a file like any other."
try 0 'daxfile unpin disk.img'
try 0 'truncate -s 32M disk.img'
try 1 'daxfile verify disk.img'
echo
