#!/usr/bin/env bash
# Makes the RPM package, and prints its path. The same sources and tools make the same package, byte by byte.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/scripts/built.sh
need rpmbuild=rpm

version=$(cargo metadata --format-version 1 --no-deps | sed -E 's/.*"name":"daxfile","version":"([^"]*)".*/\1/')
made=$target/rpm
mkdir -p "$made"
# Both packages warn of pinned files in the same words. rpm passes the number of versions that stay installed.
sed -e '/^#!/d; /^#DEBHELPER#$/d' -e 's/"\$1" = remove/"$1" = 0/' daxctl-rs/debian/prerm >"$made/warning"
# RPM has the changes of a version under one line, newest version first, as Debian has.
awk '
    /^[a-z]/ { version = $2; gsub(/[()]/, "", version) }
    /^  \*/ { sub(/^  \*/, "-"); changes = changes $0 "\n" }
    /^   +[^ ]/ { sub(/^ +/, "  "); changes = changes $0 "\n" }
    /^ -- / {
        split($0, part, /  +/)
        split(part[2], date, / /)
        sub(/,/, "", date[1])
        sub(/^ -- /, "", part[1])
        printf "* %s %s %s %s %s - %s\n%s\n", date[1], date[3], date[2], date[4], part[1], version, changes
        changes = ""
    }' daxctl-rs/debian/changelog >"$made/changes"
rpmbuild -bb --quiet --build-in-place \
    --define "_topdir $made" --define "_builddir $PWD" --define "_sourcedir $PWD" \
    --define "made $made" --define "built $target/release" --define "released $version" \
    --define "_buildhost localhost" --define "use_source_date_epoch_as_buildtime 1" \
    --define "clamp_mtime_to_source_date_epoch 1" \
    daxctl-rs/rpm/daxfile.spec >&2
echo "$made/RPMS/$(uname -m)/daxfile-$version-1.$(uname -m).rpm"
