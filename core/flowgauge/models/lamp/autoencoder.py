"""A convolutional autoencoder without skip connections: what it has not seen should not get through."""

import torch
from torch import Tensor, nn


class Autoencoder(nn.Module):
    """(B, C, H, W) -> the same, through `layers` convolutions down and as many up; every second one halves the sides,
    which must be divisible by 2^(layers / 2).

    Down: convolution, batch normalisation, leaky ReLU; up: upsampling, convolution, batch normalisation, leaky ReLU
    (LAMP s.3.1); a last convolution gives the values back their range. `width` channels at first, twice as many after
    each halving.
    """

    def __init__(self, channels: int, *, layers: int, width: int, kernel: int) -> None:
        super().__init__()
        widths = [width * 2 ** (layer // 2) for layer in range(layers)]
        down: list[nn.Module] = []
        for layer, (inputs, outputs) in enumerate(zip([channels, *widths[:-1]], widths, strict=True)):
            convolution = nn.Conv2d(inputs, outputs, kernel, stride=1 + layer % 2, padding=kernel // 2, bias=False)
            down.append(nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1)))
        up: list[nn.Module] = []
        for layer, (inputs, outputs) in enumerate(zip(widths[::-1], [*widths[-2::-1], width], strict=True)):
            enlarge = [nn.Upsample(scale_factor=2)] if (layers - 1 - layer) % 2 else []
            convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
            up.append(nn.Sequential(*enlarge, convolution, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1)))
        self.encoder, self.decoder = nn.Sequential(*down), nn.Sequential(*up)
        self.leave = nn.Conv2d(width, channels, 1)
        # twice as fast on a CPU
        self.to(memory_format=torch.channels_last)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        reconstruction: Tensor = self.leave(self.decoder(self.encoder(x_BCHW)))
        return reconstruction
