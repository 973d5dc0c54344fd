#!/usr/bin/env bash
# Installs pinned servers once: install.sh [kafka|redis|minio|versitygw ...], all four when none is named.
#
# Prints the folder of each server on stdout, one line each in the order asked for; what it does goes to stderr.
# Servers lie in $FLOWGAUGE_SERVERS, by default ~/.cache/flowgauge/servers. What is there is not built again; a server
# is there whole or not at all; two that start at once wait for each other.
# Exits 3 when a program is missing that a server needs, 2 on a name that is none.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${FLOWGAUGE_SERVERS:-$HOME/.cache/flowgauge/servers}

MINIO=v0.0.0-20260212201848-7aac2a2c5b7c
VERSITYGW=v1.8.0
KAFKA=$(sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' "$here/pom.xml")
# a cold build of MinIO takes six minutes on two cores
PATIENCE_SECONDS=1800

# where Go's own archive puts it, which no shell has on its PATH by itself
PATH=$PATH:/usr/local/go/bin

say() { echo "flowgauge: $*" >&2; }
missing() { say "$1"; exit 3; }

need_java() {
    local remedy='apt-get install default-jre-headless, or any JRE from 17 on'
    command -v java >/dev/null || missing "Kafka needs Java, and there is none: $remedy"
    local major
    major=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p')
    ((${major:-0} >= 17)) || missing "Kafka needs Java 17 or newer, and this is ${major:-unknown}: $remedy"
}

need_maven() { command -v mvn >/dev/null || missing "Kafka's jars are fetched by Maven, and there is none: apt-get install maven"; }

need_go() {
    local remedy='apt-get install golang-go, or the archive at https://go.dev/dl'
    command -v go >/dev/null || missing "$1 is built by Go, and there is none: $remedy"
    local minor
    minor=$(go env GOVERSION | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
    # from 1.21 on, Go fetches the newer toolchain that a module asks for
    ((${minor:-0} >= 21)) || missing "$1 needs Go 1.21 or newer, and this is $(go env GOVERSION): $remedy"
}

go_install() {
    need_go "$1"
    say "building $1 (minutes the first time)"
    GOBIN=$3 GOTOOLCHAIN=${GOTOOLCHAIN:-auto} timeout "$PATIENCE_SECONDS" go install "$2"
}

build_kafka() {
    need_maven
    say "fetching Kafka $KAFKA"
    cp "$here/pom.xml" "$1/" && timeout "$PATIENCE_SECONDS" mvn -q -B -f "$1/pom.xml" dependency:copy-dependencies -DoutputDirectory="$1/libs" >&2
}
build_minio() { go_install MinIO "github.com/minio/minio@$MINIO" "$1"; }
build_versitygw() { go_install versitygw "github.com/versity/versitygw/cmd/versitygw@$VERSITYGW" "$1"; }

# install NAME VERSION: calls build_NAME with an empty folder, and gives the folder its name when that went well
install() {
    local folder=$cache/$1-$2
    if [[ ! -d $folder ]]; then
        exec 9>"$cache/$1.lock"
        flock --wait "$PATIENCE_SECONDS" 9 || { say "another installation of $1 holds $cache/$1.lock: end it"; exit 1; }
        if [[ ! -d $folder ]]; then
            rm -rf "$cache/$1".draft.*  # of one that was killed: whoever builds holds the lock
            draft=$(mktemp -d "$cache/$1.draft.XXXXXX")
            "build_$1" "$draft" || { say "$1 was not installed: see the lines above"; exit 1; }
            chmod 755 "$draft"
            mv "$draft" "$folder"
            say "$1 lies in $folder"
        fi
        exec 9>&-
    fi
    echo "$folder"
}

install_redis() {
    local program
    program=$(command -v redis-server) || missing 'there is no redis-server: apt-get install redis-server'
    dirname "$program"
}

draft=
trap '[[ -z $draft ]] || rm -rf "$draft"' EXIT
mkdir -p "$cache"
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
