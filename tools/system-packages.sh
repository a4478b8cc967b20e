#!/bin/sh
# What the tests like to have from the distribution: installed when root (or by `sudo -n`) on a Debian-like machine.
# LOCKSTEP_APT=0 forbids it; what is then missing is named by the tests as `skipped: <what>: <how to get it>`.
set -u
missing=""
for pair in ffmpeg:ffmpeg wrk:wrk java:default-jdk-headless mvn:maven \
    redis-server:redis-server promtool:prometheus nginx:nginx-light kcat:kcat; do
    PATH="$PATH:/usr/sbin" command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
[ -z "$missing" ] && exit 0
echo "system packages wanted:$missing" >&2
if [ "${LOCKSTEP_APT:-1}" = 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "not installed (LOCKSTEP_APT=0, or no apt-get here)" >&2
    exit 0
fi
run=""
if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || { echo "not installed: not root, and sudo asks for a password" >&2; exit 0; }
    run="sudo -n"
fi
# Packages of servers start them, some on every address. Debian asks policy-rc.d first, so while this lasts it says no;
# one that is there already stays as it is. All in one shell, which may still remove it when sudo would ask again.
# shellcheck disable=SC2086
if $run sh -s -- $missing <<'AS_ROOT'
policy=/usr/sbin/policy-rc.d
trap 'exit 1' HUP INT TERM
if [ ! -e "$policy" ] && [ ! -L "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    { printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 0755 "$policy"; } || exit 1
fi
apt-get update -qq >/dev/null 2>&1 </dev/null
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 </dev/null || exit 1
AS_ROOT
then
    echo "installed:$missing" >&2
    echo "tests and make up start servers of their own; so that the system's do not start with the machine:" \
        "systemctl disable nginx prometheus redis-server" >&2
else
    echo "apt-get could not install:$missing" >&2
fi
exit 0
