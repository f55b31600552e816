# To be sourced: Debian's and Ubuntu's packages, as root or with sudo.

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

apt_install() {
    if ! command -v apt-get > /dev/null; then
        echo "please install $* with your system's package manager, then run make again" >&2
        exit 1
    fi
    echo "installing $* with apt-get" >&2
    if ! { as_root apt-get update -q && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"; } >&2; then
        echo "could not install them; please run: apt-get install $*" >&2
        exit 1
    fi
}
