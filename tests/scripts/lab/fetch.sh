#!/usr/bin/env bash
# fetch.sh 6.1|6.12|newest: prints the directory of that Debian kernel, which it fetches the first time. Delete the
# directory above it to fetch again.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/suites.sh"

begin "$1"
if [[ -e $cache/$1 ]]; then
    readlink -f "$cache/$1"
    exit
fi
apt=$(mktemp -d "$cache/apt.XXXXXX")
trap 'rm -rf "$apt"' EXIT
use_suites "$apt"

image=$(depends linux-image-amd64 | grep -E '^linux-image-[0-9]')
# Newer suites keep kernel and modules in packages that the image depends on.
mapfile -t packages < <(echo "$image"; depends "$image" | grep -E '^linux-(base|binary|modules)-[0-9]' || :)
download "$apt/kernel" "${packages[@]}"
tree=$apt/tree
for package in "$apt"/kernel/*.deb; do
    dpkg -x "$package" "$tree"
done
version=${image#linux-image-}
[[ -d $tree/usr/lib/modules ]] || mv "$tree/lib" "$tree/usr"
ln -sfn usr/lib "$tree/lib"
depmod -b "$tree" "$version"
rm -rf "${cache:?}/$version"
mv "$tree" "$cache/$version"
ln -sfn "$version" "$cache/$1"
echo "$cache/$version"
