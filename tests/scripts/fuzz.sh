#!/usr/bin/env bash
# Fuzzes each decoder, guided by coverage: 10,000,000 runs or 10 minutes, whichever is first. Failing inputs are kept in
# target/fuzz. An LLVM pass in Rust provides the coverage that libFuzzer needs, without a nightly compiler.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/scripts/packages.sh

runs=${1:-10000000}
seconds=600
need c++=g++

coverage='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions'
host=$(rustc --print host-tuple)
# If a target is named, build scripts and procedural macros are built without these flags.
RUSTFLAGS=${coverage//$'\n'/} cargo build --quiet --release --target "$host" --target-dir target/fuzz \
    -p daxfile-tests --features fuzz --bin fuzz

total=0
for decoder in record manifest; do
    work=target/fuzz/$decoder
    log=$work.log
    rm -rf "$work"
    mkdir -p "$work"
    # Some bytes more than a record may have; a run that takes 10 s hangs.
    if ! DECODER=$decoder "target/fuzz/$host/release/fuzz" "$work" "tests/decoders/seeds/$decoder" -runs="$runs" \
        -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=512 -artifact_prefix="$work." &>"$log"; then
        tail -n 40 "$log"
        exit 1
    fi
    done=$(sed -nE 's/^Done ([0-9]+) runs in .*/\1/p' "$log")
    took=$(sed -nE 's/^Done [0-9]+ runs in ([0-9]+) .*/\1/p' "$log")
    coverage=$(grep -oE 'cov: [0-9]+ ft: [0-9]+ corp: [0-9]+' "$log" | tail -n 1)
    # Less than was asked for, and before its time, is a fuzzer that broke off.
    if ((done < runs && took < seconds)); then
        tail -n 40 "$log"
        exit 1
    fi
    echo "$decoder: $done runs in $took s, $coverage; no crash, no hang, never above 1 MiB"
    total=$((total + done))
done
echo "$total runs of the decoders"
