# shellcheck shell=bash
# Sourced by demo.sh and run.sh.

# Debian keeps mkfs and its like where an ordinary user's PATH does not lead.
PATH=$PATH:/usr/sbin:/sbin

# Empty for root.
sudo=()
if ((EUID != 0)); then
    sudo=(sudo)
fi

# need WHAT=PACKAGE...: installs the packages of those programs, or files, that are missing.
need() {
    local pair what missing=()
    for pair; do
        what=${pair%%=*}
        [[ -e $what ]] || command -v "$what" >/dev/null || missing+=("${pair#*=}")
    done
    if ((${#missing[@]} == 0)); then
        return
    fi
    mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
    if ! command -v apt-get >/dev/null; then
        echo "missing: ${missing[*]} (names of Debian's packages)" >&2
        exit 1
    fi
    echo "installing ${missing[*]}"
    "${sudo[@]}" apt-get update -qq </dev/null >/dev/null
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq --no-install-recommends "${missing[@]}" </dev/null >/dev/null
}
