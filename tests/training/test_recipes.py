from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from decoupe.errors import ConfigError, InputError
from decoupe.models.birefnet import PRESETS as BIREFNETS
from decoupe.training.augment import Augmentation
from decoupe.training.criteria import BiRefNetCriterion
from decoupe.training.fields import from_yaml
from decoupe.training.recipe import LastEpochs, Optimizer, Recipe, Stage, recipe_from
from decoupe.training.recipes import RECIPES, read_recipe
from decoupe.weights.registry import CATALOGUE


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_read_back_from_its_yaml(name: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(RECIPES[name].yaml(), encoding="utf-8")
    assert read_recipe(str(file)) == RECIPES[name] == read_recipe(name)
    assert recipe_from(from_yaml(file.read_text(encoding="utf-8"), name)) == RECIPES[name]


def test_every_published_recipe_is_here() -> None:
    wanted = {f"birefnet-{task}" for task in ("dis", "cod", "hrsod", "general", "general-2k", "matting")}
    wanted |= {
        f"inspyrenet-{task}{high}"
        for task in ("sod-res2net50", "sod-swin", "dis", "plus-ultra")
        for high in ("", "-hr")
    }
    wanted |= {f"maskformer-{name}-{data}" for name in ("resnet50", "swin-base") for data in ("ade", "coco")}
    assert wanted | {"pocket", "finetune"} <= RECIPES.keys()
    assert all(recipe.about for recipe in RECIPES.values())


def test_published_numbers() -> None:
    """Of the three specs' training sections."""
    dis, general = RECIPES["birefnet-dis"], RECIPES["birefnet-general"]
    assert (dis.epochs, dis.optimizer.learning_rate, dis.last_epochs) == (500, 1e-4, LastEpochs(40))
    assert dis.model.classes == 225
    assert (general.epochs, general.optimizer.learning_rate) == (200, 1e-5)
    assert isinstance(general.criterion, BiRefNetCriterion)
    pixel = general.criterion.pixel
    assert (pixel.bce, pixel.iou, pixel.mae, pixel.ssim) == (30, 0.5, 100, 10)
    assert RECIPES["birefnet-general-2k"].stages == (Stage((1440, 2560)),)
    low, high = RECIPES["inspyrenet-sod-swin"], RECIPES["inspyrenet-sod-swin-hr"]
    assert (low.epochs, low.batch_size, low.stages) == (60, 6, (Stage((384, 384)),))
    assert (high.batch_size, high.stages) == (1, (Stage((1024, 1024)),))
    assert low.optimizer == Optimizer(
        *("adam", 1e-4),
        backbone=0.1,
        weight_decay=0,
        shape="poly",
        floor=1e-7,
        warm_up=12_000,
        warm_up_from=0.1,
        warm_up_limits=True,
    )
    ade = RECIPES["maskformer-swin-large-ade"]
    assert (ade.steps, ade.batch_size, ade.stages) == (160_000, 16, (Stage((640, 640)),))
    decayed = Optimizer(undecayed=("norms", "embeddings"), clip=0.01)
    assert ade.optimizer == dataclasses.replace(
        decayed, learning_rate=6e-5, weight_decay=0.01, shape="poly", warm_up=1500, warm_up_from=1e-6
    )
    coco = RECIPES["maskformer-resnet50-coco"]
    assert (ade.drop_path, coco.drop_path) == (0.3, None)
    assert coco.optimizer == dataclasses.replace(
        decayed, learning_rate=1e-4, backbone=0.1, weight_decay=1e-4, shape="steps", milestones=(2 / 3,)
    )
    assert coco.optimizer.learning_rate_at(369_599, 554_400, 64) == pytest.approx(1e-4)
    assert coco.optimizer.learning_rate_at(369_600, 554_400, 64) == pytest.approx(1e-5)
    assert (RECIPES["maskformer-resnet50-coco"].steps, RECIPES["maskformer-resnet50-coco"].batch_size) == (
        554_400,
        64,
    )


def test_pictures_enter_a_maskformer_as_they_enter_the_released_one() -> None:
    names = {name for name in RECIPES if name in CATALOGUE and name.startswith("maskformer")}
    assert len(names) == 10
    for name in names:
        assert RECIPES[name].preprocessing == CATALOGUE[name].preprocessing, name


def test_every_recipe_varies_its_pictures() -> None:
    """The embedded model's once did not, when the defaults of an augmentation had come to change nothing."""
    for name, recipe in RECIPES.items():
        changes = recipe.augmentation
        assert changes.flip == 0.5, name
        assert changes != type(changes)(flip=0.5), name
    pocket = RECIPES["pocket"].augmentation
    assert isinstance(pocket, Augmentation)
    assert (pocket.area, pocket.empty > 0, pocket.paste > 0) == ((0.3, 1.0), True, True)


def test_settings_change_a_recipe_and_its_length_has_one_unit() -> None:
    changed = read_recipe("birefnet-dis", ["steps=100", "batch_size=8", "augmentation.flip=0"])
    assert (changed.steps, changed.epochs, changed.batch_size) == (100, None, 8)
    assert changed.augmentation.flip == 0
    assert read_recipe("pocket", ["epochs=2"]).steps is None


def test_settings_reach_into_what_a_recipe_leaves_out(tmp_path: Path) -> None:
    file = tmp_path / "short.yaml"
    file.write_text("family: birefnet\nstart: pocket\nsteps: 3\n")
    changed = read_recipe(str(file), ["optimizer.clip=2", "criterion.pixel.mae=4", "lora.rank=4"])
    assert (changed.optimizer.clip, changed.criterion.pixel.mae, changed.lora.rank) == (2, 4, 4)
    assert changed.model is None
    for found in (
        read_recipe(str(file), ["model.classes=5"]),
        read_recipe("finetune", ["model.classes=5"], start="pocket"),
    ):
        assert found.model == dataclasses.replace(BIREFNETS["pocket"], classes=5)
    with pytest.raises(ConfigError, match="unknown setting 'optimzer'; did you mean 'optimizer'"):
        read_recipe(str(file), ["optimzer.clip=2"])


@pytest.mark.parametrize(
    ("name", "settings", "line"),
    [
        ("birefnet-gneral", [], "unknown recipe 'birefnet-gneral'; did you mean 'birefnet-general'"),
        ("pocket", ["batchsize=8"], "pocket: unknown setting 'batchsize'; did you mean 'batch_size'"),
        ("pocket", ["batch_size=many"], "pocket: batch_size is 'many', expected a whole number"),
        ("pocket", ["optimizer.learning_rat=1"], "'learning_rat'; did you mean 'learning_rate'"),
        ("pocket", ["model.backbone=nanno"], "unknown backbone 'nanno'; did you mean 'nano'"),
        ("pocket", ["family=birefnt"], "unknown family 'birefnt'; did you mean 'birefnet'"),
        ("pocket", ["precision=bf16"], "unknown precision 'bf16'; did you mean 'float16'|'bfloat16'"),
        ("pocket", ["stages=[{size: [60, 64]}]"], "multiples of 32"),
        ("pocket", ["stages=[{size: [64, 64], until: 0.5}]"], "the last one 1"),
        ("pocket", ["stages=[]"], "the last one 1"),
        (
            "pocket",
            ["dynamic=[512, 256]"],
            r"dynamic is \[512, 256\], expected the least side, then the largest",
        ),
        ("pocket", ["criterion.gradient_mask=dilate"], "gradient_mask 'dilate'; did you mean 'dilated'"),
        ("pocket", ["batch_size=0"], "batch_size is 0, expected at least 1"),
        ("pocket", ["seed=-1"], "seed is -1, expected at least 0"),
        ("pocket", ["split_seed=-1"], "split_seed is -1, expected at least 0"),
        ("pocket", ["sets[0].repeats=0"], "duts-tr's repeats is 0, expected at least 1"),
        ("pocket", ["sets[0].held_out=-3"], "duts-tr's held_out is -3, expected at least 0"),
        ("pocket", ["steps=null"], "epochs or steps: set one of them"),
        ("pocket", ["ema=1.0"], "ema is 1.0, expected from 0 to below 1"),
        ("pocket", ["model=null"], "needs model and preprocessing; or give start"),
        ("pocket", ["optimizer.clip=-1"], "expected a positive norm"),
        ("pocket", ["optimizer.shape=steps"], "milestones belong to shape 'steps'"),
        ("pocket", ["lora={rank: 4}", "optimizer.backbone=0"], "lora trains the backbone"),
        ("inspyrenet-dis", ["last_epochs={epochs: 2}"], "the pixel losses of a BiRefNet"),
        ("nowhere.yaml", [], "cannot read the recipe nowhere.yaml: No such file"),
    ],
)
def test_recipes_that_cannot_be_are_one_line(name: str, settings: list[str], line: str) -> None:
    with pytest.raises((ConfigError, InputError), match=line):
        read_recipe(name, settings)


def test_parts_of_another_family_are_refused() -> None:
    other = RECIPES["inspyrenet-dis"]
    for name in ("criterion", "augmentation", "model"):
        value = getattr(RECIPES["maskformer-resnet50-ade"], name)
        with pytest.raises(ConfigError, match=f"{name} is MaskFormer|{name} is Segment"):
            dataclasses.replace(other, **{name: value})


def rates(optimizer: Optimizer, steps: list[int], of: int = 1000, batch_size: int = 4) -> list[float]:
    peak = optimizer.learning_rate
    return [optimizer.learning_rate_at(step, of, batch_size) / peak for step in steps]


def test_learning_rates() -> None:
    rise_and_fall = Optimizer(warm_up=100, warm_up_from=0.2, cool_down=0.4)
    assert rates(rise_and_fall, [0, 50, 100, 600, 800, 999]) == pytest.approx([0.2, 0.6, 1, 1, 0.5, 0.0025])
    assert rates(Optimizer(warm_up=100, shape="linear"), [0, 50, 200]) == pytest.approx(
        [0.001, 0.475475, 0.8]
    )
    limited = Optimizer(warm_up=100, warm_up_from=0.1, warm_up_limits=True, shape="linear")
    assert rates(limited, [0, 50, 95, 200]) == pytest.approx([0.1, 0.55, 0.905, 0.8])
    assert rates(Optimizer(shape="linear"), [0, 500, 750]) == pytest.approx([1, 0.5, 0.25])
    assert rates(Optimizer(shape="poly", power=2), [0, 500]) == pytest.approx([1, 0.25])
    assert rates(Optimizer(shape="cosine"), [0, 500, 750]) == pytest.approx([1, 0.5, 0.1464466])
    assert rates(Optimizer(shape="steps", milestones=(0.5, 0.8)), [499, 500, 900]) == pytest.approx(
        [1, 0.1, 0.01]
    )
    assert rates(Optimizer(shape="poly", floor=5e-5), [999]) == pytest.approx([0.5])
    assert rates(Optimizer(at_batch=4), [0], batch_size=16) == pytest.approx([2])


def test_the_last_epochs_weigh_regions() -> None:
    recipe = dataclasses.replace(RECIPES["birefnet-general"], last_epochs=LastEpochs(2))
    pixels = [recipe.criterion_at(epoch, 5).pixel for epoch in range(5)]  # type: ignore[union-attr]
    assert [pixel.bce for pixel in pixels] == [30, 30, 30, 0, 0]
    assert [pixel.iou for pixel in pixels] == [0.5, 0.5, 0.5, 0.25, 0.125]
    assert [pixel.mae for pixel in pixels] == pytest.approx([100, 100, 100, 90, 81])
    assert [pixel.ssim for pixel in pixels] == [10] * 5
    short = RECIPES["birefnet-matting"]
    assert short.criterion_at(0, 1).pixel.ssim == pytest.approx(9)  # type: ignore[union-attr]


def test_a_run_without_last_epochs_keeps_its_criterion() -> None:
    recipe = RECIPES["pocket"]
    assert recipe.criterion_at(7, 8) is recipe.criterion


def test_sizes_follow_the_stages() -> None:
    recipe: Recipe = RECIPES["pocket"]
    assert [recipe.size_at(step, 1000) for step in (0, 619, 620, 999)] == [
        (224, 224),
        (224, 224),
        (352, 352),
        (352, 352),
    ]
