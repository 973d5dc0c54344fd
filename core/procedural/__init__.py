"""A production line out of nothing but a seed: materials, light, defects with masks, drift. For demos and tests."""

from core.procedural.dataset import write_dataset
from core.procedural.defects import DEFECTS
from core.procedural.light import NOMINAL, Change, Condition
from core.procedural.line import GOOD, MATERIALS, ProceduralLine, Sample

__all__ = [
    "DEFECTS",
    "GOOD",
    "MATERIALS",
    "NOMINAL",
    "Change",
    "Condition",
    "ProceduralLine",
    "Sample",
    "write_dataset",
]
