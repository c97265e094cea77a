"""One BYOL update in plain PyTorch, without byol_jax, for comparison in `bench.py`.

It has a ResNet v1 with the heads and the loss of BYOL App. A and Eq. 2, LARS with momentum, and
Eq. 1. Views are uint8 and are normalised without any augmentation. It uses channels_last, autocast
for bfloat16, fused multi-tensor updates, and torch.compile if that works.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

_BLOCKS = {"18": (2, 2, 2, 2), "50": (3, 4, 6, 3)}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Block(nn.Module):
    """A basic or bottleneck block."""

    def __init__(self, inputs: int, outputs: int, stride: int, bottleneck: bool, project: bool):
        super().__init__()
        inner = outputs // 4 if bottleneck else outputs
        plan = (
            ((inner, 1, 1), (inner, 3, stride), (outputs, 1, 1))
            if bottleneck
            else ((outputs, 3, stride), (outputs, 3, 1))
        )
        layers: list[nn.Module] = []
        channels = inputs
        for size, kernel, step in plan:
            layers += [
                nn.Conv2d(channels, size, kernel, step, kernel // 2, bias=False),
                nn.BatchNorm2d(size),
                nn.ReLU(inplace=True),
            ]
            channels = size
        self.layers = nn.Sequential(*layers[:-1])
        self.shortcut: nn.Module = nn.Identity()
        if project:
            convolution = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(outputs))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.layers(inputs) + self.shortcut(inputs))


def _encoder(depth: str, small_stem: bool) -> tuple[nn.Sequential, int]:
    bottleneck = depth != "18"
    kernel, stride = (3, 1) if small_stem else (7, 2)
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
    ]
    if not small_stem:
        layers.append(nn.MaxPool2d(3, 2, 1))
    channels = 64
    for group, blocks in enumerate(_BLOCKS[depth]):
        outputs = (64 << group) * (4 if bottleneck else 1)
        for block in range(blocks):
            step = 2 if group and not block else 1
            layers.append(_Block(channels, outputs, step, bottleneck, project=not block))
            channels = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers), channels


def _head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, outputs, bias=False),
    )


@torch.no_grad()
def _lars(
    parameters: list[nn.Parameter], momenta: list[torch.Tensor], rate: float, decay: float
) -> None:
    """LARS; vectors have neither trust ratio nor weight decay (BYOL App. A)."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    matrices = [i for i, p in enumerate(parameters) if p.ndim > 1]
    weights = [parameters[i] for i in matrices]
    adapted = [gradients[i] for i in matrices]
    torch._foreach_add_(adapted, weights, alpha=decay)
    norms = zip(torch._foreach_norm(weights), torch._foreach_norm(adapted), strict=True)
    ratios = [1e-3 * w / (g + 1e-12) for w, g in norms]
    torch._foreach_mul_(adapted, ratios)
    torch._foreach_mul_(momenta, 0.9)
    torch._foreach_add_(momenta, gradients)
    torch._foreach_add_(parameters, momenta, alpha=-rate)


def step_runner(
    depth: str,
    views: np.ndarray,
    *,
    small_stem: bool,
    hidden_size: int,
    output_size: int,
    bfloat16: bool,
    compiled: bool,
) -> tuple[Callable[[], None], str]:
    """A function that makes one update from uint8 views `[B, S, S, 3]`, and its description.

    The function waits for its result. The description says whether the step is compiled.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    encoder, features = _encoder(depth, small_stem)
    target = nn.Sequential(encoder, _head(features, hidden_size, output_size))
    online = nn.Sequential(copy.deepcopy(target), _head(output_size, hidden_size, output_size))
    for network in (online, target):
        network.to(device, memory_format=torch.channels_last)
    target.requires_grad_(False)
    parameters = list(online.parameters())
    momenta = [torch.zeros_like(p) for p in parameters]
    shape = (1, 3, 1, 1)
    mean = torch.tensor(_MEAN, device=device).view(shape)
    std = torch.tensor(_STD, device=device).view(shape)
    online_weights = list(online[0].parameters())
    target_weights = list(target.parameters())

    def loss_of(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            predictions = [online(view) for view in (first, second)]
            with torch.no_grad():
                projections = [target(view) for view in (second, first)]
        return sum(
            (2 - 2 * functional.cosine_similarity(p.float(), z.float(), dim=1)).mean()
            for p, z in zip(predictions, projections, strict=True)
        )

    forward = torch.compile(loss_of) if compiled else loss_of
    pixels = torch.from_numpy(views)

    def run() -> None:
        prepared = []
        for _ in range(2):
            moved = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 255
            prepared.append(((moved - mean) / std).contiguous(memory_format=torch.channels_last))
        for parameter in parameters:
            parameter.grad = None
        forward(*prepared).backward()
        _lars(parameters, momenta, 0.2, 1.5e-6)
        with torch.no_grad():
            torch._foreach_lerp_(target_weights, online_weights, 1 - 0.99)
        if device.type == "cuda":
            torch.cuda.synchronize()

    words = f"torch {torch.__version__.partition('+')[0]}"
    if compiled:
        try:
            run()
            return run, f"{words} compiled"
        except Exception as error:  # torch.compile can fail in many ways on a given machine
            print(f"torch.compile does not work here: {' '.join(str(error).split())[:160]}")
            forward = loss_of
    return run, words
