"""A trained model -> an equal, faster one.

`fuse` is for inference: the numbers are the same up to rounding, and the model cannot be trained any more.

- Batch norms are folded into the convolutions before them.
- A context module adds up what its branches give instead of concatenating it; deformable branches are
  sampled, multiplied, rectified and mixed a block of pixels at a time: no map as wide as a branch exists.
- A linear reference at full resolution becomes one 5×5 convolution (`CollapsedReference`); those whose pixels
  are unshuffled become strided convolutions of the picture (`StridedReference`).
- An attention at full resolution is computed in stripes, its feature enlarged in them too
  (`StripedAttention`).
- A Swin stage takes a few windows at a time through a whole block, without work on padding (`SwinStage`).
- Linear layers are computed at the rate of convolutions (`decoupe.layers.linear`).
- What sees the picture itself does so in full precision (`PictureConv2d`).
- Maps lie channels last.

On a CPU they save time and memory. On CUDA and while a compiler or an exporter traces them, modules that
work in blocks compute whole maps as the plain ones do.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Any, NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from decoupe.backbones.swin import Swin, SwinBlock, shifted_regions, to_windows
from decoupe.layers.blocks import ASPP, resize, without_autocast
from decoupe.layers.deform import DeformConv2d, Geometry, columns, deform_conv2d, kernel_matrix, table_of
from decoupe.layers.linear import linear
from decoupe.models.birefnet import BiRefNet, InwardReference
from decoupe.models.inspyrenet import InSPyReNet, ScaleInvariantAttention, joined, twice

Model = TypeVar("Model", bound=nn.Module)

CHUNK = 4 * 2**20
"""Bytes of the widest tensor of a chunk of windows: it stays in the cache."""

STRIPE = 12 * 2**20
"""Bytes of a stripe of a map at full resolution."""

CHANNELS = 3
"""Colour channels of a picture."""

LEAST_TOKENS = 1024
"""Least tokens of a chunk, however wide: a product of fewer rows spends its time on reading weights."""


def fuse(model: Model) -> Model:
    """Make a model faster, in place; one that is fused already stays as it is.

    Args:
        model: changed; pass ``copy.deepcopy(model)`` to keep it. It cannot be trained or saved any more, nor
            cast to half precision by ``model.half()``: by autocast, and `lower`.

    Returns:
        The model, in evaluation mode.
    """
    if any(isinstance(module, FUSED) for module in model.modules()):
        return model
    fold_(model.eval())
    if isinstance(model, BiRefNet):
        collapse_tail(model)
        stride_references(model)
        model.classifier, model.decoder.side_heads = None, nn.ModuleList()  # of training alone
    for module in list(model.modules()):
        for name, child in module.named_children():
            if (faster := FASTER.get(type(child))) is not None:
                setattr(module, name, faster(child))
            elif type(child) is nn.Conv2d and child.in_channels == CHANNELS:
                setattr(module, name, PictureConv2d(child))
        if isinstance(module, Swin):
            module.stages = nn.ModuleList(SwinStage(cast(nn.Sequential, stage)) for stage in module.stages)
        elif isinstance(module, InSPyReNet):
            cast(StripedAttention, module.stages[-1]).last = True
    return model.requires_grad_(False).to(memory_format=torch.channels_last)


def fold_(model: Model) -> Model:
    """``model`` with its batch norms folded, in place, into the convolutions that they follow in a sequence.

    In evaluation mode a batch norm is a fixed scale and shift of each channel, so the numbers are the same up
    to rounding. It cannot be trained any more as it could.
    """
    for sequence in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        children = list(sequence.named_children())
        for (name, layer), (norm_name, norm) in pairwise(children):
            if not isinstance(norm, nn.BatchNorm2d):
                continue
            if isinstance(layer, nn.Conv2d):
                setattr(sequence, name, folded(layer, norm))
            elif isinstance(layer, DeformConv2d):
                layer.conv = folded(layer.conv, norm)
            else:
                continue
            setattr(sequence, norm_name, nn.Identity())
    # A model that has such blocks has imported them; for the rest it would take a second and 0.2 GB.
    resnet = sys.modules.get("torchvision.models.resnet")
    blocks = [module for module in model.modules() if resnet and isinstance(module, resnet.Bottleneck)]
    for block in blocks:
        for name, norm_name in (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")):
            setattr(block, name, folded(getattr(block, name), getattr(block, norm_name)))
            setattr(block, norm_name, nn.Identity())
    return model


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution for both, computed in float64, so that each of its weights is rounded once."""
    dtype = conv.weight.dtype
    both: nn.Conv2d = fuse_conv_bn_eval(conv.double(), norm.double())
    return both.to(dtype)


