#!/bin/sh
# Have what a check needs, installing what is missing with apt-get.
#
#     need.sh PACKAGE...               install these
#     need.sh --unpack DIR PACKAGE...  only unpack these below DIR, for daemons, which Debian
#                                      would start; the libraries they need are installed
#
# Says what it installs, and is silent when all is there.
set -eu

die()
{
    echo "need.sh: $*" >&2
    exit 1
}

# Whether what PACKAGE is wanted for is there, wherever it came from.
have()
{
    case $1 in
    apache2-bin) command -v apache2 ;;
    check) pkg-config --exists check 2>/dev/null ;;
    binutils) command -v objdump ;;
    golang-go) command -v go ;;
    iproute2) command -v ip ;;
    gcc-multilib) echo 'int main(void) { return 0; }' | gcc -m32 -x c -o /dev/null - 2>&1 ;;
    musl-tools) command -v musl-gcc ;;
    netbase) [ -e /etc/protocols ] ;; # xinetd looks "tcp" up there
    openbsd-inetd) command -v inetd ;;
    procps) command -v pgrep ;;
    pkg-config) command -v pkg-config || command -v pkgconf ;;
    libclang-rt-dev) # clang's sanitizers and libFuzzer
        [ -e "$(clang -print-file-name="libclang_rt.fuzzer-$(uname -m).a" 2>/dev/null)" ]
        ;;
    ucspi-tcp) command -v tcpserver ;;
    universal-ctags) ctags --version 2>&1 | grep -q Universal ;;
    lib* | *-dev | python3-* | ca-certificates) dpkg -s "$1" 2>/dev/null | grep -q '^Status: .* installed$' ;;
    *) command -v "$1" ;;
    esac >/dev/null
}

as_root()
{
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

can_be_root()
{
    [ "$(id -u)" -eq 0 ] || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }
}

# Lists that are absent or older than a day name versions that the archive no longer has.
update_lists()
{
    can_be_root || return 0
    if [ "${1-}" = always ] || ! ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 ||
        [ -z "$(find /var/lib/apt/lists /var/lib/apt/lists/partial -maxdepth 0 -mtime -1)" ]; then
        echo "need.sh: apt-get update"
        as_root apt-get -q -q -o DPkg::Lock::Timeout=300 update >/dev/null || true
    fi
}

apt_install()
{
    can_be_root || die "neither root nor allowed to sudo: have somebody who is run this line:
sudo apt-get install --no-install-recommends $*"
    echo "need.sh: installing $*"
    set -- env DEBIAN_FRONTEND=noninteractive apt-get -q -q -y -o DPkg::Lock::Timeout=300 \
        -o Dpkg::Use-Pty=0 install --no-install-recommends "$@"
    as_root "$@" </dev/null >"$log" 2>&1 && return
    update_lists always
    as_root "$@" </dev/null >"$log" 2>&1 || {
        cat "$log" >&2
        die "apt-get could not install:$missing"
    }
}

# A new machine may have the library that a package wants under another release's name
# (libtirpc3, libtirpc3t64), so the package itself says.
unpack()
{
    package=$1
    libraries=
    for library in $(apt-cache depends --no-recommends --no-suggests "$package" |
        sed -n 's/^ *Depends: \(lib[^<>]*\)$/\1/p'); do
        have "$library" || libraries="$libraries $library"
    done
    # shellcheck disable=SC2086 # one word a library
    [ -z "$libraries" ] || apt_install $libraries
    echo "need.sh: unpacking $package below $directory"
    fetched=$(mktemp -d)
    if ! (cd "$fetched" && apt-get -q -q download "$package" >"$log" 2>&1) ||
        ! mkdir -p "$directory" || ! dpkg-deb -x "$fetched"/*.deb "$directory"; then
        cat "$log" >&2
        rm -rf "$fetched"
        die "could not fetch and unpack $package"
    fi
    rm -rf "$fetched"
}

directory=
if [ "${1-}" = --unpack ]; then
    directory=$2
    shift 2
fi
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin${directory:+:$directory/usr/sbin}

missing=
for package; do
    have "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
command -v apt-get >/dev/null || die "no apt-get here: install by hand:$missing"

log=$(mktemp)
trap 'rm -f "$log"' EXIT
update_lists
# shellcheck disable=SC2086 # one word a package
if [ -n "$directory" ]; then
    for package in $missing; do
        unpack "$package"
    done
else
    apt_install $missing
fi
for package in $missing; do
    have "$package" || die "$package was installed, but what it is needed for is not there"
done
