#!/usr/bin/env bash
# fetch.sh 6.1|6.12|newest: prints the directory of that Debian kernel, which it fetches the first time. Delete the
# directory above it to fetch again.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../packages.sh"

case $1 in
    6.1) suites=(bookworm) ;;
    6.12) suites=(trixie) ;;
    newest) suites=(sid experimental) ;;
    *)
        echo "fetch.sh: no kernel $1: 6.1, 6.12 or newest" >&2
        exit 2
        ;;
esac
cache=${XDG_CACHE_HOME:-$HOME/.cache}/daxfile-lab
mkdir -p "$cache"
# Who comes second finds what the first has fetched.
exec {turn}<"$cache"
flock "$turn"
if [[ -e $cache/$1 ]]; then
    readlink -f "$cache/$1"
    exit
fi
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
apt=$(mktemp -d "$cache/apt.XXXXXX")
trap 'rm -rf "$apt"' EXIT
mkdir -p "$apt"/{state/lists/partial,cache/archives/partial,kernel}

archive=$(archive)
printf "deb [arch=amd64 signed-by=$keyring] $archive %s main\n" "${suites[@]}" >"$apt/sources.list"

cat >"$apt/apt.conf" <<END
Dir::Etc::SourceList "$apt/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State "$apt/state";
Dir::State::status "/dev/null";
Dir::Cache "$apt/cache";
Acquire::Languages "none";
Acquire::Retries "3";
APT::Architecture "amd64";
APT::Get::AllowUnauthenticated "false";
APT::Sandbox::User "$(id -un)";
END
export APT_CONFIG=$apt/apt.conf
apt-get update -qq --error-on=any >&2

# depends PACKAGE: its dependencies, those of the newest version among the suites.
depends() {
    apt-cache show "$1" | awk '
        /^Version: / { version = $2 }
        /^Depends: / { sub(/^Depends: /, ""); print version "\t" $0 }' |
        sort -V | tail -n1 | cut -f2 | tr ',|' '\n' | awk '{ print $1 }'
}

image=$(depends linux-image-amd64 | grep -E '^linux-image-[0-9]')
# Newer suites keep kernel and modules in packages that the image depends on.
mapfile -t packages < <(echo "$image"; depends "$image" | grep -E '^linux-(base|binary|modules)-[0-9]' || :)
(cd "$apt/kernel" && apt-get download -qq "${packages[@]}" >&2)
tree=$apt/tree
for package in "$apt"/kernel/*.deb; do
    dpkg -x "$package" "$tree"
done
version=${image#linux-image-}
[[ -d $tree/usr/lib/modules ]] || mv "$tree/lib" "$tree/usr"
ln -sfn usr/lib "$tree/lib"
depmod -b "$tree" "$version"
rm -rf "${cache:?}/$version"
mv "$tree" "$cache/$version"
ln -sfn "$version" "$cache/$1"
echo "$cache/$version"
