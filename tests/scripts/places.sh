#!/usr/bin/env bash
# places.sh 6.1|6.12|newest: lists the places in that Debian kernel that can change a regular file's extent map, one per line,
# as FILE:FUNCTION:WHAT. It fetches the kernel's source the first time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. lab/suites.sh
need xz=xz-utils perl=perl-base dpkg-deb=dpkg \
    /usr/share/keyrings/debian-archive-keyring.gpg=debian-archive-keyring >&2

begin "${1-}"
source=$cache/source-$1.tar.xz
if [[ ! -e $source ]]; then
    apt=$(mktemp -d "$cache/apt.XXXXXX")
    trap 'rm -rf "$apt"' EXIT
    use_suites "$apt"
    package=$(depends linux-source | grep -E '^linux-source-[0-9]')
    download "$apt/package" "$package"
    dpkg-deb --fsys-tarfile "$apt/package/"*.deb | tar -xO "./usr/src/$package.tar.xz" >"$apt/source"
    mv "$apt/source" "$source"
fi
exec {turn}<&-
xz -dc "$source" | perl places.pl
