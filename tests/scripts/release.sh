#!/usr/bin/env bash
# Checks the parts of a release: licences and sources, the oldest Rust, the crates, the Debian and the RPM package, an
# installation without clang, a static build. It installs each installable part in a clean root of Debian, and uses it there.
# release.sh [CHECK...]: only these.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if ((EUID != 0)) || [[ -z ${DAXFILE_RELEASE-} ]]; then
    . tests/scripts/packages.sh
    # As root, and in a mount namespace of its own: nothing stays mounted, however the script ends.
    exec "${sudo[@]}" unshare --mount --propagation private -- \
        env DAXFILE_RELEASE=inside HOME="$HOME" PATH="$PATH" bash tests/scripts/release.sh "$@"
fi
. tests/scripts/packages.sh
need debootstrap=debootstrap lintian=lintian rpmbuild=rpm rpmlint=rpmlint mkfs.xfs=xfsprogs cc=gcc jq=jq systemd-analyze=systemd man=man-db \
    qemu-system-x86_64=qemu-system-x86 cpio=cpio depmod=kmod \
    /usr/share/keyrings/debian-archive-keyring.gpg=debian-archive-keyring

target=$(cargo metadata --format-version 1 --no-deps | jq -r .target_directory)
scratch=$(mktemp -d)
trap 'umount -lR "$scratch"/*/{dev,proc,sys,src,rust,cargo} 2>/dev/null || :; rm -rf --one-file-system "$scratch"' EXIT

say() {
    printf '\n-- %s\n' "$*"
}

fail() {
    echo "release.sh: $*" >&2
    exit 1
}

# root NAME [PACKAGE...]: makes $scratch/NAME a clean root of Debian with these packages. The first time it is fetched;
# delete ~/.cache/daxfile-roots to fetch it again.
root() {
    local name=$1 cache=${XDG_CACHE_HOME:-$HOME/.cache}/daxfile-roots packages
    shift
    packages=$(IFS=,; echo "$*")
    local tar=$cache/$packages.tar
    if [[ ! -e $tar ]]; then
        mkdir -p "$cache"
        # On Debian the machine's own release.
        debootstrap --variant=minbase --include="$packages" "$(. /etc/os-release && echo "$VERSION_CODENAME")" \
            "$scratch/fetched" "$(archive)" >"$scratch/log" || { tail -n 20 "$scratch/log"; fail debootstrap; }
        tar -C "$scratch/fetched" -cf "$tar.new" .
        mv "$tar.new" "$tar"
        rm -rf "$scratch/fetched"
    fi
    mkdir "$scratch/$name"
    tar -C "$scratch/$name" -xf "$tar"
    mount --rbind /dev "$scratch/$name/dev"
    mount -t proc proc "$scratch/$name/proc"
    mount --rbind /sys "$scratch/$name/sys"
}

# within NAME COMMAND...: runs it in that root.
within() {
    local name=$1
    shift
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
        chroot "$scratch/$name" "$@" </dev/null
}

# demonstrate NAME: the demonstration there, with the daxfile that is installed there.
demonstrate() {
    cp tests/demo.sh "$scratch/$1/tmp/"
    within "$1" env DAXFILE_DEMO=inside bash /tmp/demo.sh >"$scratch/demo" 2>&1 || { cat "$scratch/demo"; fail "$1: demo.sh"; }
    echo "$1: $(grep -c '^\$ ' "$scratch/demo") commands of demo.sh, each with the status it should have"
}

# pin_listed NAME: lists two files there, of which one is pinned.
pin_listed() {
    cat >"$scratch/$1/tmp/pin_listed.sh" <<'INSIDE'
set -e
truncate -s 320M /image
mkfs.xfs -q /image
mount -o loop /image /srv
daxfile alloc -s 1M /srv/one
daxfile alloc -s 1M /srv/two
daxfile pin /srv/one
printf '%s\n' /srv/one /srv/two >/etc/daxfile/pins
INSIDE
    within "$1" bash /tmp/pin_listed.sh
}

