"""What every matte model keeps, whatever its family: subclass `MatteModelContract`, name the models."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from decoupe.models.fuse import fold_


def picture(batch: int, height: int, width: int, *, seed: int = 0) -> Tensor:
    """Normalised noise ``(N, 3, H, W)``."""
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def with_statistics(model: nn.Module) -> nn.Module:
    """The model in evaluation mode: no batch norm an identity, nothing that is at rest as it is drawn."""
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
        elif name.endswith(".gain"):
            tensor.fill_(0.5)  # of InSPyReNet's attention, which adds nothing at first
    return model.eval()


def tensors(out: tuple) -> list[Tensor]:
    """Every tensor of a model's output, in order, those inside its fields too."""
    fields = [field if isinstance(field, tuple) else (field,) for field in out]
    return [tensor for field in fields for tensor in field if tensor is not None]


PICTURES = picture(2, 64, 64)


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

    @pytest.fixture(scope="class")
    @classmethod
    def seen(cls, model: nn.Module) -> list[Tensor]:
        """What it gives for the first of `PICTURES`."""
        with torch.inference_mode():
            return tensors(model(PICTURES[:1]))

    @pytest.fixture(scope="class")
    @classmethod
    def exact(cls, model: nn.Module) -> tuple[nn.Module, list[Tensor]]:
        """The model in float64, and what it gives for `PICTURES`."""
        double = copy.deepcopy(model).double()
        with torch.inference_mode():
            return double, tensors(double(PICTURES.double()))

    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, model: nn.Module) -> tuple[nn.Module, Any]:
        """A copy of the model in training mode, and what it gives for two pictures of 64×96."""
        model = copy.deepcopy(model).train()
        return model, model(picture(2, 64, 96))

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "name" in metafunc.fixturenames:
            metafunc.parametrize("name", self.names, scope="class")

    def test_a_batch_equals_one_by_one(self, exact: tuple[nn.Module, list[Tensor]]) -> None:
        # In float32 the order of sums follows the batch's size, and a random network amplifies its rounding.
        model, together = exact
        with torch.inference_mode():
            apart = zip(*(tensors(model(one[None])) for one in PICTURES.double()), strict=True)
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

    def test_same_picture_same_numbers(self, model: nn.Module, seen: list[Tensor]) -> None:
        with torch.inference_mode():
            assert all(map(torch.equal, seen, tensors(model(PICTURES[:1]))))

    def test_every_parameter_receives_a_gradient(self, trained: tuple[nn.Module, Any]) -> None:
        model, out = trained
        sum(output.square().mean() for output in tensors(out)).backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []

    def test_state_dict_round_trip(self, name: str, model: nn.Module, seen: list[Tensor]) -> None:
        twin = self.build(name)
        twin.load_state_dict(model.state_dict(), strict=True)
        with torch.inference_mode():
            assert all(map(torch.equal, seen, tensors(twin.eval()(PICTURES[:1]))))

    def test_float64_is_the_same_model(
        self, seen: list[Tensor], exact: tuple[nn.Module, list[Tensor]]
    ) -> None:
        for expected, found in zip(exact[1], seen, strict=True):
            assert expected.dtype == torch.float64
            assert (found - expected[:1]).abs().max() < 1e-4 * expected[:1].std()

    def test_bfloat16_is_near(self, model: nn.Module) -> None:
        image = picture(1, 32, 64)  # some processors compute it slowly
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

    sizes: tuple[tuple[int, int], ...] = ((32, 32), (64, 160), (96, 64))

    def test_logits_have_the_pictures_size(self, model: nn.Module) -> None:
        for size in self.sizes:
            with torch.inference_mode():
                out = model(picture(1, *size))
            assert out.logits.shape == (1, 1, *size)
            assert out.logits.isfinite().all()

    def test_nothing_but_logits_in_evaluation(self, seen: list[Tensor]) -> None:
        assert len(seen) == 1

    def test_folded_batch_norms_give_the_same_numbers(self, exact: tuple[nn.Module, list[Tensor]]) -> None:
        model, (expected,) = exact
        folded = fold_(copy.deepcopy(model))
        assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) == 0
        with torch.inference_mode():
            found = folded(PICTURES.double()).logits
        torch.testing.assert_close(found, expected, atol=1e-9 * float(expected.std()), rtol=1e-9)
