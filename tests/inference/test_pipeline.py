"""Pictures of which many are in hand: read, computed and made use of at the same time."""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from decoupe import InputError, ModelError, Predictor
from decoupe.inference.pictures import Picture, read_image
from decoupe.memory import Footprint
from decoupe.notices import FramesWarning
from decoupe.weights.registry import Preprocessing


class Red:
    """A runtime whose alpha is the red channel, NaN for black pictures; it remembers its batches."""

    name, engine, device, dtype = "red", "hand", "cpu", "float32"
    notes, normalises = (), False
    preprocessing = Preprocessing((16, 16), "keep", (16, 256), 16, (0, 0, 0), (1, 1, 1))

    def __init__(self) -> None:
        self.batches: list[int] = []

    def footprint(self) -> Footprint:
        return Footprint(0, 1)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.batches.append(len(images))
        alpha = images[:, :1].copy()
        alpha[images.max(axis=(1, 2, 3)) == 0] = np.nan
        return alpha


def plain(red: int, size: tuple[int, int] = (16, 16)) -> np.ndarray:
    """A picture of one colour."""
    return np.full((*size, 3), red, np.uint8)


def reds(results: Iterator[Any]) -> list[int]:
    """What shade of red each result was."""
    return [round(float(result.alpha.mean()) * 255) for result in results]


def refilled_array() -> Iterator[Any]:
    pixels = plain(0)
    for red in (10, 20, 30):
        pixels[:] = red
        yield pixels


def refilled_bytes(folder: Path) -> Iterator[Any]:
    for red in (10, 20, 30):
        Image.fromarray(plain(red)).save(folder / "one.bmp")
        buffer = bytearray((folder / "one.bmp").read_bytes())
        yield memoryview(buffer)
        buffer[:] = bytes(len(buffer))


def repainted_image() -> Iterator[Any]:
    image = Image.new("RGB", (16, 16))
    for red in (10, 20, 30):
        image.paste((red,) * 3, (0, 0, 16, 16))
        yield image


def closed_file(folder: Path, opened: Callable[[Path], Any]) -> Iterator[Any]:
    for red in (10, 20, 30):
        Image.fromarray(plain(red)).save(folder / f"{red}.png")
        with opened(folder / f"{red}.png") as file:
            yield file


