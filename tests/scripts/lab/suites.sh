# shellcheck shell=bash
# Sourced by the scripts that fetch a kernel, its source, or the other needs of arm64 guests, from the Debian suite that has it.
. "$(dirname "${BASH_SOURCE[0]}")/../packages.sh"

# begin 6.1|6.12|newest|toolchain|userland: chooses the suites for the functions below. Files are kept in $cache. Scripts that
# run side by side fetch one after the other, so that the second uses the files of the first. Closing $turn ends the turn.
begin() {
    case $1 in
        6.1) suites=(bookworm) ;;
        6.12) suites=(trixie) ;;
        newest) suites=(sid experimental) ;;
        toolchain) suites=(sid) ;;
        # The machine's own, because the tests are linked with its C library.
        userland) suites=("$(. /etc/os-release && echo "$VERSION_CODENAME")") ;;
        *)
            echo "${0##*/}: no kernel $1: 6.1, 6.12 or newest" >&2
            exit 2
            ;;
    esac
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/daxfile-lab
    mkdir -p "$cache"
    exec {turn}<"$cache"
    flock "$turn"
}

# use_suites DIRECTORY [ARCHITECTURE...]: apt uses these suites, and no others, and keeps its state in that directory.
use_suites() {
    local archive keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    archive=$(archive)
    local architectures=("${@:2}")
    ((${#architectures[@]} > 0)) || architectures=(amd64)
    mkdir -p "$1"/{state/lists/partial,cache/archives/partial}
    printf "deb [arch=$(IFS=, && echo "${architectures[*]}") signed-by=$keyring] $archive %s main\n" "${suites[@]}" >"$1/sources.list"
    cat >"$1/apt.conf" <<END
Dir::Etc::SourceList "$1/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State "$1/state";
Dir::State::status "/dev/null";
Dir::Cache "$1/cache";
Acquire::Languages "none";
Acquire::Retries "3";
APT::Architecture "${architectures[0]}";
APT::Architectures { $(printf '"%s"; ' "${architectures[@]}")};
APT::Get::AllowUnauthenticated "false";
APT::Sandbox::User "$(id -un)";
END
    export APT_CONFIG=$1/apt.conf
    apt-get update -qq --error-on=any >&2
}

# depends PACKAGE: its dependencies, those of the newest version among the suites.
depends() {
    apt-cache show "$1" | awk '
        /^Version: / { version = $2 }
        /^Depends: / { sub(/^Depends: /, ""); print version "\t" $0 }' |
        sort -V | tail -n1 | cut -f2 | tr ',|' '\n' | awk '{ print $1 }'
}

# download DIRECTORY PACKAGE...: fetches the packages into the directory.
download() {
    mkdir -p "$1"
    (cd "$1" && apt-get download -qq "${@:2}" >&2)
}

# closure PACKAGE...: these, and all that they depend on.
closure() {
    apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "$@" |
        grep -E '^[a-z0-9]' | sort -u
}
