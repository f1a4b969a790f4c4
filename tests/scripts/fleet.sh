#!/usr/bin/env bash
# Shows that what daxfile(8) tells administrators of many machines works in the programs that it is for: promtool reads the
# textfile for Prometheus, and Ansible runs the task.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/scripts/packages.sh
if [[ -z ${DAXFILE_FLEET-} ]]; then
    need promtool=prometheus ansible-playbook=ansible-core jq=jq mkfs.xfs=xfsprogs mount=mount unshare=util-linux \
        clang=clang /usr/include/bpf/bpf_helpers.h=libbpf-dev
    # With the guard: the tests use the same program, and must not find another.
    cargo build --quiet --package daxfile --features guard
    target=$(cargo metadata --format-version 1 --no-deps | jq -r .target_directory)
    # As root, and in a mount namespace of its own: nothing stays mounted, however the script ends.
    exec "${sudo[@]}" unshare --mount --propagation private -- \
        env DAXFILE_FLEET=inside PATH="$target/debug:$PATH" bash tests/scripts/fleet.sh
fi

page=$PWD/man/daxfile.8
. tests/scripts/scratch.sh

fail() {
    echo "fleet.sh: $*" >&2
    exit 1
}

# display N: the Nth display of the page's section MONITORING, for this place.
display() {
    awk -v wanted="$1" '/^\.Sh / { here = $2 == "MONITORING" } /^\.Ed/ { inside = 0 } inside
        here && /^\.Bd/ { inside = ++n == wanted }' "$page" |
        sed "s,\\\\e,\\\\,g; s,/etc/daxfile/pins,$PWD/pins,; s,/boot/initrd.img,$PWD/initrd.img,; s,/srv,$PWD,"
}

# metrics TEXT...: promtool accepts the textfile, and it has these lines.
metrics() {
    bash -c "$(display 2)" 2>errors || fail "the script of the page: $(cat errors)"
    promtool check metrics <daxfile.prom || fail "promtool refuses: $(cat daxfile.prom)"
    printf '%s\n' "$@" | diff - <(grep -v '^#' daxfile.prom) || fail "other metrics"
}

metrics 'daxfile_pins_unchanged 0' 'daxfile_pins_drifted 0' 'daxfile_pins_unknown 1'
for name in one two three; do
    daxfile alloc -q -s 64K $name
done
daxfile pin -q --hold none one two
printf '%s\n' "$PWD"/{one,two,three,gone} >pins
fallocate --punch-hole -o 16K -l 16K two
metrics 'daxfile_pins_unchanged 1' 'daxfile_pins_drifted 3' 'daxfile_pins_unknown 0' \
    'daxfile_files{state="drifted"} 1' 'daxfile_files{state="pinned"} 1'
echo "promtool: accepts the textfile, without a list and with one"

# play: prints how many tasks were ok, changed and failed.
play() {
    printf -- '- hosts: localhost\n  gather_facts: false\n  tasks:\n' >play.yml
    display 3 | sed 's/^/    /' >>play.yml
    ANSIBLE_LOCALHOST_WARNING=false HOME=$scratch ansible-playbook -i localhost, -c local play.yml >log 2>&1 || :
    sed -nE 's/^localhost .*(ok=[0-9]+) +(changed=[0-9]+) .*(failed=[0-9]+).*/\1 \2 \3/p' log
}

# plays WHAT EXPECTED
plays() {
    local got
    got=$(play)
    [[ $got == "$2" ]] || fail "$1: $got, not $2: $(cat log)"
    echo "ansible: $1: $got"
}

plays "no such file" 'ok=0 changed=0 failed=1'
truncate -s 64K initrd.img
plays "a file with a hole" 'ok=0 changed=0 failed=1'
grep -q 'kind[\\": ]*hole' log || fail "without the reason: $(cat log)"
rm initrd.img
daxfile alloc -q -s 64K initrd.img
plays "a file to pin" 'ok=1 changed=1 failed=0'
plays "the same again" 'ok=1 changed=0 failed=0'
daxfile verify -qq initrd.img
