#!/usr/bin/env bash
# modules.sh MODULES TREE NAME...: copies the named modules of the kernel whose modules are in the directory MODULES
# (…/lib/modules/VERSION), and those that they depend on, into TREE. Names that this kernel lacks are left out.
# It reads no configuration of this machine: modprobe(8) would obey /etc/modprobe.d, MODPROBE_OPTIONS and /proc/cmdline.
set -euo pipefail
modules=$(realpath "$1") tree=$2
shift 2
version=${modules##*/}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch"/{none,lib/modules}
index=$modules/modules.dep
if [[ ! -e $index ]]; then
    ln -s "$modules" "$scratch/lib/modules"
    depmod -C "$scratch/none" -n -b "$scratch" "$version" >"$scratch/modules.dep"
    index=$scratch/modules.dep
fi
awk -v names="$*" '
    function name(path) {
        sub(/.*\//, "", path)
        sub(/\.ko.*/, "", path)
        gsub(/-/, "_", path)
        return path
    }
    BEGIN {
        split(names, list, " ")
        for (i in list) wanted[list[i]]
    }
    # PATH: PATH..., the modules that the first one depends on
    sub(/:/, "", $1) && name($1) in wanted { for (i = 1; i <= NF; i++) print $i }' "$index" | sort -u >"$scratch/files"
into=$tree/lib/modules/$version
mkdir -p "$into"
tar -C "$modules" --files-from="$scratch/files" -c | tar -C "$into" -x
cp "$modules"/modules.{builtin,builtin.modinfo,order} "$into"
depmod -C "$scratch/none" -b "$tree" "$version"
