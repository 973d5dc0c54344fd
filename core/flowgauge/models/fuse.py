"""Batch normalisation folded into the convolutions before it: in a frozen network it is one more scale and bias.

That saves a pass over every feature map, some fifty of them in a mobile network.
"""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# largest difference of features, absolute and relative, at which the fused network counts as the same: float32 rounds
# to 1e-5 over fifty layers; larger, and a convolution that something else reads too would go unseen
_TOLERANCE = 1e-3


@torch.no_grad()
def folded(net: nn.Module, image_BCHW: Tensor) -> nn.Module:
    """A copy of `net` that gives the same features without the batch normalisations that read a convolution's output.

    `net` is in eval mode and maps images to a list of tensors; any image (1, C, H, W) that it takes will do to see
    what reads what. `net` itself is given back where the copy's features would differ: where a convolution is read
    by something else too.
    """
    copy = deepcopy(net)
    for conv, norm in _pairs(copy, image_BCHW):
        fused = fuse_conv_bn_eval(conv, norm)
        conv.weight, conv.bias = fused.weight, fused.bias
        # timm's normalisations hold the activation that follows them
        rest = nn.Sequential(*norm.children())
        for name in [name for name, module in copy.named_modules(remove_duplicate=False) if module is norm]:
            copy.set_submodule(name, rest)
    same = [
        torch.allclose(ours, theirs, rtol=_TOLERANCE, atol=_TOLERANCE)
        for ours, theirs in zip(net(image_BCHW), copy(image_BCHW), strict=True)
    ]
    return copy if all(same) else net


def _pairs(net: nn.Module, image_BCHW: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Each convolution and the normalisation that reads its output, as seen while the image passes through."""
    given: list[tuple[nn.Conv2d, Tensor]] = []
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def gives(conv: nn.Conv2d, _: tuple[Tensor], output: Tensor) -> None:
        given.append((conv, output))

    def reads(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        pairs.extend((conv, norm) for conv, output in given if output is inputs[0])

    hooks = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(gives))
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            hooks.append(module.register_forward_pre_hook(reads))
    net(image_BCHW)
    for hook in hooks:
        hook.remove()
    return list(dict.fromkeys(pairs))
