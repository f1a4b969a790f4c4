# shellcheck shell=bash
# Sourced by the scripts that make packages, in the top directory: builds what they contain, and sets $target.
. tests/scripts/packages.sh
need cc=gcc /usr/include/stdio.h=libc6-dev clang=clang /usr/include/bpf/bpf_helpers.h=libbpf-dev

target=$(cargo metadata --format-version 1 --no-deps | sed -E 's/.*"target_directory":"([^"]*)".*/\1/')
# The date of the last change, also in a copy without history.
SOURCE_DATE_EPOCH=$(date -d "$(sed -n 's/^ -- .*>  //p' daxctl-rs/debian/changelog | head -n 1)" +%s)
export SOURCE_DATE_EPOCH

# The unwinder is linked in: loading libgcc_s.so takes a tenth of the program's start.
cargo rustc --quiet --release --locked -p daxfile --bin daxfile --features guard -- -l static:-bundle=gcc_eh >&2
mkdir -p "$target/release/completions"
for shell in bash fish zsh; do
    "$target/release/daxfile" completions "$shell" >"$target/release/completions/$shell"
done