def lower(model: Model, dtype: torch.dtype) -> Model:
    """Hold the weights of a fused model's products in a lower precision, in place.

    Computed under autocast it then casts no weights. Norms, sums of residuals, places and what `EXACT` names
    keep their precision.

    Args:
        model: what `fuse` gave.
        dtype: such as ``torch.bfloat16``.

    Returns:
        The model.
    """
    exact = {
        part
        for kind, names in EXACT.items()
        for module in model.modules()
        if isinstance(module, kind)
        for name in names
        for part in module.get_submodule(name).modules()
    }
    products = (
        nn.Conv2d,
        nn.Linear,
        nn.MultiheadAttention,
        Context,
        Branch,
        DeformableBranch,
        nn.ParameterList,
    )
    for module in model.modules():
        if isinstance(module, products) and module not in exact:
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
    return model


def in_blocks(x: Tensor) -> bool:
    """Whether to compute in blocks that stay in the cache: on a CPU, unless a compiler is looking."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def precise(x: Tensor) -> torch.dtype:
    """The precision that sums and places are kept in: float32, or that of ``x`` where it is higher."""
    return torch.promote_types(x.dtype, torch.float32)


class Linear(nn.Linear):
    """`torch.nn.Linear` at the rate of convolutions; it takes over another's parameters."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, plain.bias is not None, device="meta")
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in)`` -> ``(..., out)``."""
        return linear(x, self.weight, self.bias)


class PictureConv2d(nn.Conv2d):
    """A convolution of the picture itself, in full precision whatever the rest is computed in.

    bfloat16 holds eight bits of a number, fewer than tell neighbouring values of a normalised photograph
    apart. There are three channels: it costs hardly anything. It takes over another's parameters.
    """

    def __init__(self, plain: nn.Conv2d) -> None:
        names = "in_channels out_channels kernel_size stride padding dilation groups padding_mode"
        options: dict[str, Any] = {name: getattr(plain, name) for name in names.split()}
        super().__init__(**options, bias=plain.bias is not None, device="meta")
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 3, H, W)`` -> ``(N, out, H', W')`` in full precision."""
        with without_autocast(x.device):
            return super().forward(x.to(self.weight.dtype))


