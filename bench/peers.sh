#!/bin/sh
# Unpacks a peer from the newest Debian stable into bench/.peers/NAME, with its libraries and its loader, so that it
# runs on this machine without being installed. Usage: peers.sh PACKAGE. Does nothing if the peer is there already:
# delete its folder to take a newer one.
#
# The mirror is the machine's own Debian archive, the resolver is apt itself, in a private state folder whose empty
# status file makes it fetch every dependency. apt checks the archive's signatures and every package's hash.
set -eu

RELEASE=trixie
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

fail() {
    echo "peers.sh: $*" >&2
    exit 1
}

[ $# -eq 1 ] || fail "usage: peers.sh PACKAGE"
package=$1
peers=$(cd "$(dirname "$0")" && pwd)/.peers
[ ! -f "$peers/$package/version" ] || exit 0

for tool in apt-get apt-cache dpkg-deb; do
    command -v $tool >/dev/null || fail "$tool is missing: the peers come from Debian packages, run this on Debian"
done
[ -r $KEYRING ] || fail "$KEYRING is missing: apt-get install debian-archive-keyring"

# The address of the machine's archive with this label; origin and label come from its signed Release file.
archive() {
    apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' |
        awk -F'|' -v label="$1" '$1 == "Debian" && $2 == label { print $3; exit }'
}

main=$(archive Debian)
if [ -z "$main" ]; then
    if [ "$(id -u)" -eq 0 ]; then apt-get update -q; else sudo apt-get update -q; fi
    main=$(archive Debian)
fi
[ -n "$main" ] || fail "no Debian archive among this machine's apt sources: add one and run apt-get update"
security=$(archive Debian-Security)

work=$peers/$package.new
rm -rf "$work"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial" "$work/root"
: >"$work/status"
echo "deb [signed-by=$KEYRING] $main $RELEASE main" >"$work/sources.list"
[ -z "$security" ] || echo "deb [signed-by=$KEYRING] $security $RELEASE-security main" >>"$work/sources.list"

private() {
    command=$1
    shift
    "$command" -q \
        -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State="$work/state" -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache" \
        -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=true -o pkgCacheGen::Essential=none \
        -o Acquire::AllowInsecureRepositories=false -o APT::Get::AllowUnauthenticated=false \
        -o APT::Update::Error-Mode=any -o Acquire::Languages=none \
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false "$@"
}

private apt-get update >"$work/log" 2>&1 || {
    cat "$work/log" >&2
    fail "cannot read Debian $RELEASE from this machine's archive, or its signature is not by a key of $KEYRING"
}
private apt-get install --yes --download-only --no-install-recommends "$package" >"$work/log" 2>&1 || {
    cat "$work/log" >&2
    fail "cannot download $package and its libraries from Debian $RELEASE"
}
for deb in "$work"/cache/archives/*.deb; do
    dpkg-deb --extract "$deb" "$work/root"
done
version=$(private apt-cache show --no-all-versions "$package" | sed -n 's/^Version: //p')
[ -n "$version" ] || fail "apt names no version of $package"

rm -rf "$work/state" "$work/cache" "$work/log" "$work/sources.list" "$work/status"
echo "$version" >"$work/version"
rm -rf "${peers:?}/$package"
mv "$work" "$peers/$package"
