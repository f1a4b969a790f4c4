#!/usr/bin/env bash
# Makes the Debian package, and prints its path. The same sources and tools make the same package, byte by byte.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/scripts/packages.sh
need dpkg-shlibdeps=dpkg-dev cc=gcc /usr/include/stdio.h=libc6-dev clang=clang /usr/include/bpf/bpf_helpers.h=libbpf-dev

target=$(cargo metadata --format-version 1 --no-deps | sed -E 's/.*"target_directory":"([^"]*)".*/\1/')
cargo_deb=$target/tools/bin/cargo-deb
[[ -x $cargo_deb ]] || cargo install --quiet --locked --root "$target/tools" cargo-deb@3.8.0 >&2
# The date of the last change, also in a copy without history.
SOURCE_DATE_EPOCH=$(date -d "$(sed -n 's/^ -- .*>  //p' daxctl-rs/debian/changelog | head -n 1)" +%s)
export SOURCE_DATE_EPOCH

# The unwinder is linked in: loading libgcc_s.so takes a tenth of the program's start.
cargo rustc --quiet --release --locked -p daxfile --bin daxfile --features guard -- -l static:-bundle=gcc_eh >&2
mkdir -p "$target/release/completions"
for shell in bash fish zsh; do
    "$target/release/daxfile" completions "$shell" >"$target/release/completions/$shell"
done
"$cargo_deb" --quiet --no-build -p daxfile