class Context(nn.Module):
    """An `ASPP` that adds up what its branches give instead of concatenating it.

    Its 1×1 convolution of a concatenation is the sum of a 1×1 convolution of each part.

    Args:
        plain: with batch norms folded.
    """

    def __init__(self, plain: ASPP) -> None:
        super().__init__()
        mix = cast(nn.Conv2d, cast(nn.Sequential, plain.fuse[0])[0])
        *mixes, pooled = mix.weight.chunk(len(plain.branches) + 1, dim=1)  # (out, width, 1, 1) each
        branches = cast("list[nn.Sequential]", list(plain.branches))
        self.branches = nn.ModuleList(
            DeformableBranch(branch[0], part) if isinstance(branch[0], DeformConv2d) else Branch(branch, part)
            for branch, part in zip(branches, mixes, strict=True)
        )
        self.pooled = plain.pooled
        self.mix = nn.Parameter(pooled.clone())
        self.bias = mix.bias

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> ``(N, out, H, W)``."""
        total = F.conv2d(self.pooled(x), self.mix, self.bias)  # (N, out, 1, 1)
        if in_blocks(x):
            total = total.to(precise(x)).expand(-1, -1, *x.shape[-2:])
            total = total.contiguous(memory_format=torch.channels_last)
            for branch in cast("Iterable[Branch | DeformableBranch]", self.branches):
                branch.add_to(total, x)
        else:
            for each in self.branches:
                total = total + each(x)
        return F.relu(total, inplace=True)


class Branch(nn.Module):
    """One branch of a `Context`, mixed.

    Args:
        plain: the branch.
        mix: its part ``(out, width, 1, 1)`` of the 1×1 convolution.
    """

    def __init__(self, plain: nn.Module, mix: Tensor) -> None:
        super().__init__()
        self.plain, self.mix = plain, nn.Parameter(mix.clone())

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> ``(N, out, H, W)``."""
        return F.conv2d(self.plain(x), self.mix)

    def add_to(self, total: Tensor, x: Tensor) -> None:
        """Add what the branch gives for ``x`` to ``total`` ``(N, out, H, W)``."""
        total += self(x)


