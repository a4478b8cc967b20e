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
$run apt-get update -qq >/dev/null 2>&1
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive $run apt-get install -y -qq --no-install-recommends $missing >/dev/null 2>&1 \
    || echo "apt-get could not install:$missing" >&2
exit 0
