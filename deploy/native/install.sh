#!/usr/bin/env bash
# Installs pinned servers once: install.sh [kafka|redis|minio|versitygw ...], all four when none is named.
#
# Prints the folder of each server on stdout, one line each in the order asked for; what it does goes to stderr.
# Servers lie in $FLOWGAUGE_SERVERS, by default ~/.cache/flowgauge/servers. What is there is not built again; a server
# is there whole or not at all; two that start at once wait for each other.
# Exits 3 when a program is missing that a server needs, 2 on a name that is none.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/once.sh"

MINIO=v0.0.0-20260212201848-7aac2a2c5b7c
VERSITYGW=v1.8.0
KAFKA=$(sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' "$here/pom.xml")

need_java() {
    local remedy='apt-get install default-jre-headless, or any JRE from 17 on'
    command -v java >/dev/null || missing "Kafka needs Java, and there is none: $remedy"
    local major
    major=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p')
    ((${major:-0} >= 17)) || missing "Kafka needs Java 17 or newer, and this is ${major:-unknown}: $remedy"
}

need_maven() { command -v mvn >/dev/null || missing "Kafka's jars are fetched by Maven, and there is none: apt-get install maven"; }

build_kafka() {
    need_maven
    say "fetching Kafka $KAFKA"
    cp "$here/pom.xml" "$1/" && timeout "$PATIENCE_SECONDS" mvn -q -B -f "$1/pom.xml" dependency:copy-dependencies -DoutputDirectory="$1/libs" >&2
}
build_minio() { go_install MinIO "github.com/minio/minio@$MINIO" "$1"; }
build_versitygw() { go_install versitygw "github.com/versity/versitygw/cmd/versitygw@$VERSITYGW" "$1"; }

install_redis() {
    local program
    program=$(command -v redis-server) || missing 'there is no redis-server: apt-get install redis-server'
    dirname "$program"
}

(($#)) || set -- kafka redis minio versitygw
for name in "$@"; do
    case $name in
        kafka) need_java; install kafka "$KAFKA" ;;
        redis) install_redis ;;
        minio) install minio "$MINIO" ;;
        versitygw) install versitygw "$VERSITYGW" ;;
        *) say "no server is called $name: kafka, redis, minio and versitygw are"; exit 2 ;;
    esac
done