class DeformableBranch(nn.Module):
    """A deformable convolution, its ReLU and its mixing; one convolution predicts offsets and modulation.

    Args:
        plain: with its batch norm folded.
        mix: its part ``(out, width, 1, 1)`` of the 1×1 convolution.
    """

    def __init__(self, plain: DeformConv2d, mix: Tensor) -> None:
        super().__init__()
        self.conv, self.mix = plain.conv, nn.Parameter(mix.clone())
        self.taps, self.padding = plain.modulation.out_channels, plain.padding
        kernel = cast("tuple[int, int]", plain.conv.kernel_size)
        predictors = plain.offset, plain.modulation
        self.predict = nn.Conv2d(plain.offset.in_channels, 3 * self.taps, kernel, padding=plain.padding)
        self.predict.weight = nn.Parameter(torch.cat([each.weight for each in predictors]))
        self.predict.bias = nn.Parameter(torch.cat([cast(Tensor, each.bias) for each in predictors]))

    def fields(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(N, C, H, W)`` -> offset ``(N, 2·taps, H, W)`` and modulation ``(N, taps, H, W)``."""
        fields = self.predict(x).to(precise(x))
        return fields[:, : 2 * self.taps], 2 * fields[:, 2 * self.taps :].sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> ``(N, out, H, W)``."""
        found = deform_conv2d(x, *self.fields(x), self.conv.weight, self.conv.bias, padding=self.padding)
        return F.conv2d(F.relu(found, inplace=True), self.mix)

    def add_to(self, total: Tensor, x: Tensor) -> None:
        """Add what the branch gives for ``x`` to ``total`` ``(N, out, H, W)``, a block at a time."""
        kernel, mix = kernel_matrix(self.conv.weight), self.mix[:, :, 0, 0]
        side = cast("tuple[int, int]", self.conv.kernel_size)
        geometry = Geometry(side, (1, 1), (self.padding, self.padding), (1, 1))
        for image, offset, modulation, sums in zip(x.to(kernel.dtype), *self.fields(x), total, strict=True):
            rows = sums.flatten(1).T  # (H·W, out)
            for block, taps in columns(table_of(image), offset, modulation, geometry):
                hidden = linear(taps, kernel, self.conv.bias).relu_()
                rows[block] += linear(hidden, mix)


class CollapsedReference(nn.Module):
    """An inward reference at full resolution and the 1×1 head over it, as one 5×5 convolution.

    Two 3×3 convolutions without an activation between are one of 5×5, except in the outermost pixels: there
    the second reads zeros beyond the edge, where the first would have given something. The logits of a cell
    of 4×4 pixels are the channels of one strided convolution: processors compute 16 channels as fast as one.

    Args:
        plain: the reference, at stride 1.
        head: ``(1, C, 1, 1)``, its C channels' weights in the head.
    """

    CELL = 4

    def __init__(self, plain: InwardReference, head: Tensor) -> None:
        super().__init__()
        first, second = cast("tuple[nn.Conv2d, nn.Conv2d]", tuple(plain.convs))
        self.first = first
        self.second = nn.Parameter(torch.einsum("oc,cihw->oihw", head[:, :, 0, 0], second.weight))
        self.bias = nn.Parameter(head[:, :, 0, 0] @ cast(Tensor, second.bias))
        whole = F.conv_transpose2d(self.second, first.weight)  # (1, 3, 5, 5)
        slack = self.CELL - 1
        places = [(row, column) for row in range(self.CELL) for column in range(self.CELL)]
        shifted = [F.pad(whole, (x, slack - x, y, slack - y)) for y, x in places]
        self.kernel = nn.Parameter(torch.cat(shifted))  # (16, 3, 8, 8)
        constant = self.bias + self.second.sum(dim=(2, 3)) @ cast(Tensor, first.bias)
        self.constant = nn.Parameter(constant.repeat(len(places)))

    def forward(self, image: Tensor) -> Tensor:
        """``(N, 3, H, W)``, sides multiples of 4 -> its part of the logits ``(N, 1, H, W)``."""
        # Each pixel goes straight into its logit, at hardly any cost: always in full precision.
        with without_autocast(image.device):
            out = self.collapsed(image)
            out[:, :, :1] = self.pair(image[:, :, :3])[:, :, :1]
            out[:, :, -1:] = self.pair(image[:, :, -3:])[:, :, -1:]
            out[..., :1] = self.pair(image[..., :3])[..., :1]
            out[..., -1:] = self.pair(image[..., -3:])[..., -1:]
        return out

    def collapsed(self, image: Tensor) -> Tensor:
        """The 5×5 convolution, right but for the outermost pixels."""
        cells = F.conv2d(image, self.kernel, self.constant, stride=self.CELL, padding=2)
        return F.pixel_shuffle(cells, self.CELL)

    def pair(self, image: Tensor) -> Tensor:
        """The two convolutions, one after the other."""
        return F.conv2d(self.first(image), self.second, self.bias, padding=1)


def collapse_tail(model: BiRefNet) -> None:
    """Replace the reference at full resolution, if there is one, and take its weights out of the head."""
    decoder = model.decoder
    last = decoder.inward[-1] if decoder.inward else None
    if not isinstance(last, InwardReference):
        return
    own = decoder.head.in_channels - cast(nn.Conv2d, last.convs[-1]).out_channels
    weight = decoder.head.weight.detach()
    decoder.inward[-1] = CollapsedReference(last, weight[:, own:])
    head = nn.Conv2d(own, 1, 1)
    head.weight, head.bias = nn.Parameter(weight[:, :own].clone()), decoder.head.bias
    decoder.head = head


class StridedReference(nn.Module):
    """An inward reference of unshuffled pixels, as a strided convolution of the picture itself.

    A 3×3 convolution over cells of r×r pixels, whose pixels lie on channels, is one of 3r×3r pixels that goes
    r pixels at a step: nothing is moved about before it. Its weights keep their name.

    Args:
        plain: the reference.
    """

    def __init__(self, plain: InwardReference) -> None:
        super().__init__()
        first, second = cast("tuple[nn.Conv2d, nn.Conv2d]", tuple(plain.convs))
        side = 3 * plain.stride
        conv = nn.Conv2d(
            CHANNELS, first.out_channels, side, plain.stride, padding=plain.stride, device="meta"
        )
        conv.weight, conv.bias = nn.Parameter(over_pixels(first.weight, plain.stride)), first.bias
        self.convs = nn.Sequential(conv, second)

    def forward(self, image: Tensor) -> Tensor:
        """Image ``(N, 3, H, W)`` -> ``(N, out_channels, H/stride, W/stride)``."""
        out: Tensor = self.convs(image)
        return out


def over_pixels(weight: Tensor, stride: int) -> Tensor:
    """Weights over unshuffled cells ``(out, 3·r², 3, 3)`` -> over the pixels ``(out, 3, 3r, 3r)``."""
    out, side = len(weight), 3 * stride
    cells = weight.reshape(out, CHANNELS, stride, stride, 3, 3)
    return cells.permute(0, 1, 4, 2, 5, 3).reshape(out, CHANNELS, side, side)


def over_cells(weight: Tensor) -> Tensor:
    """What `over_pixels` undoes: ``(out, 3, 3r, 3r)`` -> ``(out, 3·r², 3, 3)``."""
    out, stride = len(weight), weight.shape[-1] // 3
    pixels = weight.reshape(out, CHANNELS, 3, stride, 3, stride)
    return pixels.permute(0, 1, 3, 5, 2, 4).reshape(out, CHANNELS * stride**2, 3, 3)


def stride_references(model: BiRefNet) -> None:
    """Replace every inward reference of unshuffled pixels, in place."""
    for index, reference in enumerate(model.decoder.inward):
        if isinstance(reference, InwardReference) and reference.kind == "unshuffle":
            model.decoder.inward[index] = StridedReference(reference)


class StripedAttention(nn.Module):
    """A `ScaleInvariantAttention` computed in stripes of the map, which stay in the cache.

    Every convolution of a stripe computes as many rows more as those after it see beyond the stripe.

    Args:
        plain: with batch norms folded.

    Attributes:
        last: nobody asks for its feature, and it comes back without channels.
    """

    ASKING, SEEN = 3, 5  # rows: two 3×3 convolutions make the query, one the context, two mix

    def __init__(self, plain: ScaleInvariantAttention) -> None:
        super().__init__()
        self.plain, self.last = plain, False

    def forward(
        self, maps: Sequence[Tensor], saliency: Tensor, detail: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `ScaleInvariantAttention.forward`."""
        if not in_blocks(saliency):
            found: tuple[Tensor, Tensor] = self.plain(maps, saliency, detail)
            return found
        height, width = size = twice(saliency)
        key, value = self.plain.memory(self.contexts(maps, self.plain.regions(size, saliency, detail)))
        bytes_of_row = sum(each.shape[1] * width * each.element_size() for each in maps)
        count = math.ceil(height / max(4 * self.SEEN, STRIPE // bytes_of_row))  # none lower than `SEEN`
        whole: list[Tensor] = []
        for top, bottom in pairwise(height * part // count for part in range(count + 1)):
            seen = slice(max(0, top - self.SEEN), min(bottom + self.SEEN, height))
            stripe = joined([resized_rows(each, size, seen) for each in maps])
            feature = self.refined(stripe, key, value, (top == 0, bottom == height))
            parts = feature[:, : 0 if self.last else None], self.plain.head(feature)
            whole = whole or [
                torch.empty(
                    (*part.shape[:2], height, width), dtype=part.dtype, memory_format=torch.channels_last
                )
                for part in parts
            ]
            for each, part in zip(whole, parts, strict=True):
                each[:, :, top:bottom] = part
        return whole[0], whole[1]

    def refined(self, x: Tensor, key: Tensor, value: Tensor, edges: tuple[bool, bool]) -> Tensor:
        """As `ScaleInvariantAttention.refine`, without `SEEN` rows of ``x`` above and below.

        At ``edges`` of the map, the upper and the lower one, there are none.
        """
        plain = self.plain
        attended = plain.attended(in_rows(plain.query, x, edges), key, value)
        context = in_rows([plain.context], attended, edges)
        upper, lower = (0 if edge else self.ASKING for edge in edges)
        beside = x[:, :, upper : x.shape[2] - lower]
        return in_rows(plain.mix, torch.cat([beside, context], dim=1), edges)

    def contexts(self, maps: Sequence[Tensor], regions: Tensor) -> Tensor:
        """As `ScaleInvariantAttention.contexts`, a few channels at a time: the feature never is whole."""
        height, width = self.plain.pooled_size
        size, channels = regions.shape[-2:], sum(each.shape[1] for each in maps)
        if height * width % channels:
            whole = joined([resize(each, size, align_corners=False) for each in maps])
            return self.plain.contexts(whole, regions)
        with without_autocast(regions.device):
            weights = self.plain.pooled(regions).flatten(2)  # (N, R, cells·C)
            step = max(1, STRIPE // (height * width * weights.element_size()))
            # A million of them are summed, and attention magnifies what is rounded off.
            sums = weights.new_zeros(*weights.shape[:2], channels, dtype=torch.float64)
            first = 0
            for some in chain.from_iterable(torch.split(each, step, dim=1) for each in maps):
                pooled = self.plain.pooled(resize(some, size, align_corners=False))
                cells = pooled.reshape(len(pooled), -1, channels)  # of the view, which these channels fill
                last = first + cells.shape[1]
                sums += weights[:, :, first:last].to(sums.dtype) @ cells.to(sums.dtype)
                first = last
        return sums.to(weights.dtype).transpose(1, 2)[..., None]


def in_rows(blocks: Iterable[nn.Module], x: Tensor, edges: tuple[bool, bool]) -> Tensor:
    """What some 3×3 `ConvNormAct` give for rows of a map, of which each uses up one above and one below.

    At ``edges`` of the map, the upper and the lower one, there are zeros beyond.
    """
    for conv, *others in cast("Iterable[nn.Sequential]", blocks):
        conv = cast(nn.Conv2d, conv)
        x = F.pad(x, (0, 0, *edges)) if any(edges) else x
        x = F.conv2d(x, conv.weight, conv.bias, padding=(0, 1))
        for other in others:
            x = other(x)
    return x


def resized_rows(x: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """Some rows of ``x`` ``(N, C, h, w)`` resized to ``size``, without resizing all of it.

    ``size`` is whole multiples of ``(h, w)``.
    """
    ratio = size[0] // x.shape[2]
    if ratio == 1:
        return x[:, :, rows]
    first = max(rows.start // ratio - 1, 0)  # a row of the coarse map more on either side
    some = x[:, :, first : -(-rows.stop // ratio) + 1]
    enlarged = resize(some, (some.shape[2] * ratio, size[1]), align_corners=False)
    return enlarged[:, :, rows.start - first * ratio : rows.stop - first * ratio]


class Chunk(NamedTuple):
    """Some windows of a map of H·W cells, L cells each.

    Attributes:
        windows: how many.
        cells: which cells of the map they hold, window by window; padding is left out.
        slots: where those stand among the windows·L; None where nothing is padded.
        apart: −100 between cells that do not see each other ``(windows, 1, L, L)``; None where all do.
    """

    windows: int
    cells: Tensor
    slots: Tensor | None
    apart: Tensor | None


class SwinStage(nn.Module):
    """The blocks of a Swin stage, a few windows at a time through each.

    A token belongs to one window, so a block is computed window by window: gathered, through attention and
    perceptron, and put back, while everything is in the cache. Windows at the border, which are padded or
    hold a seam of the cyclic shift, come by themselves. A padded token is never projected: its query, key
    and value are the projection's bias.

    Args:
        plain: the blocks.
    """

    def __init__(self, plain: Iterable[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(plain)
        self.biases = nn.ParameterList(
            nn.Parameter(block.attention.bias_table[block.attention.index].permute(2, 0, 1)[None].clone())
            for block in cast("Iterable[SwinBlock]", self.blocks)
        )  # (1, heads, L, L) each

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C)`` -> map ``(B, H, W, C)``."""
        if not in_blocks(x):
            for block in self.blocks:
                x = block(x)
            return x
        B, H, W, C = x.shape
        rows = x.reshape(B, H * W, C).to(precise(x), copy=True)  # sums stay precise, whatever multiplies
        chunks: dict[int, list[Chunk]] = {}
        for block, bias in zip(cast("Iterable[SwinBlock]", self.blocks), self.biases, strict=True):
            if block.shift not in chunks:
                chunks[block.shift] = list(windows(H, W, block, C))
            for image in rows:
                for chunk in chunks[block.shift]:
                    step(block, bias, image, chunk)
        return rows.view(B, H, W, C).to(x.dtype)


def step(block: SwinBlock, bias: Tensor, rows: Tensor, chunk: Chunk) -> None:
    """One block for some windows of a map ``(H·W, C)``, in place."""
    attention, (grow, _, shrink) = block.attention, cast("tuple[nn.Linear, nn.Module, nn.Linear]", block.mlp)
    x = rows.index_select(0, chunk.cells)  # (T, C)
    y = linear(block.norm1(x), attention.qkv.weight, attention.qkv.bias)  # (T, 3C)
    length, channels = bias.shape[-1], x.shape[1]
    if chunk.slots is not None:
        whole = attention.qkv.bias.to(y.dtype).repeat(chunk.windows * length, 1)
        y = whole.index_copy_(0, chunk.slots, y)
    heads = (chunk.windows, length, 3, attention.heads, channels // attention.heads)
    q, k, v = y.view(heads).permute(2, 0, 3, 1, 4)  # (windows, heads, L, C/heads) each
    mask = bias if chunk.apart is None else bias + chunk.apart
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype))
    y = y.transpose(1, 2).reshape(-1, channels)  # (windows·L, C)
    if chunk.slots is not None:
        y = y.index_select(0, chunk.slots)
    x += linear(y, attention.proj.weight, attention.proj.bias)
    y = F.gelu(linear(block.norm2(x), grow.weight, grow.bias))  # (T, 4C)
    x += linear(y, shrink.weight, shrink.bias)
    rows.index_copy_(0, chunk.cells, x)


def windows(height: int, width: int, block: SwinBlock, channels: int) -> Iterator[Chunk]:
    """The windows of a map, those that are whole and undivided first."""
    side, shift = block.window, block.shift
    rows, columns = height + -height % side, width + -width % side
    cells = torch.full((rows, columns), -1)
    cells[:height, :width] = torch.arange(height * width).view(height, width)
    regions = shifted_regions(rows, columns, side, shift, cells.device) if shift else torch.zeros_like(cells)
    cells = cells.roll((-shift, -shift), dims=(0, 1))
    cells, regions = (to_windows(each[None, :, :, None], side)[..., 0] for each in (cells, regions))
    divided = (regions != regions[:, :1]).any(dim=1)
    border = divided | (cells < 0).any(dim=1)
    together = max(1, max(LEAST_TOKENS, CHUNK // (16 * channels)) // side**2)
    for start in range(0, len(whole := cells[~border]), together):
        part = whole[start : start + together]
        yield Chunk(len(part), part.flatten(), None, None)
    cells, regions = cells[border], regions[border]
    for start in range(0, len(cells), together):
        part, labels = cells[start : start + together], regions[start : start + together]
        apart = (labels[:, :, None] != labels[:, None, :])[:, None] * -100.0
        slots = (part.flatten() >= 0).nonzero()[:, 0]
        yield Chunk(len(part), part.flatten()[slots], slots, apart if shift else None)


FASTER: dict[type[nn.Module], Callable[..., nn.Module]] = {
    ASPP: Context,
    nn.Linear: Linear,
    ScaleInvariantAttention: StripedAttention,
}
"""Modules that are replaced wherever they stand, by what."""

FUSED = Context, Linear, StripedAttention, SwinStage, CollapsedReference, StridedReference

EXACT: dict[type[nn.Module], tuple[str, ...]] = {
    # Sums over a whole map enter here.
    ScaleInvariantAttention: ("key", "value"),
    CollapsedReference: ("",),
    PictureConv2d: ("",),
}
"""Parts that keep their precision: submodules by the class that holds them, \"\" for all of it."""
