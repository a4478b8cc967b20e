#!/bin/sh
# Writes what deploy/compose.yaml mounts as secrets: random passwords, in files beside this one that git ignores. Files
# that exist are kept. The folder is its owner's only; a container's other user has to be able to read the file itself.
set -eu
cd "$(dirname "$0")"
chmod 0700 .
password() { head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'; }
write() { [ -e "$1" ] || { cat >"$1.new"; chmod 0644 "$1.new"; mv "$1.new" "$1"; echo "wrote deploy/secrets/$1" >&2; }; }
if [ ! -e redis.conf ] || [ ! -e lockstep.yaml ]; then
    rm -f redis.conf lockstep.yaml
    word=$(password)
    printf 'requirepass %s\nsave ""\nappendonly no\nmaxmemory 512mb\nmaxmemory-policy volatile-ttl\n' "$word" | write redis.conf
    printf 'redis: redis://:%s@redis:6379/0\n' "$word" | write lockstep.yaml
fi
password | write grafana_admin