# warned NAME: on its removal, the package has named the pinned file in $scratch/warned, and has left it pinned.
warned() {
    cat "$scratch/warned"
    cp "$scratch/warned" "$scratch/$1/tmp/"
    cat >"$scratch/$1/tmp/warned.sh" <<'INSIDE'
set -e
lsattr /srv/one | grep -q '^----i'
grep -q '^  /srv/one$' /tmp/warned
! grep -q /srv/two /tmp/warned
# The command in that message ends the pin.
way=$(sed -n 's/^To unpin one by hand: //p' /tmp/warned)
FILE=/srv/one
eval "${way//FILE/\$FILE}"
rm /srv/one
umount /srv
INSIDE
    within "$1" bash /tmp/warned.sh
}

plain=(attr e2fsprogs man-db mount systemd-sysv udev xfsprogs)

check_deny() {
    say "cargo-deny: licences, bans, sources"
    local deny=$target/tools/bin/cargo-deny
    [[ -x $deny ]] || cargo install --quiet --locked --root "$target/tools" cargo-deny@0.20.2
    "$deny" --log-level error check licenses bans sources
    echo "skipped: cargo-deny advisories: their database is no package: 'cargo deny check advisories' fetches it"
}

check_msrv() {
    local oldest
    oldest=$(cargo metadata --format-version 1 --no-deps | jq -r '.packages[] | select(.name == "daxfile").rust_version')
    say "Rust $oldest"
    # The Rust versions that the dependencies of the two crates declare.
    local newer
    newer=$(cargo metadata --format-version 1 --locked --features daxfile/guard | jq -r --arg oldest "$oldest" '
        def version: split(".") | map(tonumber) + [0] | .[:3];
        . as $all | ($all.resolve.nodes | map({key: .id, value: .}) | from_entries) as $nodes
        | def needed: . as $id | $id, ($nodes[$id].deps[]
            | select(any(.dep_kinds[]; .kind != "dev")) | .pkg | needed);
        [$all.packages[] | select(.name == "daxfile").id | needed] | unique as $ids
        | $all.packages[] | select(.id as $id | $ids | index($id))
        | select(.rust_version != null and (.rust_version | version) > ($oldest | version))
        | "\(.name) \(.version) needs Rust \(.rust_version)"')
    [[ -z $newer ]] || fail "$newer"
    echo "no dependency asks for a newer one"
    # Calls that are newer; the lint goes by rust-version.
    touch libdaxfile/src/lib.rs daxctl-rs/src/lib.rs
    cargo clippy --quiet -p libdaxfile -p daxfile --features daxfile/guard -- -D clippy::incompatible_msrv
    echo "nothing is called of the standard library that is newer"
    if cargo "+$oldest" --version >/dev/null 2>&1; then
        cargo "+$oldest" build --quiet --locked -p daxfile --features guard --target-dir "$target/$oldest"
        echo "it builds"
    else
        echo "skipped: a build with Rust $oldest: 'rustup toolchain install $oldest' makes it possible"
    fi
}

check_publish() {
    say "cargo publish --dry-run"
    # In a separate directory: if cargo knows the path, it uses the libdaxfile that it unpacked the last time.
    cargo publish --quiet --workspace --dry-run --allow-dirty --locked --target-dir "$scratch/publish"
    local crate
    for crate in libdaxfile daxfile; do
        cargo package --quiet --list --allow-dirty --locked -p "$crate" >"$scratch/files"
        for file in LICENSE-MIT LICENSE-APACHE README.md CHANGELOG.md src/lib.rs; do
            grep -qx "$file" "$scratch/files" || fail "$crate: $file is not in the package"
        done
        echo "$crate: $(wc -l <"$scratch/files") files"
    done
}

# make_twice SCRIPT: sets package to the package that the script makes, if it makes the same one again.
make_twice() {
    local first
    package=$("$1")
    first=$(sha256sum "$package")
    rm "$package"
    [[ $("$1") == "$package" && $(sha256sum "$package") == "$first" ]] || fail "made twice, it is not the same"
    echo "${package##*/}: $(stat -c %s "$package") bytes, the same when made again"
}

check_deb() {
    say "The Debian package"
    local package
    make_twice tests/scripts/deb.sh
    lintian --allow-root --fail-on error "$package"

    root deb "${plain[@]}"
    cp "$package" "$scratch/deb/tmp/daxfile.deb"
    within deb dpkg -i /tmp/daxfile.deb
    demonstrate deb
    within deb bash -c '. /usr/share/bash-completion/completions/daxfile; complete -p daxfile' >/dev/null
    within deb man --where daxfile daxfile-attacks daxfile-holds daxfile-json
    systemd-analyze verify --man=no --root="$scratch/deb" daxfile-pin.service daxfile-verify.{service,timer}
    [[ -L $scratch/deb/etc/systemd/system/timers.target.wants/daxfile-verify.timer &&
        -L $scratch/deb/etc/systemd/system/sysinit.target.wants/daxfile-pin.service ]] || fail "the units are not enabled"

    pin_listed deb
    within deb dpkg --remove daxfile 2>"$scratch/warned"
    warned deb
    within deb dpkg --purge daxfile
    local left
    left=$(cd "$scratch/deb" && find . -xdev -name '*daxfile*' -not -path './tmp/*' -not -path './var/log/*' \
        -not -path './var/lib/dpkg/*')
    [[ -z $left ]] || fail "purged, it leaves $left"
    echo "purged, it leaves nothing"
}

check_rpm() {
    say "The RPM package"
    local package
    make_twice tests/scripts/rpm.sh
    rpmlint --config daxctl-rs/rpm/rpmlint.toml "$package"
    [[ $(rpm -qpc "$package") == /etc/daxfile/pins ]] || fail "the list is not its only configuration file"

    # The root's libraries come from Debian's packages, so rpm does not know of them.
    root rpm "${plain[@]}"
    rpm --root "$scratch/rpm" --initdb
    rpm --root "$scratch/rpm" --install --nodeps "$package"
    rpm --root "$scratch/rpm" --verify --nodeps daxfile
    demonstrate rpm
    within rpm bash -c '. /usr/share/bash-completion/completions/daxfile; complete -p daxfile' >/dev/null
    within rpm man --where daxfile daxfile-attacks daxfile-holds daxfile-json
    systemd-analyze verify --man=no --root="$scratch/rpm" daxfile-pin.service daxfile-verify.{service,timer}
    # Debian's preset enables all units.
    within rpm systemctl is-enabled daxfile-pin.service daxfile-verify.timer

    pin_listed rpm
    rpm --root "$scratch/rpm" --erase daxfile 2>"$scratch/warned"
    warned rpm
    local left
    left=$(cd "$scratch/rpm" && find etc usr var -xdev -path '*daxfile*' -not -path 'var/log/*')
    [[ $left == $'etc/daxfile\netc/daxfile/pins.rpmsave' ]] || fail "removed, it leaves $left"
    echo "removed, it leaves the list that was edited, as pins.rpmsave"
}

check_install() {
    say "cargo install, without clang"
    root install "${plain[@]}" gcc libc6-dev
    ! within install sh -c 'command -v clang' || fail "that root has clang"
    local sysroot cargo_home=${CARGO_HOME:-$HOME/.cargo}
    sysroot=$(rustc --print sysroot)
    mkdir -p "$scratch/install"/{src,rust,cargo}
    mount --bind "$PWD" "$scratch/install/src"
    mount --bind "$sysroot" "$scratch/install/rust"
    mount --bind "$cargo_home" "$scratch/install/cargo"
    # Everything is fetched outside: the root has no certificates.
    cargo fetch --quiet --locked
    within install env PATH="/rust/bin:/usr/bin:/bin" CARGO_HOME=/cargo CARGO_TARGET_DIR=/tmp/target \
        cargo install --quiet --offline --locked --root /usr/local --path /src/daxctl-rs
    demonstrate install
}

check_static() {
    say "A static build"
    local host
    host=$(rustc --print host-tuple)
    RUSTFLAGS='-C target-feature=+crt-static' \
        cargo build --quiet --release --locked -p daxfile --target "$host" --target-dir "$target/static"
    local built=$target/static/$host/release/daxfile
    install -D "$built" "$scratch/empty/daxfile"
    chroot "$scratch/empty" /daxfile -V
    root static "${plain[@]}"
    install "$built" "$scratch/static/usr/local/bin/"
    demonstrate static
}

check_boot() {
    say "A boot with systemd, in the lab"
    local deb kernel version image=$scratch/image
    deb=$(tests/scripts/deb.sh)
    root boot "${plain[@]}"
    cp "$deb" "$scratch/boot/tmp/daxfile.deb"
    within boot dpkg -i /tmp/daxfile.deb >/dev/null
    echo '/dev/vda /data xfs x-systemd.requires=systemd-modules-load.service 0 0' >"$scratch/boot/etc/fstab"
    printf '%s\n' crc32c_generic virtio_pci virtio_blk xfs >"$scratch/boot/etc/modules-load.d/disk.conf"
    install -m 755 tests/scripts/lab/booted{,_again} "$scratch/boot/"

    # Listed files on a separate disk: two for the unit to hold, and one that is frozen already.
    truncate -s 320M "$image"
    mkfs.xfs -q "$image"
    mkdir "$scratch/boot/data"
    mount -o loop "$image" "$scratch/boot/data"
    for name in one two frozen; do
        within boot daxfile alloc -q -s 1M "/data/$name"
    done
    within boot daxfile pin -q /data/frozen
    umount "$scratch/boot/data"
    printf '/data/%s\n' one two frozen >"$scratch/boot/etc/daxfile/pins"

    kernel=$(tests/scripts/lab/fetch.sh 6.12)
    version=${kernel##*/}
    tests/scripts/lab/modules.sh "$kernel/usr/lib/modules/$version" "$scratch/boot" autofs4 crc32c_generic virtio_pci virtio_blk xfs
    umount -lR "$scratch"/boot/{dev,proc,sys}
    rm -rf "$scratch"/boot/usr/share/{doc,locale,i18n,zoneinfo} "$scratch"/boot/var/{cache,lib/apt} "$scratch/boot/tmp/daxfile.deb"
    (cd "$scratch/boot" && find . -print0 | cpio --null --quiet -o -H newc -R 0:0) >"$scratch/initramfs"

    # boots PROGRAM: boots the machine, which runs PROGRAM and ends, and compares its output with standard input.
    boots() {
        timeout 5m qemu-system-x86_64 -M q35 -cpu max -accel tcg -smp 2 -m 4G -nodefaults -no-user-config -display none \
            -no-reboot -serial file:"$scratch/console" -serial file:"$scratch/said" \
            -drive "file=$image,if=virtio,format=raw" -kernel "$kernel/boot/vmlinuz-$version" -initrd "$scratch/initramfs" \
            -append "console=ttyS0 quiet mitigations=off panic=-1 oops=panic rdinit=/lib/systemd/systemd systemd.run=$1" \
            </dev/null || { tail -n 40 "$scratch/console"; fail "the guest has not ended"; }
        diff - <(tr -d '\r' <"$scratch/said") || { tail -n 40 "$scratch/console"; fail "the units do otherwise"; }
    }
    boots /booted <<'BOOTED'
held: success
timer: active
truncate: failed to truncate '/data/one' at 2097152 bytes: Text file busy
pinned: success
one not pinned: exit-code
its status: 1
failed units: daxfile-verify.service loaded failed failed Verify the extent maps of the files in /etc/daxfile/pins
no list: no
journal:
/data/one: unchanged, 1 extent
/data/two: unchanged, 1 extent
/data/frozen: unchanged, 1 extent
/data/one: unchanged, 1 extent
/data/two: unchanged, 1 extent
/data/frozen: unchanged, 1 extent
/data/three: not pinned
BOOTED
    echo "the list is held; an entry that cannot be held makes the service fail, and is in the journal"

    # While no guard holds it, one of them is moved.
    mount -o loop "$image" "$scratch/boot/data"
    cp --reflink=always "$scratch"/boot/data/{two,copy}
    dd if=/dev/urandom of="$scratch/boot/data/two" bs=4k count=1 conv=notrunc,fsync status=none
    rm "$scratch/boot/data/copy"
    umount "$scratch/boot/data"
    boots /booted_again <<'BOOTED'
truncate: failed to truncate '/data/one' at 2097152 bytes: Text file busy
truncate: cannot open '/data/frozen' for writing: Operation not permitted
held: exit-code
one: pinned, writable
two: not_held, writable
frozen: pinned, frozen
journal:
/data/frozen: already pinned (frozen), 1 extent
/data/one: pinned (writable), 1 extent
daxfile pin: /data/two: changed since it was pinned: see daxfile verify; unpin first
BOOTED
    echo "after a reset the list is held again, except for a file that moved meanwhile"
}

checks=(deny msrv publish deb rpm install static boot)
(($# == 0)) || checks=("$@")
for check in "${checks[@]}"; do
    "check_$check"
done
