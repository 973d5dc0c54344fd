#!/usr/bin/env bash
# Checks every file of deploy/ and docker-compose.yml with the tool that reads it. Installs the tools once, where
# deploy/native/install.sh puts servers; that takes about a quarter of an hour, and Go, pip and their registries.
# Exits 1 when a file is wrong or a tool cannot be had. No container is built or started.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=()

# the versions of Kubernetes between which the manifests are promised to work
KUBERNETES=(1.30.0 1.37.0)

tool() { deploy/validate/install.sh "$1"; }

# step NAME FUNCTION: runs all steps, whatever became of those before
step() {
    local code=0
    # in the background, because whatever stands before || goes on after an error
    "$2" >"$work/log" 2>&1 &
    wait $! || code=$?
    if ((code)); then
        failed+=("$1")
        echo "FAILED  $1"
        sed 's/^/        /' "$work/log"
    else
        echo "ok      $1"
    fi
}

dockerfile() {
    local folder; folder=$(tool hadolint)
    "$folder/bin/hadolint" --no-color deploy/Dockerfile
}

compose() { "$compose/docker-compose" --env-file "$1" --profile '*' config "${@:2}"; }

compose_files() {
    local compose; compose=$(tool compose)
    sed 's/=$/=secret/' deploy/compose.env.example >"$work/env"
    compose "$work/env" --quiet
    # each secret that is missing is named
    local name
    for name in FLOWGAUGE_S3_SECRET_KEY REDIS_PASSWORD GRAFANA_PASSWORD; do
        sed "s/^$name=.*/$name=/" "$work/env" >"$work/without"
        if compose "$work/without" --quiet 2>"$work/refusal"; then
            echo "compose starts without $name"
            return 1
        fi
        grep -q "$name" "$work/refusal" || { cat "$work/refusal"; return 1; }
    done
}

# an overlay as a plant writes it that has passwords on its brokers, alerts to people and the console
secured_overlay() {
    mkdir -p "$work/kubernetes/overlays/secured"
    cp -r deploy/kubernetes/base deploy/kubernetes/components "$work/kubernetes"
    cp -r deploy/kubernetes/overlays/cpu "$work/kubernetes/overlays"
    printf '%s\n' 'namespace: flowgauge' 'resources: [../cpu]' 'components:' \
        '- ../../components/sasl' '- ../../components/notify' '- ../../components/console' \
        >"$work/kubernetes/overlays/secured/kustomization.yaml"
}

kubernetes() {
    local kustomize kubeconform schemas crds version overlay
    kustomize=$(tool kustomize)
    kubeconform=$(tool kubeconform)
    schemas=$(tool schemas)
    crds=$(tool crds)
    secured_overlay
    for overlay in deploy/kubernetes/base deploy/kubernetes/overlays/* "$work/kubernetes/overlays/secured"; do
        "$kustomize/kustomize" build "$overlay" >"$work/$(basename "$overlay").yaml"
    done
    deploy/kubernetes/rules.sh >"$work/rules.yaml"
    for version in "${KUBERNETES[@]}"; do
        "$kubeconform/kubeconform" -strict -summary -kubernetes-version "$version" \
            -schema-location "$schemas/v$version-local-strict/{{.ResourceKind}}{{.KindSuffix}}.json" \
            -schema-location "$crds/{{.ResourceKind}}{{.KindSuffix}}.json" \
            "$work"/*.yaml deploy/kubernetes/secret.example.yaml
    done
}

prometheus() {
    local promtool; promtool=$(tool promtool)
    "$promtool/promtool" check config --lint=all --lint-fatal deploy/prometheus/prometheus.yml deploy/prometheus/native.yml
    "$promtool/promtool" check rules --lint=all --lint-fatal deploy/prometheus/alerts.yml
    "$promtool/promtool" test rules deploy/prometheus/alerts_test.yml
}

grafana() {
    local promtool; promtool=$(tool promtool)
    "$python" deploy/validate/queries.py deploy/grafana/dashboards/flowgauge.json >"$work/queries.yml"
    "$promtool/promtool" check rules "$work/queries.yml"
}

step 'deploy/Dockerfile (hadolint)' dockerfile
step 'docker-compose.yml (docker compose config)' compose_files
step 'deploy/kubernetes (kustomize, kubeconform)' kubernetes
step 'deploy/prometheus (promtool)' prometheus
step 'deploy/grafana (the queries, promtool)' grafana

if ((${#failed[@]})); then
    echo "${#failed[@]} of 5 failed"
    exit 1
fi
