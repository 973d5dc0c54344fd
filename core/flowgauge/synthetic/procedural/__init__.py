"""A production line out of nothing but a seed: materials, light, defects with masks, drift. For demos and tests."""

from flowgauge.synthetic.procedural.defects import DEFECTS
from flowgauge.synthetic.procedural.light import NOMINAL, Change, Condition
from flowgauge.synthetic.procedural.line import GOOD, MATERIALS, ProceduralLine, Sample

__all__ = ["DEFECTS", "GOOD", "MATERIALS", "NOMINAL", "Change", "Condition", "ProceduralLine", "Sample"]
