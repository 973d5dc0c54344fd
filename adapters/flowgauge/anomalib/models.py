"""What is used of anomalib. Importing it takes seconds, for the package loads all that it has."""

import warnings

with warnings.catch_warnings():
    # of modules that come along and are not used here
    warnings.filterwarnings("ignore", "Importing from timm.models.layers is deprecated", FutureWarning)
    warnings.filterwarnings("ignore", r"The anomalib\.models\.components\.dinov2 package is deprecated", FutureWarning)
    from anomalib.data import InferenceBatch
    from anomalib.models.components import KCenterGreedy
    from anomalib.models.image.fastflow.anomaly_map import AnomalyMapGenerator as FastflowMap
    from anomalib.models.image.fastflow.loss import FastflowLoss
    from anomalib.models.image.fastflow.torch_model import create_fast_flow_block
    from anomalib.models.image.padim.torch_model import PadimModel
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

__all__ = [
    "FastflowLoss",
    "FastflowMap",
    "InferenceBatch",
    "KCenterGreedy",
    "PadimModel",
    "PatchcoreModel",
    "create_fast_flow_block",
]
