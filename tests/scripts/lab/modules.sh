#!/usr/bin/env bash
# modules.sh KERNEL TREE MODULE...: puts these modules, and those that they need, of the kernel in that directory into a
# tree, as far as the kernel has them.
set -euo pipefail
kernel=$1 tree=$2 version=${1##*/}
shift 2
for module; do
    modprobe --dirname "$kernel" --set-version "$version" --show-depends --ignore-install "$module" 2>/dev/null || :
done | awk '$1 == "insmod" { print $2 }' | sort -u | sed "s,^$kernel/,," |
    tar -C "$kernel" --files-from=- -c | tar -C "$tree" --keep-directory-symlink -x
cp "$kernel/lib/modules/$version"/modules.{builtin,builtin.modinfo,order} "$tree/lib/modules/$version/"
depmod -b "$tree" "$version"
