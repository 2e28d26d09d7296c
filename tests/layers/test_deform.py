import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d as torchvision_deform_conv2d

from decoupe.errors import ConfigError, InputError
from decoupe.layers.deform import DeformConv2d, deform_conv2d

METHODS = ("rows", "torchvision", "gather")


def draw(
    batch=1,
    channels=3,
    size=(6, 5),
    out=4,
    kernel=(3, 3),
    stride=(1, 1),
    padding=(1, 1),
    dilation=(1, 1),
    reach=2.0,
    dtype=torch.float64,
    seed=0,
) -> tuple[list[Tensor], dict[str, tuple[int, int]]]:
    """Map, offset, modulation, weight, bias of a call, and its geometry; offsets of ``reach`` pixels."""
    generator = torch.Generator().manual_seed(seed)
    height, width = (
        (side + 2 * p - d * (k - 1) - 1) // s + 1
        for side, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    )
    taps = kernel[0] * kernel[1]
    shapes = [
        (batch, channels, *size),
        (batch, 2 * taps, height, width),
        (batch, taps, height, width),
        (out, channels, *kernel),
        (out,),
    ]
    tensors = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    tensors[1] *= reach
    return tensors, {"stride": stride, "padding": padding, "dilation": dilation}


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def calls(draw_from: st.DrawFn):
    kernel, dilation = draw_from(pairs(1, 4)), draw_from(pairs(1, 3))
    window = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    return draw(
        batch=draw_from(st.integers(0, 2)),
        channels=draw_from(st.integers(1, 4)),
        size=tuple(side + draw_from(st.integers(0, 8)) for side in window),
        out=draw_from(st.integers(1, 4)),
        kernel=kernel,
        stride=draw_from(pairs(1, 3)),
        padding=draw_from(pairs(0, 3)),
        dilation=dilation,
        reach=draw_from(st.sampled_from((0.0, 0.7, 3.0, 50.0))),
        seed=draw_from(st.integers(0, 2**31)),
    )


@pytest.mark.parametrize("method", ["rows", "gather"])
@settings(max_examples=60, deadline=None)
@given(call=calls(), working_memory=st.sampled_from((1, 700, 2**20)))
def test_equals_torchvision(method, call, working_memory):
    (x, offset, modulation, weight, bias), geometry = call
    expected = torchvision_deform_conv2d(x, offset, weight, bias, mask=modulation, **geometry)

    out = deform_conv2d(
        x, offset, modulation, weight, bias, **geometry, method=method, working_memory=working_memory
    )

    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_in_all_tensors(method):
    tensors, geometry = draw(
        size=(3, 4), channels=2, out=2, kernel=(2, 3), stride=(2, 1), padding=(1, 2), dilation=(1, 2)
    )
    inputs = [tensor.requires_grad_() for tensor in tensors]

    def call(*tensors: Tensor) -> Tensor:
        return deform_conv2d(*tensors, **geometry, method=method, working_memory=500)

    assert torch.autograd.gradcheck(call, inputs)


def test_gradients_equal_torchvision_over_many_blocks_and_pictures():
    tensors, geometry = draw(batch=3, size=(11, 9), channels=5)
    gradients = []
    for method in ("rows", "torchvision"):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        leaves[1] = leaves[1].detach().mT.contiguous().mT.requires_grad_()  # a layout no convolution gives
        deform_conv2d(*leaves, **geometry, method=method, working_memory=2000).square().sum().backward()
        gradients.append([leaf.grad for leaf in leaves])

    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_zero_offsets_and_full_modulation_are_an_ordinary_convolution(method):
    (x, offset, modulation, weight, bias), geometry = draw(batch=2)

    out = deform_conv2d(x, offset * 0, torch.ones_like(modulation), weight, bias, **geometry, method=method)

    torch.testing.assert_close(out, F.conv2d(x, weight, bias, padding=1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("far", [1e4, -1e4, 1e30, float("inf"), float("-inf")])
def test_places_far_outside_count_nothing(method, far):
    (x, offset, modulation, weight, bias), geometry = draw(dtype=torch.float32)
    leaves = [x.requires_grad_(), torch.full_like(offset, far).requires_grad_(), modulation.requires_grad_()]

    out = deform_conv2d(*leaves, weight, bias, **geometry, method=method)
    if method != "torchvision":  # its own backward divides by what is no number there
        out.sum().backward()
        assert all(leaf.grad.isfinite().all() for leaf in leaves)

    torch.testing.assert_close(out, bias[:, None, None].expand_as(out))


def test_an_offset_that_is_no_number_stays_in_its_own_pixel():
    (x, offset, modulation, weight, bias), geometry = draw()
    offset[0, 0, 2, 3] = float("nan")

    out = deform_conv2d(x, offset, modulation, weight, bias, **geometry, method="rows")

    bad = out.isnan().any(dim=1)[0]
    assert bad.nonzero().tolist() == [[2, 3]]


@pytest.mark.parametrize("method", METHODS)
def test_batch_equals_one_by_one(method):
    (x, offset, modulation, weight, bias), geometry = draw(batch=3, dtype=torch.float32)
    together = deform_conv2d(x, offset, modulation, weight, bias, **geometry, method=method)

    apart = [
        deform_conv2d(
            *(t[n : n + 1] for t in (x, offset, modulation)), weight, bias, **geometry, method=method
        )
        for n in range(3)
    ]

    torch.testing.assert_close(together, torch.cat(apart), rtol=1e-6, atol=1e-6)


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """Records the bytes of the largest storage that an operator makes."""

    bytes = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("training", [False, True])
def test_working_memory_is_bounded(training):
    (x, offset, modulation, weight, _), geometry = draw(
        channels=16, size=(32, 32), out=4, kernel=(5, 5), padding=(2, 2), dtype=torch.float32
    )
    working_memory = 2**18
    columns = 16 * 25 * 32 * 32 * 4
    leaves = [tensor.requires_grad_(training) for tensor in (x, offset, modulation, weight)]

    with LargestTensor() as largest:
        out = deform_conv2d(*leaves, **geometry, method="rows", working_memory=working_memory)
        if training:
            out.sum().backward()

    assert largest.bytes <= working_memory < columns


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", METHODS)
def test_half_precisions_place_their_taps_exactly(method, dtype):
    """Beyond pixel 256 bfloat16 has no odd numbers: a position computed in it would sample a neighbour."""
    x = torch.arange(400.0).remainder(7).expand(1, 1, 2, 400)
    offset = torch.full((1, 2, 2, 400), 0.0)
    weight, modulation = torch.ones(1, 1, 1, 1), torch.ones(1, 1, 2, 400)

    leaves = [tensor.to(dtype).requires_grad_() for tensor in (x, offset, modulation, weight)]
    out = deform_conv2d(*leaves, method=method)
    out.sum().backward()

    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), x, rtol=0, atol=1e-3)
    assert [leaf.grad.dtype for leaf in leaves] == [dtype] * 4


