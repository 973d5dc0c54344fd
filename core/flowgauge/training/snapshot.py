"""A gauge as bytes and back: `manifest.json` names everything, `weights.safetensors` holds what was learned and the
probe images.

Nothing is ever unpickled. The frozen backbone is named by the SHA-256 of its weights, not copied.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import safetensors.torch
import torch
from pydantic import ValidationError
from safetensors import SafetensorError

from flowgauge.domain.errors import SnapshotCorrupt, SnapshotOfOtherSchema
from flowgauge.models.backbones import load_backbone
from flowgauge.models.registry import create
from flowgauge.training.gauge import Gauge
from flowgauge.training.manifest import MANIFEST_SCHEMA, Manifest
from flowgauge.training.thresholds import Threshold

MANIFEST_NAME = "manifest.json"
WEIGHTS_NAME = "weights.safetensors"


@dataclass(frozen=True)
class Snapshot:
    """`sha256` is that of the manifest, which in turn names that of the weights."""

    manifest: bytes
    weights: bytes
    version: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.manifest).hexdigest()


_PROBES = "probes"
"""The tensor beside the detector's that holds the gauge's probe images."""


def weights_of(gauge: Gauge) -> bytes:
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in gauge.detector.state_dict().items()}
    return safetensors.torch.save({**state, _PROBES: torch.from_numpy(gauge.probes)})


def save(gauge: Gauge) -> Snapshot:
    """The snapshot of `gauge`: loading it gives bit-identical scores on the same machine."""
    weights = weights_of(gauge)
    digest = hashlib.sha256(weights).hexdigest()
    manifest = gauge.manifest.model_copy(update={"weights_sha256": digest})
    return Snapshot(manifest.model_dump_json(indent=2).encode(), weights, manifest.version)


def with_threshold(manifest: bytes, change: Callable[[Threshold], Threshold], at: datetime) -> tuple[bytes, str]:
    """The manifest and the version of a gauge that differs in its threshold alone; the weights stay.

    Its parent is the gauge of `manifest`. Raises `SnapshotCorrupt` and `SnapshotOfOtherSchema` as `load` does.
    """
    facts = read_manifest(manifest)
    threshold = change(facts.threshold)
    digest = hashlib.sha256(f"{facts.version} {at.isoformat()} {threshold.value!r}".encode()).hexdigest()[:12]
    update = {"version": f"threshold-{digest}", "parent": facts.version, "created_at": at, "threshold": threshold}
    made = facts.model_copy(update=update)
    return made.model_dump_json(indent=2).encode(), made.version


def load(manifest: bytes, weights: bytes, *, device: str = "cpu", sha256: str | None = None) -> Gauge:
    """The gauge that was saved.

    Raises `SnapshotCorrupt` when a hash (`sha256` is the manifest's, where it is known) or the contents do not match,
    `SnapshotOfOtherSchema` for a newer schema, `BackboneMismatch` for other backbone weights than those it was made
    with.
    """
    if sha256 is not None and hashlib.sha256(manifest).hexdigest() != sha256:
        raise SnapshotCorrupt("The manifest is not the one that was announced.", "Restore the object, or roll back.")
    facts = read_manifest(manifest)
    if hashlib.sha256(weights).hexdigest() != facts.weights_sha256:
        raise SnapshotCorrupt(
            f"The weights of {facts.line} {facts.version} do not match their SHA-256.",
            "Restore the object from a copy, or roll back to another version.",
        )
    backbone = load_backbone(facts.backbone, device)
    detector = create(facts.detector.name, facts.detector.config, backbone.shape(facts.preprocessing.size))
    try:
        state = safetensors.torch.load(weights)
        probes = state.pop(_PROBES).numpy()
        detector.load_state_dict(state)
    except (KeyError, SafetensorError, RuntimeError) as error:
        raise SnapshotCorrupt(f"The weights of {facts.version} do not fit: {error}", "Fit the line again.") from error
    return Gauge(facts, backbone, detector.to(device), probes)


def read_manifest(manifest: bytes) -> Manifest:
    """Raises `SnapshotCorrupt` or `SnapshotOfOtherSchema`."""
    try:
        schema = json.loads(manifest)["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise SnapshotCorrupt("The manifest is not a manifest.", "Restore the object from a copy.") from error
    if not isinstance(schema, int) or schema != MANIFEST_SCHEMA:
        older = isinstance(schema, int) and schema < MANIFEST_SCHEMA
        raise SnapshotOfOtherSchema(
            f"The manifest has schema {schema}; this Flowgauge reads schema {MANIFEST_SCHEMA}.",
            "Fit the line again: names, or what is measured, have changed since." if older else "Upgrade Flowgauge.",
        )
    try:
        return Manifest.decode(manifest)
    except ValidationError as error:
        raise SnapshotCorrupt(f"The manifest is wrong: {error}", "Restore the object from a copy.") from error
