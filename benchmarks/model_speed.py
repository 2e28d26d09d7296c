"""Time and memory of whole networks, by device and precision: normalised images in, logits out.

    python benchmarks/model_speed.py [MODEL ...] [--device cuda] [--size 1024] [--batch 1 4 16]
        [--forms plain fused compiled]

"plain" is the model as it was trained, "fused" what `decoupe.load` computes, "compiled" that with
``compile=True``; the compiling itself is not timed. MODEL is a preset of one of the modules of
decoupe.models; its weights are drawn at random, and the offsets of its deformable convolutions are zero: a
trained model reads its maps in a less orderly way. Reading, resizing and writing pictures is not in it.
"""

from __future__ import annotations

import copy
import itertools
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from decoupe.models import BiRefNet, InSPyReNet, MaskFormer, birefnet, inspyrenet, maskformer
from decoupe.models.compiled import Compiled
from decoupe.models.fuse import fuse, lower
from decoupe.notices import CompileWarning
from decoupe.runtimes.checkpoints import LOWERED
from machine import machine, parser_of, print_table, versions

Compute = Callable[[Tensor], Any]
FORMS = "plain", "fused", "compiled"
PRESETS = {
    name: (family, config)
    for family, presets in (
        (BiRefNet, birefnet.PRESETS),
        (InSPyReNet, inspyrenet.PRESETS),
        (MaskFormer, maskformer.PRESETS),
    )
    for name, config in presets.items()
}


def form_of(form: str, plain: nn.Module, name: str, device: torch.device, dtype: torch.dtype) -> Compute:
    """A model as a form has it."""
    model = copy.deepcopy(plain).to(device)
    if form == "plain":
        return model
    fuse(model)
    if (device.type, str(dtype).removeprefix("torch.")) in LOWERED:
        lower(model, dtype)
    return Compiled(model, name) if form == "compiled" else model


def measure(model: Compute, images: Tensor, dtype: torch.dtype, repeats: int) -> tuple[float, float]:
    """Median seconds of a batch, and the most bytes that PyTorch held on a CUDA device (else 0)."""
    device = images.device
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    enabled = dtype != torch.float32
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=enabled):
        for _ in range(repeats + 2):
            begun = time.perf_counter()
            model(images)
            if cuda:
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[2:]), torch.cuda.max_memory_allocated(device) if cuda else 0


def main() -> None:
    """Print one row per model, precision and batch."""
    parser = parser_of(__doc__)
    parser.add_argument("models", nargs="*", default=["birefnet", "birefnet-lite"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=1024, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16", "float16"])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=["plain", "fused"])
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()

    warnings.simplefilter("ignore", CompileWarning)
    device = torch.device(options.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{machine()}, {where}; {versions('torch', 'torchvision')}; {options.size}×{options.size}\n")
    rows = []
    for name in options.models:
        family, config = PRESETS[name]
        plain = family(config).eval()
        for form, word, batch in itertools.product(options.forms, options.dtypes, options.batch):
            dtype = getattr(torch, word)
            images = torch.randn(batch, 3, options.size, options.size, device=device)
            model = form_of(form, plain, name, device, dtype)
            seconds, peak = measure(model, images, dtype, options.repeats)
            memory = f"{peak / 2**30:.1f}" if peak else "not measured"
            rows.append([f"{name}, {form}, {word}", str(batch), f"{1000 * seconds / batch:.1f}", memory])
            del model
    print_table(["model, form, precision", "batch", "ms per picture", "peak GiB"], rows)


if __name__ == "__main__":
    main()
