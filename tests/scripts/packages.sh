# shellcheck shell=bash
# Sourced by the other scripts.

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
    # Scripts that run side by side take turns.
    local turn
    exec {turn}<"${BASH_SOURCE[0]}"
    flock "$turn"
    echo "installing ${missing[*]}"
    "${sudo[@]}" apt-get update -qq </dev/null >/dev/null
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq --no-install-recommends "${missing[@]}" </dev/null >/dev/null
    exec {turn}<&-
}

# archive: prints the source of Debian's packages from the machine's own sources, in whatever form they are.
archive() {
    local codename url
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    url=$(apt-get indextargets --format "\$(RELEASE) \$(COMPONENT) \$(REPO_URI)" 'Created-By: Packages' |
        awk -v suite="$codename" '$1 == suite && $2 == "main" { print $3; exit }')
    if [[ -z $url ]]; then
        echo "apt's sources do not name $codename main" >&2
        return 1
    fi
    echo "$url"
}
