"""What every matte model keeps, whatever its family: subclass `MatteModelContract`, name the models."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from decoupe.models.fuse import fold_


def picture(batch: int, height: int, width: int, *, seed: int = 0) -> Tensor:
    """Normalised noise ``(N, 3, H, W)``."""
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def with_statistics(model: nn.Module) -> nn.Module:
    """The model in evaluation mode, no batch norm an identity, no deformable convolution at rest."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_mean"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 - 0.25)
        elif name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.5)
        elif name.endswith(("bn3.weight", "expand.1.weight")):
            tensor.mul_(0.3)  # the last of a block of ResNet or Res2Net: at 1 random maps grow a thousandfold
        elif ".offset." in name or ".modulation." in name:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return model.eval()


def tensors(out: tuple) -> list[Tensor]:
    """Every tensor of a model's output, in order, those inside its fields too."""
    fields = [field if isinstance(field, tuple) else (field,) for field in out]
    return [tensor for field in fields for tensor in field if tensor is not None]


class ModelContract:
    """Tests of any model that takes pictures ``(N, 3, H, W)`` and gives a NamedTuple.

    ``build(name)`` gives a fresh model of one of ``names`` with random weights.
    """

    names: tuple[str, ...] = ()

    @classmethod
    def build(cls, name: str) -> nn.Module:
        raise AssertionError("a contract names its models")

    @classmethod
    def compiled(cls) -> nn.Module:
        """The model that is compiled, which costs by the part."""
        return cls.build(cls.names[0])

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, name: str) -> nn.Module:
        torch.manual_seed(0)
        return with_statistics(cls.build(name))

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "name" in metafunc.fixturenames:
            metafunc.parametrize("name", self.names, scope="class")

    def test_a_batch_equals_one_by_one(self, model: nn.Module) -> None:
        # In float32 the order of sums follows the batch's size, and a random network amplifies its rounding.
        model, batch = copy.deepcopy(model).double(), picture(3, 64, 96).double()
        with torch.inference_mode():
            together = tensors(model(batch))
            apart = zip(*(tensors(model(one[None])) for one in batch), strict=True)
        for whole, parts in zip(together, apart, strict=True):
            alone = torch.cat(parts)
            torch.testing.assert_close(whole, alone, atol=1e-9 * float(alone.std()), rtol=1e-9)

    def test_compiled_gives_the_same_numbers(self) -> None:
        """One graph without a break; its backend runs it as it is, without compiling for tens of seconds."""
        torch.manual_seed(0)
        model = with_statistics(self.compiled())
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        with torch.inference_mode():
            pairs = zip(*(tensors(m(picture(1, 64, 96))) for m in (model, compiled)), strict=True)
        for expected, found in pairs:
            assert (found - expected).abs().max() < 1e-4 * expected.std()

    def test_same_picture_same_numbers(self, model: nn.Module) -> None:
        with torch.inference_mode():
            first, second = (tensors(model(picture(1, 64, 64))) for _ in range(2))
        assert all(map(torch.equal, first, second))

    def test_every_parameter_receives_a_gradient(self, name: str) -> None:
        torch.manual_seed(0)
        model = with_statistics(self.build(name)).train()
        sum(output.square().mean() for output in tensors(model(picture(2, 64, 96)))).backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []

    def test_state_dict_round_trip(self, name: str, model: nn.Module) -> None:
        twin = self.build(name)
        twin.load_state_dict(model.state_dict(), strict=True)
        with torch.inference_mode():
            expected, found = (tensors(m(picture(1, 64, 64))) for m in (model, twin.eval()))
        assert all(map(torch.equal, expected, found))

    def test_float64_is_the_same_model(self, name: str, model: nn.Module) -> None:
        twin = self.build(name)
        twin.load_state_dict(model.state_dict())
        with torch.inference_mode():
            exact = tensors(twin.double().eval()(picture(1, 64, 96).double()))
            for expected, found in zip(exact, tensors(model(picture(1, 64, 96))), strict=True):
                assert expected.dtype == torch.float64
                assert (found - expected).abs().max() < 1e-4 * expected.std()

    def test_bfloat16_is_near(self, model: nn.Module) -> None:
        image = picture(1, 64, 96)
        with torch.inference_mode():
            exact = tensors(model(image))
            with torch.autocast("cpu", torch.bfloat16):
                rough = tensors(model(image))
        for expected, found in zip(exact, rough, strict=True):
            assert (found.float() - expected).abs().mean() < 0.05 * expected.abs().mean()


class MatteModelContract(ModelContract):
    """Tests of a model that turns pictures into logits.

    ``sizes``, ``(height, width)`` each, are those of pictures that all of ``names`` take.
    """

    sizes: tuple[tuple[int, int], ...] = ((32, 32), (64, 160), (224, 96))

    def test_logits_have_the_pictures_size(self, model: nn.Module) -> None:
        for size in self.sizes:
            with torch.inference_mode():
                out = model(picture(1, *size))
            assert out.logits.shape == (1, 1, *size)
            assert out.logits.isfinite().all()

    def test_nothing_but_logits_in_evaluation(self, model: nn.Module) -> None:
        with torch.inference_mode():
            assert len(tensors(model(picture(1, 64, 64)))) == 1

    def test_folded_batch_norms_give_the_same_numbers(self, name: str) -> None:
        model = with_statistics(self.build(name)).double()
        folded = fold_(copy.deepcopy(model))
        assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) == 0
        with torch.inference_mode():
            expected, found = (m(picture(2, 64, 64).double()).logits for m in (model, folded))
        torch.testing.assert_close(found, expected, atol=1e-9 * float(expected.std()), rtol=1e-9)