@pytest.mark.parametrize("budget", [None, 10**12])
@pytest.mark.parametrize(
    "source",
    [
        lambda folder: refilled_array(),
        lambda folder: repainted_image(),
        refilled_bytes,
        lambda folder: closed_file(folder, Image.open),
        lambda folder: closed_file(folder, lambda path: path.open("rb")),
    ],
    ids=["array", "image", "bytes", "closed image", "closed file"],
)
def test_a_picture_is_taken_as_it_is_when_it_is_given(
    source: Callable[[Path], Iterator[Any]],
    budget: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = threading.Event()

    def images() -> Iterator[Any]:
        yield from source(tmp_path)
        given.set()

    def read(image: Any, max_pixels: int) -> Picture:  # as late as it can be
        if threading.current_thread() is not threading.main_thread():
            assert given.wait(20)
        return read_image(image, max_pixels)

    monkeypatch.setattr("decoupe.inference.opened.read_image", read)
    assert reds(Predictor(Red(), memory=budget).map(images())) == [10, 20, 30]


def test_a_file_keeps_its_name_and_tells_what_is_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(plain(10)).save(path)
    (tmp_path / "empty.png").touch()
    with path.open("rb") as file:
        assert next(Predictor(Red()).map([file])).source == str(path)
    (tmp_path / "text.png").write_text("words")
    with (
        path.open("rb") as read,
        (tmp_path / "text.png").open() as text,
        (tmp_path / "empty.png").open("rb") as no,
    ):
        read.read()
        for image, problem in (
            (read, "photo.png has been read to its end"),
            (text, "text.png gives text, expected bytes"),
            (no, "empty.png is empty"),
            (file, "photo.png is closed"),
            (7, "cannot read a picture from int"),
        ):
            with pytest.raises(InputError, match=problem):
                next(Predictor(Red()).map([image]))  # type: ignore[list-item]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_what_comes_before_a_picture_that_fails_is_given(batch_size: int) -> None:
    images = [plain(10 * red) for red in (1, 2, 3, 4, 5, 0, 7, 8)]
    results = Predictor(Red()).map(images, batch_size)
    assert [reds(iter([next(results)])) for _ in range(5)] == [[10], [20], [30], [40], [50]]
    with pytest.raises(InputError, match="the model gave NaN"):
        next(results)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("together", [None, 9, 2, 0])
def test_pictures_that_fail_are_told_in_their_place_and_left_out(
    batch_size: int, together: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they cannot be read, and where the model makes nothing of them; however many memory holds."""
    monkeypatch.setattr(Predictor, "_fit", lambda self, room, pictures: len(pictures) <= (together or 0))
    (tmp_path / "text.png").write_text("words")
    gone, text = tmp_path / "gone.png", tmp_path / "text.png"
    images: list[Any] = [gone, plain(10), 7, plain(20), plain(0), text, b"", plain(30), gone]
    predictor = Predictor(Red(), memory=None if together is None else "8GB")
    told: list[InputError] = []
    results = predictor.map(images, batch_size, on_error=told.append)
    assert [(*reds(iter([matte])), len(told)) for matte in results] == [(10, 1), (20, 2), (30, 5)]
    whys = "does not exist", "from int", "NaN", "not a picture", "empty", "does not exist"
    assert all(why in str(error) for why, error in zip(whys, told, strict=True)), told


def test_what_is_not_about_one_picture_is_raised_though_pictures_are_left_out() -> None:
    class Full(Red):
        def __call__(self, images: np.ndarray) -> np.ndarray:
            if images.max() > 0.9:
                raise ModelError("out of memory")
            return super().__call__(images)

    def images() -> Iterator[np.ndarray]:
        yield plain(10)
        raise InputError("the list ends in the middle")

    told: list[InputError] = []
    results = Predictor(Full()).map([plain(10), plain(250), plain(20)], on_error=told.append)
    assert reds(iter([next(results)])) == [10]
    with pytest.raises(ModelError, match="out of memory"):
        next(results)
    results = Predictor(Red()).map(images(), on_error=told.append)
    assert reds(iter([next(results)])) == [10]
    with pytest.raises(InputError, match="the list ends"):
        next(results)
    assert not told

    def stop(error: InputError) -> None:
        raise error

    with pytest.raises(InputError, match="cannot read a picture from int"):
        list(Predictor(Red()).map([7, plain(10)], on_error=stop))  # type: ignore[list-item]
    with pytest.raises(InputError, match="on_error is 'skip', expected a function"):
        Predictor(Red()).map([plain(10)], on_error="skip")  # type: ignore[arg-type]


def test_what_fails_only_together_is_computed_one_by_one() -> None:
    class Small(Red):
        def __call__(self, images: np.ndarray) -> np.ndarray:
            if len(images) > 1:
                raise ModelError("out of memory")
            return super().__call__(images)

    runtime = Small()
    wide = plain(40, (16, 32))
    assert reds(Predictor(runtime, size="native").map([wide, plain(10), plain(20), plain(30)])) == [
        40,
        10,
        20,
        30,
    ]
    assert runtime.batches == [1] * 4  # the wide one, which came first, once


class Pool(ThreadPoolExecutor):
    """A pool that lets `Blocked` go on when it is waited for at the end."""

    ending = threading.Event()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=cancel_futures)
        if wait:
            self.ending.set()
            super().shutdown()


@pytest.mark.parametrize("interrupted", [True, False])
def test_nothing_new_is_computed_once_nobody_wants_it(
    interrupted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Ctrl-C in the caller's own iterator, or where it breaks out of the loop."""
    Pool.ending.clear()
    monkeypatch.setattr("decoupe.inference.pipeline.ThreadPoolExecutor", Pool)
    begun = threading.Event()

    class Blocked(Red):
        def __call__(self, images: np.ndarray) -> np.ndarray:
            begun.set()
            if interrupted or len(self.batches) > 1:
                assert Pool.ending.wait(20)
            return super().__call__(images)

    def images() -> Iterator[np.ndarray]:
        for red in range(1, 100):
            if interrupted and red == 5:
                assert begun.wait(20)
                raise KeyboardInterrupt
            yield plain(red, (16, 16 * (1 + red % 2)))  # two sizes: a batch is computed in two parts

    runtime = Blocked()
    results = Predictor(runtime, size="native").map(images(), batch_size=2)
    if interrupted:
        with pytest.raises(KeyboardInterrupt):
            next(results)
        assert runtime.batches == [1]
    else:
        assert reds(iter([next(results)])) == [1]
        results.close()  # type: ignore[attr-defined]
        assert len(runtime.batches) <= 3  # the first batch, and what of the second had begun


def test_frames_are_told_where_map_is_called() -> None:
    """Not where a thread of it reads."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = BytesIO()
    frames[0].save(data, "GIF", save_all=True, append_images=frames[1:])
    with pytest.warns(FramesWarning) as told:
        list(Predictor(Red()).map([data.getvalue()]))
    assert told[0].filename == __file__


def test_an_asynchronous_file_is_told_so() -> None:
    class Upload:
        async def read(self) -> bytes:
            return b""

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a coroutine that was never awaited
        with pytest.raises(InputError, match="an asynchronous file: give the bytes"):
            list(Predictor(Red()).map([Upload()]))  # type: ignore[list-item]
        gc.collect()
