#!/usr/bin/env bash
# Checks that both crates compile with the lowest versions that their Cargo.toml files allow of their direct dependencies.
# Works on a copy, with stable Cargo.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/scripts/packages.sh
need jq=jq cc=gcc clang=clang /usr/include/bpf/bpf_helpers.h=libbpf-dev

target=$(cargo metadata --format-version 1 --no-deps | jq -r .target_directory)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r --parents Cargo.toml Cargo.lock README.md man libdaxfile daxctl-rs "$copy"
cd "$copy"
sed -i 's/, "tests"\]$/]/; /^daxfile = /d' Cargo.toml

# Requirements such as ^0.31 and ^1.2: the lowest version is the one that is written, with zeros added.
mapfile -t lowest < <(cargo metadata --format-version 1 --no-deps | jq -r '
    .packages[].dependencies[] | select(.kind != "dev" and .path == null)
    | "\(.name) \(.req | ltrimstr("^") | split(".") + ["0", "0"] | .[:3] | join("."))"' | sort -u)
# One dependency may ask for a newer version of another one until it is lowered itself.
while ((${#lowest[@]} > 0)); do
    left=()
    said=
    for dependency in "${lowest[@]}"; do
        read -r name version <<<"$dependency"
        held=$(cargo metadata --format-version 1 --all-features | jq -r --arg name "$name" '
            (.workspace_members | map({key: ., value: true}) | from_entries) as $ours
            | [.resolve.nodes[] | select($ours[.id]).deps[].pkg] as $direct
            | first(.packages[] | select(.name == $name and (.id as $id | $direct | index($id)))).id')
        [[ $held == *"@$version" ]] || said+=$(cargo update --quiet --package "$held" --precise "$version" 2>&1) ||
            left+=("$dependency")
    done
    if ((${#left[@]} == ${#lowest[@]})); then
        printf 'minimal.sh: cannot be lowered: %s\n%s\n' "${left[*]}" "$said" >&2
        exit 1
    fi
    lowest=("${left[@]}")
done
for features in "" daxfile/guard; do
    cargo check --quiet --locked --workspace --features "$features" --target-dir "$target/minimal"
done
echo "both crates compile with the lowest versions of their dependencies"
