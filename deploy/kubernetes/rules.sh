#!/usr/bin/env bash
# Prints the alert rules as an object of the Prometheus operator: rules.sh | kubectl apply -f -
set -euo pipefail
cat <<'HEAD'
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: flowgauge
  namespace: flowgauge
spec:
HEAD
sed 's/^/  /' "$(dirname "${BASH_SOURCE[0]}")/../prometheus/alerts.yml"
