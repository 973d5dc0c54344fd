# What install.sh and validate.sh share: programs that are put into a cache folder once. To be sourced, under `set -e`.

cache=${FLOWGAUGE_SERVERS:-$HOME/.cache/flowgauge/servers}
# a cold build of MinIO takes six minutes on two cores
PATIENCE_SECONDS=1800

# where Go's own archive puts it, which no shell has on its PATH by itself
PATH=$PATH:/usr/local/go/bin

say() { echo "flowgauge: $*" >&2; }
missing() { say "$1"; exit 3; }

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

draft=
trap '[[ -z $draft ]] || rm -rf "$draft"' EXIT
mkdir -p "$cache"
