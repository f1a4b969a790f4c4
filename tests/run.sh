#!/usr/bin/env bash
# Runs every test, and some of them in the lab, on Debian's kernels.
# --full   adds the tests that take long, and more kernels.
# --quick  leaves out the lab, the lints and what takes minutes; without root it runs only what needs no root.
# --kernel PATH  runs the lab's part on this kernel, too: a path as tests/lab.sh takes it.
# NAME...  runs only the tests whose names contain one of them, and none in the lab.
set -euo pipefail
called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/scripts/packages.sh

full=()
quick=
slow=()
names=()
kernels=(6.1)
# About half of the guard's tests, so that two guests share them.
half=(guard_ preempted pinned_together apparmor)
# For each guest, the arguments of lab.sh: the test programs, and parts of their tests' names.
guests=(
    "--boot lockdown=integrity KERNEL guard ${half[*]} --skip half_way"
    "--boot lockdown=integrity KERNEL guard in_the_lab --skip toll --skip blocked_writers ${half[*]/#/--skip }"
    "KERNEL attacks,filesystem,cli write-fd/writable/xfs always_dax a_realtime_file device_mapper active_lsms"
)
# Guests on other processors.
others=()
kills=2
paths=()
while (($# > 0)); do
    argument=$1
    shift
    case $argument in
        --kernel)
            paths+=("$(printf %q "${1?--kernel PATH}")")
            shift
            ;;
        --full)
            full=(--include-ignored --skip in_the_lab)
            kernels=(6.1 6.12 newest)
            guests=(
                "KERNEL attacks attacks/"
                "KERNEL faults verify_reports_quotas a_stalled"
                "--boot lockdown=integrity KERNEL guard,filesystem,cli in_the_lab probe_matches_pin --skip toll"
                "KERNEL filesystem,races pins_survive a_writer_inside a_file_in_use"
                "--hibernate KERNEL faults hibernation::"
                "KERNEL programs"
            )
            others=(
                "--arch arm64 6.12 filesystem main_job:: maps:: prepare:: staging::"
                "--arch arm64-16k 6.12 guard,attacks life_of write-fd/writable"
            )
            kills=20
            ;;
        --quick)
            quick=yes
            slow=(lab_modules attacks/ programs/ injection:: pin_crash:: prepare_crash:: prepare_races:: pin_leases::
                in_files_of_40_000_extents fifty_thousand_extents thousands_of_extents_are_read_whole
                ten_thousand_extents record_of_100_000_extents btree_size_is_within_the_assumed_bounds
                five_gibibytes an_aligned_gibibyte check_agrees_with_pin holes_unwritten_and_past_eof
                directory_swapped_for_a_link failed_reads_leave many_shared_extents)
            ;;
        -*)
            echo "usage: tests/run.sh [--full | --quick] [--kernel PATH] [NAME...]" >&2
            exit 2
            ;;
        *) names+=("$argument") ;;
    esac
done

step() {
    echo
    echo "== $*"
    "$@" </dev/null
}

skipped=()
# lint COMPONENT COMMAND...: Rust comes with these or without them.
lint() {
    local component=$1
    shift
    if cargo "$1" --version >/dev/null 2>&1; then
        step cargo "$@"
    else
        skipped+=("cargo $1: this Rust comes without it; 'rustup component add $component' adds it")
    fi
}

guard=(--features daxfile/guard)
if [[ -n $quick ]] && ((EUID != 0)); then
    # The default members, without the guard: they need no root and no clang.
    tested=()
    runner="'env','--default-signal'"
    skipped+=("tests/ and the guard: they need root: 'tests/run.sh' asks for it by sudo")
