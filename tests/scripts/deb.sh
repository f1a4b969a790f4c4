#!/usr/bin/env bash
# Makes the Debian package, and prints its path. The same sources and tools make the same package, byte by byte.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/scripts/built.sh
need dpkg-shlibdeps=dpkg-dev

cargo_deb=$target/tools/bin/cargo-deb
[[ -x $cargo_deb ]] || cargo install --quiet --locked --root "$target/tools" cargo-deb@3.8.0 >&2
"$cargo_deb" --quiet --no-build -p daxfile
