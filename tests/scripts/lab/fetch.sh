#!/usr/bin/env bash
# fetch.sh 6.1|6.12|newest [amd64|arm64|arm64-16k]: prints the directory of that Debian kernel.
# fetch.sh toolchain: prints the directory of a Rust compiler that builds for arm64.
# fetch.sh userland PACKAGE...: prints the directory that holds these packages, and those they depend on, for arm64.
# The first call fetches them. To fetch again, delete the directory.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/suites.sh"

flavour=amd64
name=$1
case $1/${2-} in
    userland/*) name+=-$(cksum <<<"${*:2}" | cut -d' ' -f1) ;;
    */arm64*) flavour=$2 name+=-$2 ;;
esac
begin "$1"
if [[ -e $cache/$name ]]; then
    readlink -f "$cache/$name"
    exit
fi
apt=$(mktemp -d "$cache/apt.XXXXXX")
trap 'rm -rf "$apt"' EXIT

# unpack PACKAGE...
tree=$apt/tree
unpack() {
    download "$apt/packages" "$@"
    local package
    for package in "$apt"/packages/*.deb; do
        dpkg -x "$package" "$tree"
    done
}

directory=$cache/$name
case $1 in
    toolchain)
        use_suites "$apt" amd64 arm64
        # The newest version that both processors have.
        version=$(for package in rustc:amd64 libstd-rust-dev:arm64; do
            apt-cache show "$package" | sed -n 's/^Version: //p' | sort -u
        done | sort | uniq -d | sort -V | tail -n1)
        mapfile -t packages < <(closure libstd-rust-dev:amd64 | grep -v '^libstd-rust-dev')
        unpack {rustc,libstd-rust-dev:amd64,libstd-rust-dev:arm64}="$version" "${packages[@]}"
        # It runs with the C library that it was built with.
        cat >"$tree/rustc" <<'END'
#!/bin/sh
tree=$(dirname "$0")
exec "$tree/usr/lib64/ld-linux-x86-64.so.2" --argv0 rustc --library-path "$tree/usr/lib/x86_64-linux-gnu" \
    "$tree/usr/bin/rustc" --sysroot "$tree/usr" "$@"
END
        chmod +x "$tree/rustc"
        ;;
    userland)
        use_suites "$apt" arm64
        mapfile -t packages < <(closure "${@:2}")
        unpack "${packages[@]}"
        ;;
    *)
        use_suites "$apt" "${flavour%%-*}"
        image=$(depends "linux-image-$flavour" | grep -E '^linux-image-[0-9]')
        # Newer suites keep kernel and modules in packages that the image depends on.
        mapfile -t packages < <(echo "$image"; depends "$image" | grep -E '^linux-(base|binary|modules)-[0-9]' || :)
        unpack "${packages[@]}"
        version=${image#linux-image-}
        [[ -d $tree/usr/lib/modules ]] || mv "$tree/lib" "$tree/usr"
        ln -sfn usr/lib "$tree/lib"
        # Without the machine's depmod.d.
        mkdir "$apt/none"
        depmod -C "$apt/none" -b "$tree" "$version"
        directory=$cache/$version
        ;;
esac
rm -rf "$directory"
mv "$tree" "$directory"
[[ $directory == "$cache/$name" ]] || ln -sfn "${directory##*/}" "$cache/$name"
echo "$directory"