else
    need cc=gcc /usr/include/stdio.h=libc6-dev /usr/include/xfs/xfs.h=xfslibs-dev \
        mkfs.xfs=xfsprogs mkfs.ext4=e2fsprogs mkfs.btrfs=btrfs-progs mkfs.erofs=erofs-utils \
        mksquashfs=squashfs-tools bsdtar=libarchive-tools \
        mount=mount unshare=util-linux setfattr=attr capsh=libcap2-bin strace=strace jq=jq perl=perl-base mandoc=mandoc \
        man=man-db /usr/bin/time=time depmod=kmod rsync=rsync dpkg-deb=dpkg hardlink=util-linux swapon=mount logrotate=logrotate \
        clang=clang clang-format=clang-format /usr/include/bpf/bpf_helpers.h=libbpf-dev zsh=zsh fish=fish \
        fio=fio qemu-io=qemu-utils mdb_load=lmdb-utils sqlite3=sqlite3 stress-ng=stress-ng
    if ((${#full[@]} > 0)); then
        need borg=borgbackup
    fi
    # The guard is left out of no part that is tested.
    tested=(--workspace "${guard[@]}")
    # Each test program runs as root, in a mount namespace of its own: nothing stays mounted, however it ends. A shell's
    # background job ignores SIGINT, and so would every process that the tests start.
    # sudo drops the environment, and with it variables such as UPDATE_PICTURES.
    updates=()
    for name in "${!UPDATE_@}"; do
        updates+=("$name=${!name}")
    done
    runner=$(printf "'%s'," "${sudo[@]}" unshare --mount --propagation private env --default-signal "${updates[@]}")
fi
step cargo build "${tested[@]}" --all-targets

log=$(mktemp)
said=$(mktemp)
lab=$(mktemp)
lab_job=
trap '[[ -z $lab_job ]] || kill -- "-$lab_job" 2>/dev/null || :; rm -f "$log" "$said" "$lab"' EXIT
status=0

# guest ARGUMENT...: a run of lab.sh, whose output comes in one piece.
guest() {
    local out status=0
    out=$(cd "$called_from" && nice -n 4 "$OLDPWD/tests/lab.sh" "$@" 2>&1 </dev/null) || status=$?
    printf '\n== tests/lab.sh %s\n%s\n' "$*" "$out" | flock "$lab" tee -a "$lab" >/dev/null
    return "$status"
}

format() {
    find daxctl-rs libdaxfile tests -name '*.[ch]' -exec clang-format --dry-run --Werror {} +
}

if ((${#names[@]} == 0)); then
    lint rustfmt fmt --check
    if command -v clang-format >/dev/null; then
        step format
    else
        skipped+=("the format of the C code: no clang-format here")
    fi
fi
if [[ -n $quick ]]; then
    skipped+=("the lab, clippy, rustdoc, and long tests (${slow[*]}): tests/run.sh")
    mapfile -t slow < <(printf -- '--skip\n%s\n' "${slow[@]}")
elif ((${#names[@]} == 0)); then
    # The lab runs beside all else, which goes before it: each guest takes one processor, and can wait.
    export -f guest
    export lab called_from
    set -m
    (
        {
            for kernel in "${kernels[@]}" "${paths[@]}"; do
                echo "--kills $kills $kernel faults killed::"
                printf '%s\n' "${guests[@]/KERNEL/"$kernel"}"
            done
            ((${#others[@]} == 0)) || printf '%s\n' "${others[@]}"
        } | xargs -P 2 -I '{}' bash -c 'guest {}'
    ) &
    lab_job=$!
    set +m
    # In a separate directory: Cargo runs one command at a time in each directory, and the lab builds its programs meanwhile.
    own=(--target-dir target/lint)
    lint clippy clippy "${own[@]}" --workspace --all-targets "${guard[@]}" -- -D warnings
    lint clippy clippy "${own[@]}" --workspace --all-targets -- -D warnings
    # Alone: in the workspace, others turn on features of its dependencies.
    lint clippy clippy "${own[@]}" --package libdaxfile --all-targets -- -D warnings
    RUSTDOCFLAGS='-D warnings' step cargo doc "${own[@]}" --workspace "${guard[@]}" --no-deps
fi
step cargo test "${tested[@]}" --no-fail-fast --all-targets --config "target.'cfg(unix)'.runner = [$runner]" \
    -- "${full[@]}" "${slow[@]}" "${names[@]}" 2>&1 | tee "$log" || status=$?
step cargo test "${tested[@]}" --no-fail-fast --doc -- "${full[@]}" "${names[@]}" 2>&1 | tee -a "$log" || status=$?
if [[ -n $lab_job ]]; then
    tail --pid="$lab_job" -s 0.2 -n +1 -f "$lab" | tee -a "$log"
    wait "$lab_job" || status=$?
    lab_job=
fi

broken=0
if ((${#names[@]} == 0)); then
    for script in minimal.sh fuzz.sh release.sh fleet.sh; do
        if ((${#full[@]} > 0)); then
            step "tests/scripts/$script" 2>&1 | tee -a "$said" || broken=$((broken + 1))
        else
            skipped+=("$script: long: tests/run.sh --full")
        fi
    done
fi
mapfile -t -O "${#skipped[@]}" skipped < <(sed -n 's/^skipped: //p' "$said")

# Tests that are skipped here but have run in the lab do not count as skipped.
mapfile -t ignored < <(awk '
    NR == FNR { if ($NF == "ok") ran[$2]; next }
    / \.\.\. ignored/ && !($2 in ran) { sub(/^test /, ""); sub(/ \.\.\. ignored,? ?/, ": "); print }' "$log" "$log")
skipped+=("${ignored[@]}")
# A program that ends without its line of results has failed, too.
read -r passed failed < <(awk '
    /^ +(Running|Doc-tests) / { failed += open; open = 1 }
    /^test result: / { open = 0; passed += $4; failed += $6 }
    END { print passed + 0, failed + open }' "$log")
if ((status != 0 && failed == 0)); then
    failed=1
fi
if ((broken != 0)); then
    failed=$((failed + broken)) status=1
fi

echo
# What ran on which kernel; several guests may have run one program.
if ((${#names[@]} == 0)); then
    awk -v here="$(uname -r)" '
        /^ +Running .* on Linux / { program = $2; kernel = $5; next }
        /^ +Running / { program = $NF; sub(/.*\//, "", program); sub(/-[0-9a-f]+\)?$/, "", program); kernel = here }
        /^ +Doc-tests / { program = "doc-tests"; kernel = here }
        /^test result: / {
            if (!((kernel, program) in passed)) order[++count] = kernel SUBSEP program
            passed[kernel, program] += $4
            failed[kernel, program] += $6
        }
        END {
            for (i = 1; i <= count; i++)
                if (passed[order[i]] + failed[order[i]]) {
                    split(order[i], part, SUBSEP)
                    printf "Linux %s: %s: %d passed, %d failed\n", part[1], part[2], passed[order[i]], failed[order[i]]
                }
        }' "$log" | sort -V
fi
if ((${#skipped[@]} > 0)); then
    printf 'skipped: %s\n' "${skipped[@]}"
    echo "$passed passed, $failed failed, ${#skipped[@]} skipped"
else
    echo "$passed passed, $failed failed"
fi
exit "$status"