def test_autocast_gives_its_precision():
    (x, offset, modulation, weight, bias), geometry = draw(dtype=torch.float32)
    expected = deform_conv2d(x, offset, modulation, weight, bias, **geometry)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = deform_conv2d(x, offset, modulation, weight, bias, **geometry)

    assert out.dtype == torch.bfloat16
    assert (out.float() - expected).abs().max() < 0.03 * expected.std()


def test_output_takes_the_layout_of_the_map():
    (x, offset, modulation, weight, bias), geometry = draw(batch=2)
    plain = deform_conv2d(x, offset, modulation, weight, bias, **geometry, method="rows")
    x = x.to(memory_format=torch.channels_last)
    last = deform_conv2d(x, offset, modulation, weight, bias, **geometry, method="rows")

    assert plain.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, plain)


def test_auto_takes_rows_on_a_cpu_and_standard_operators_for_export():
    tensors, geometry = draw()
    exported = torch.export.export(Deformed(geometry), tuple(tensors)).graph_module.code
    assert "grid_sampler" in exported
    assert "autocast" not in exported

    with LargestTensor() as largest:
        deform_conv2d(*tensors, **geometry, working_memory=1)
    columns = tensors[0].shape[1] * tensors[2].numel() * 8
    assert largest.bytes < columns


class Deformed(nn.Module):
    def __init__(self, geometry) -> None:
        super().__init__()
        self.geometry = geometry

    def forward(self, *tensors: Tensor) -> Tensor:
        return deform_conv2d(*tensors, **self.geometry)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", ["auto", *METHODS])
def test_cuda_equals_cpu(method):
    tensors, geometry = draw(batch=2, size=(20, 17))
    expected = deform_conv2d(*tensors, **geometry)
    out = deform_conv2d(*(tensor.cuda() for tensor in tensors), **geometry, method=method)
    torch.testing.assert_close(out.cpu(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": (1, 2, 6, 5)}, "map is (1, 2, 6, 5)"),
        ({"offset": (1, 9, 6, 5)}, "offset is (1, 9, 6, 5), the map and the kernel want (1, 18, 6, 5)"),
        ({"modulation": (1, 9, 5, 5)}, "modulation is (1, 9, 5, 5)"),
        ({"x": (1, 3, 6, 0)}, "smaller than the kernel"),
    ],
)
def test_shapes_that_do_not_belong_together_are_named(change, message):
    (x, offset, modulation, weight, _), geometry = draw()
    named = {"x": x, "offset": offset, "modulation": modulation}
    named |= {name: torch.zeros(shape, dtype=torch.float64) for name, shape in change.items()}

    with pytest.raises(InputError) as caught:
        deform_conv2d(**named, weight=weight, **geometry)

    assert message in str(caught.value)


def test_wrong_options_are_named():
    tensors, geometry = draw()
    with pytest.raises(ConfigError, match="did you mean 'rows'"):
        deform_conv2d(*tensors, **geometry, method="row")
    with pytest.raises(ConfigError, match="working_memory is 0 bytes"):
        deform_conv2d(*tensors, **geometry, working_memory=0)


@pytest.mark.parametrize("kernel_size", [1, 3, 7])
def test_module_begins_as_an_ordinary_convolution(kernel_size):
    torch.manual_seed(0)
    layer = DeformConv2d(3, 4, kernel_size)
    x = torch.randn(2, 3, 9, 8)

    out = layer(x)
    out.square().sum().backward()

    torch.testing.assert_close(out, layer.conv(x), rtol=1e-4, atol=1e-5)
    assert out.shape == (2, 4, 9, 8)
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in layer.parameters())


def test_module_follows_its_predictors():
    torch.manual_seed(0)
    layer = DeformConv2d(2, 3, 3, stride=2, bias=True).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(1, 2, 9, 8, dtype=torch.float64)

    factor = 2 * layer.modulation(x).sigmoid()
    expected = torchvision_deform_conv2d(
        x, layer.offset(x), layer.conv.weight, layer.conv.bias, 2, 1, 1, factor
    )

    torch.testing.assert_close(layer(x), expected, rtol=1e-9, atol=1e-9)


def test_shapes_alone_can_be_computed() -> None:
    layer = DeformConv2d(3, 4, 3).to("meta")
    assert layer(torch.empty(2, 3, 8, 9, device="meta")).shape == (2, 4, 8, 9)
