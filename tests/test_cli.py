from __future__ import annotations

import errno
import os
import struct
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from decoupe.cli import app
from decoupe.inference.png import encode_png
from inference.tiny import write_onnx

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright red pixels are the subject."""
    return write_onnx(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(here: Path, model: Path) -> Run:
    """``decoupe cut`` with the tiny model, in this process."""

    def cut(*arguments: str, stdin: bytes | None = None) -> Result:
        return CliRunner().invoke(app, ["cut", "-m", str(model), *arguments], input=stdin)

    return cut


def photograph(path: Path, size: tuple[int, int] = (80, 60)) -> Path:
    """A red square on black, in the middle."""
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[height // 4 : -height // 4, width // 4 : -width // 4, 0] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def lines(result: Result) -> list[str]:
    """What was said on standard error; nothing may go to standard output beside it."""
    assert result.stdout == ""
    return result.stderr.splitlines()


# What is written, and where.


def test_a_photograph_is_cut_beside_itself(run: Run, here: Path) -> None:
    photo = photograph(here / "photo.jpg")
    before = photo.read_bytes()

    result = run("photo.jpg")

    assert result.exit_code == 0
    assert lines(result) == ["decoupe: wrote photo.cut.png (tiny on cpu in float32)"]
    with Image.open("photo.cut.png") as image:
        assert (image.mode, image.size) == ("RGBA", (80, 60))
        alpha = np.asarray(image)[..., 3]
    assert alpha[30, 40] > 200 > 120 > alpha[2, 2]
    assert photo.read_bytes() == before


def test_the_output_can_be_named(run: Run, here: Path) -> None:
    photograph(here / "photo.jpg")
    (here / "out").mkdir()
    assert run("photo.jpg", "-o", "named.webp").exit_code == 0
    assert run("photo.jpg", "-o", "out").exit_code == 0
    assert run("photo.jpg", "-o", "new/").exit_code == 0
    with Image.open("named.webp") as image:
        assert image.mode == "RGBA"
    assert (here / "out" / "photo.png").is_file()
    assert (here / "new" / "photo.png").is_file()
    assert run("photo.jpg", "-o", "newer/photo.png").exit_code == 1  # it may be a slip of the pen


def test_matte_writes_the_mask(run: Run, here: Path) -> None:
    photograph(here / "photo.jpg")
    assert run("photo.jpg", "--matte").exit_code == 0
    with Image.open("photo.matte.png") as image:
        assert image.mode == "L"


def test_over_a_colour_an_image_or_a_blur(run: Run, here: Path) -> None:
    photograph(here / "photo.png")
    Image.new("RGB", (20, 10), (0, 0, 255)).save("blue.png")
    corners = {}
    for over in ("#00ff00", "blue.png", "blur"):
        name = f"{over.strip('#')}.jpg"
        assert run("photo.png", "--over", over, "-o", name).exit_code == 0
        with Image.open(name) as image:
            assert image.mode == "RGB"
            corners[over] = image.getpixel((1, 1))
    assert corners["#00ff00"][1] > 100 > corners["#00ff00"][2]
    assert corners["blue.png"][2] > 100 > corners["blue.png"][1]
    assert max(corners["blur"]) < 100


def test_a_background_of_several_frames_is_told_in_one_line(run: Run, here: Path) -> None:
    photograph(here / "photo.png")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("blue", "red")]
    frames[0].save("anim.gif", save_all=True, append_images=frames[1:])
    said = lines(run("photo.png", "--over", "anim.gif", "-o", "a.png"))
    assert said[0] == "decoupe: anim.gif has several frames: the first is read"
    assert len(said) == 2
    quiet = run("photo.png", "--over", "anim.gif", "-o", "b.png", "-q")
    assert (quiet.exit_code, quiet.stderr) == (0, "")


@pytest.mark.parametrize(("size", "seen"), [("96", "96×96"), ("96x64", "96×64"), ("native", "native")])
def test_size_is_width_by_height(run: Run, here: Path, size: str, seen: str) -> None:
    photograph(here / "photo.jpg")
    result = run("photo.jpg", "--size", size, "-v")
    assert result.exit_code == 0
    assert f"size {seen} (" in result.stderr


def test_a_size_outside_the_range_warns_in_one_line(run: Run, here: Path) -> None:
    photograph(here / "photo.jpg")
    result = run("photo.jpg", "--size", "512")
    assert result.exit_code == 0
    assert [line for line in lines(result) if "known to work at 32 to 256" in line]
    assert run("photo.jpg", "--size", "512", "--overwrite", "-q").stderr == ""


def test_quiet_says_nothing_and_verbose_names_the_model(run: Run, here: Path) -> None:
    photograph(here / "photo.jpg")
    assert lines(run("photo.jpg", "-q")) == []
    said = lines(run("photo.jpg", "-v", "--overwrite"))
    assert "tiny on cpu in float32" in said[0]


def test_several_files_go_into_a_folder(run: Run, here: Path) -> None:
    for name in ("a.jpg", "b.png"):
        photograph(here / name)
    result = run("a.jpg", "b.png", "-o", "out")
    assert result.exit_code == 0
    assert sorted(path.name for path in (here / "out").iterdir()) == ["a.png", "b.png"]
    assert lines(result) == ["decoupe: 2 cut; tiny on cpu in float32"]


# Folders.


def test_a_folder_is_mirrored_and_resumed(run: Run, here: Path) -> None:
    for name in ("in/a.jpg", "in/deep/er/b.png", "in/notes.txt"):
        photograph(here / name) if not name.endswith("txt") else (here / name).write_text("not a picture")

    assert run("in").exit_code == 0
    written = sorted(path.relative_to(here / "in-cut").as_posix() for path in (here / "in-cut").rglob("*.*"))
    assert written == ["a.png", "deep/er/b.png"]

    first = (here / "in-cut" / "a.png").stat().st_mtime_ns
    photograph(here / "in" / "c.jpg")
    result = run("in")
    assert result.exit_code == 0
    assert lines(result) == ["decoupe: 1 cut, 2 there already; tiny on cpu in float32"]
    assert (here / "in-cut" / "a.png").stat().st_mtime_ns == first
    assert lines(run("in")) == ["decoupe: 3 there already: --overwrite does them again"]
    assert lines(run("in", "--overwrite"))[-1].startswith("decoupe: 3 cut;")


def test_a_pattern_is_a_folder_of_which_what_matches_is_cut(run: Run, here: Path) -> None:
    photo = photograph(here / "in" / "b.png").read_bytes()
    for name in ("a.jpg", "deep/c.jpg", "deep/deeper/d.jpg", "e[1].jpg", "notes.jpg.txt"):
        (here / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (here / "in" / name).write_bytes(photo)
    assert run("in/*.jpg", "-o", "flat").exit_code == 0
    assert run("in/**/[cd].jpg", "-o", "deep").exit_code == 0
    assert run("in/e[1].jpg").exit_code == 0  # a file of that name
    made = {str(path.relative_to(here)) for path in here.rglob("*.png")} - {"in/b.png"}
    assert made == {
        "flat/a.png",
        "flat/e[1].png",
        "deep/deep/c.png",
        "deep/deep/deeper/d.png",
        "in/e[1].cut.png",
    }
    (here / "in").rename(here / "shoot [2024]")
    assert run("shoot [2024]/*.jpg", "-o", "named").exit_code == 0
    assert sorted(path.name for path in (here / "named").iterdir()) == ["a.png", "e[1].png"]
    (here / "shoot [2024]").rename(here / "in")
    result = run("in/*.gif", "-o", "none")
    assert (result.exit_code, lines(result)) == (
        1,
        ["decoupe: in/*.gif matches no pictures: check the pattern"],
    )


def test_what_killed_runs_left_is_removed_where_nothing_is_left_to_do(run: Run, here: Path) -> None:
    photograph(here / "in" / "deep" / "a.jpg")
    run("in")
    (here / "in-cut" / "deep" / ".decoupe-0123456789abcdef.part").write_text("half")
    assert lines(run("in")) == ["decoupe: 1 there already: --overwrite does them again"]
    assert [path.name for path in (here / "in-cut" / "deep").iterdir()] == ["a.png"]


def test_an_interrupted_folder_is_taken_up_again(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        photograph(here / "in" / name)
    write = Path.write_bytes

    def interrupted(path: Path, data: bytes) -> int:
        if (here / "in-cut" / "a.png").exists():
            write(path, data[:100])
            raise KeyboardInterrupt
        return write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", interrupted)
        result = run("in", "--workers", "1")
    assert (result.exit_code, lines(result)) == (130, [])
    assert [path.name for path in (here / "in-cut").iterdir()] == ["a.png"]

    (here / "in-cut" / ".decoupe-0123456789abcdef.part").write_text("of a run that was killed")
    result = run("in")
    assert result.exit_code == 0
    assert lines(result) == ["decoupe: 2 cut, 1 there already; tiny on cpu in float32"]
    assert sorted(path.name for path in (here / "in-cut").iterdir()) == ["a.png", "b.png", "c.png"]


def test_several_folders_stay_apart(run: Run, here: Path) -> None:
    photograph(here / "one" / "a.jpg")
    photograph(here / "two" / "a.jpg")
    assert run("one", "two", "-o", "out").exit_code == 0
    assert (here / "out" / "one" / "a.png").is_file()
    assert (here / "out" / "two" / "a.png").is_file()


def test_folders_of_one_name_never_share_an_output(run: Run, here: Path) -> None:
    photograph(here / "x" / "photos" / "a.jpg")
    photograph(here / "y" / "photos" / "a.jpg", (30, 30))
    photograph(here / "y" / "photos" / "b.jpg")
    for done in ("2 cut", "2 there already"):
        result = run("x/photos", "y/photos", "-o", "out")
        assert result.exit_code == 1
        assert "y/photos/a.jpg would overwrite out/photos/a.png, made of x/photos/a.jpg" in lines(result)[0]
        assert done in lines(result)[-1] or len(lines(result)) == 2
        with Image.open(here / "out" / "photos" / "a.png") as image:
            assert image.size == (80, 60)


def test_an_outdated_output_is_kept_and_told(run: Run, here: Path) -> None:
    """It may have been retouched: only --overwrite replaces it."""
    for name in ("a.jpg", "b.jpg"):
        os.utime(photograph(here / "in" / name), (1000, 1000))
    run("in")
    retouched = here / "in-cut" / "a.png"
    retouched.write_text("mine")
    os.utime(here / "in" / "a.jpg", (4e9, 4e9))
    result = run("in")
    assert result.exit_code == 0
    assert lines(result) == [
        "decoupe: 2 there already, 1 of them older than their pictures: --overwrite does them again"
    ]
    assert retouched.read_text() == "mine"
    assert run("in", "--overwrite").exit_code == 0
    assert retouched.read_bytes()[:4] == b"\x89PNG"


def test_what_fails_in_the_model_names_the_picture_among_several(run: Run, here: Path) -> None:
    model = write_onnx(here / "fixed.onnx", None, shape=(1, 3, 32, 48))
    photograph(here / "in" / "photo.jpg")
    result = run("in", "-m", str(model), "--size", "64")
    assert result.exit_code == 1
    assert lines(result)[0].startswith("decoupe: in/photo.jpg: the model takes 48×32 only")


def test_the_cap_holds_for_backgrounds_too(run: Run, here: Path) -> None:
    photograph(here / "photo.jpg")
    photograph(here / "wide.png", (100, 90))
    result = run("photo.jpg", "--over", "wide.png", "--max-pixels", "5000")
    assert result.exit_code == 2
    assert "wide.png is 100×90" in lines(result)[0]


def test_a_folder_with_one_broken_file(run: Run, here: Path) -> None:
    photograph(here / "in" / "a.jpg")
    photograph(here / "in" / "z.jpg")
    (here / "in" / "broken.jpg").write_bytes(b"\xff\xd8\xff and no more")
    result = run("in", "-o", "out")
    assert result.exit_code == 1
    assert sorted(path.name for path in (here / "out").iterdir()) == ["a.png", "z.png"]
    said = lines(result)
    assert "in/broken.jpg" in said[0]
    assert said[1:] == ["decoupe: 2 cut, 1 failed; tiny on cpu in float32"]


def test_a_folder_with_links_that_lead_nowhere(run: Run, here: Path) -> None:
    photograph(here / "in" / "a.jpg")
    (here / "in" / "again").symlink_to(here / "in")
    (here / "in" / "endless.jpg").symlink_to("endless.jpg")
    (here / "in" / "gone.jpg").symlink_to("nowhere.jpg")
    result = run("in")
    assert result.exit_code == 1
    assert [path.name for path in (here / "in-cut").iterdir()] == ["a.png"]
    said = lines(result)
    assert "in/endless.jpg cannot be read (Too many levels of symbolic links)" in said[0]
    assert said[1:] == [
        "decoupe: in/gone.jpg does not exist: check the path",
        "decoupe: 1 cut, 2 failed; tiny on cpu in float32",
    ]


def test_a_file_where_a_folder_of_the_mirror_should_be(run: Run, here: Path) -> None:
    photograph(here / "in" / "deep" / "a.jpg")
    photograph(here / "in" / "b.jpg")
    (here / "in-cut").mkdir()
    (here / "in-cut" / "deep").write_text("mine")
    result = run("in")
    assert result.exit_code == 1
    assert (here / "in-cut" / "b.png").is_file()
    assert (here / "in-cut" / "deep").read_text() == "mine"
    assert "in-cut/deep (File exists): name another with -o" in lines(result)[0]


def test_sixteen_bits_in_sixteen_bits_out(run: Run, here: Path) -> None:
    values = np.linspace(0, 65535, 64 * 48 * 3).astype(np.uint16).reshape(48, 64, 3)
    (here / "wide.png").write_bytes(encode_png(values))
    assert run("wide.png").exit_code == 0
    written = (here / "wide.cut.png").read_bytes()
    assert written[24:26] == bytes([16, 6])  # the header's bit depth and colour type RGBA
    assert run("wide.png", "-o", "wide.tif").exit_code == 0
    assert run("wide.png", "-o", "-").stdout_bytes == written


def test_a_folder_without_pictures(run: Run, here: Path) -> None:
    (here / "empty").mkdir()
    result = run("empty")
    assert (result.exit_code, lines(result)) == (
        1,
        ["decoupe: empty holds no pictures: name another folder, or the files"],
    )


# Inputs and outputs that cannot be used: one line, the right status, nothing overwritten.


def header_of(width: int, height: int) -> bytes:
    """The beginning of a PNG file: signature, header, and where the pixels would follow."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 100) + b"IDAT"


def truncated() -> bytes:
    buffer = BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "JPEG")
    return buffer.getvalue()[:-400]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "photo.png does not exist: check the path"),
        (b"", "photo.png is empty (0 bytes)"),
        (b"hello, I am a text", "photo.png is not a picture that can be read"),
        (b"\0\0\0\x1cftypisom" + bytes(40), "photo.png is a video, not a picture: use decoupe video"),
        (b"\0\0\0\x18ftypcrx " + bytes(40), "photo.png is not a picture that can be read"),  # Canon's CR3
        (b"\0\0\0\x18ftypmif1" + bytes(40), "photo.png is not a picture that can be read"),
        (truncated(), "photo.png is damaged or truncated"),
        (header_of(20000, 20000), "photo.png is 20000×20000, 400,000,000 pixels; the cap is 178,956,970"),
    ],
    ids=["missing", "empty", "text", "video", "raw", "heif", "truncated", "huge"],
)
def test_an_input_that_cannot_be_read(run: Run, here: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (here / "photo.png").write_bytes(content)
    result = run("photo.png", "-o", "out.png")
    assert result.exit_code == 1
    (said,) = lines(result)
    assert said.startswith("decoupe: ")
    assert message in said
    assert not (here / "out.png").exists()


@pytest.mark.parametrize("command", ["cut", "segment"])
def test_no_model_is_opened_for_what_begins_as_no_picture(
    here: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """It may be a download of 900 MB."""
    opened: list[object] = []
    monkeypatch.setattr("decoupe.inference.predictor.open_runtime", lambda *model, **_: opened.append(model))
    model = "birefnet" if command == "cut" else "maskformer-swin-base-coco"
    Path("clip.jpg").write_bytes(b"\0\0\0\x1cftypisom" + bytes(40))
    result = CliRunner().invoke(app, [command, "clip.jpg", "-m", model])
    assert result.exit_code == 1
    assert lines(result) == ["decoupe: clip.jpg is a video, not a picture: use decoupe video"]
    assert opened == []


def test_the_cap_on_pixels_can_be_set(run: Run, here: Path) -> None:
    photograph(here / "photo.jpg")
    refused = run("photo.jpg", "--max-pixels", "4799")
    assert refused.exit_code == 1
    assert "raise the cap (max_pixels=, --max-pixels)" in refused.stderr
    assert run("photo.jpg", "--max-pixels", "4800").exit_code == 0


def test_one_pixel_is_a_picture(run: Run, here: Path) -> None:
    Image.new("RGB", (1, 1), "red").save("dot.png")
    assert run("dot.png").exit_code == 0
    with Image.open("dot.cut.png") as image:
        assert image.size == (1, 1)


@pytest.mark.parametrize("arguments", [[""], ["photo.jpg", "-o", ""]])
def test_an_empty_name_is_not_the_working_folder(run: Run, here: Path, arguments: list[str]) -> None:
    photograph(here / "photo.jpg")
    result = run(*arguments)
    assert result.exit_code == 2
    assert lines(result) == ["decoupe: a path is empty: check the variable that it came from"]
    assert [path.name for path in here.iterdir()] == ["photo.jpg"]


def test_a_name_of_several_lines_is_told_in_one(run: Run, here: Path) -> None:
    (here / "two\nlines\x1b[31m.jpg").write_text("no picture")
    (said,) = lines(run("two\nlines\x1b[31m.jpg"))
    assert said.startswith(r"decoupe: two\nlines\x1b[31m.jpg is not a picture")


def test_what_nobody_foresaw_is_still_one_line(run: Run, here: Path) -> None:
    photograph(here / "photo.jpg")
    result = run(300 * "a")
    assert result.exit_code == 1
    (said,) = lines(result)
    assert said.endswith("File name too long")

    result = run(300 * "a", "photo.jpg")  # the rest is done
    assert result.exit_code == 1
    assert "cannot be read (File name too long)" in lines(result)[0]
    assert (here / "photo.cut.png").is_file()


def test_a_folder_that_cannot_be_listed(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photograph(here / "in" / "a.jpg")
    photograph(here / "in" / "locked" / "b.jpg")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    result = run("in")
    assert result.exit_code == 1
    assert lines(result) == [
        "decoupe: in/locked cannot be listed (Permission denied): check its permissions",
        "decoupe: 1 cut, 1 failed; tiny on cpu in float32",
    ]


def test_an_input_that_is_named_twice_is_cut_once(run: Run, here: Path) -> None:
    photograph(here / "photo.jpg")
    for number, twin in enumerate(("photo.jpg", "./photo.jpg", str(here / "photo.jpg"))):
        result = run("photo.jpg", twin, "-o", f"{number}.png")
        assert result.exit_code == 0
        assert lines(result) == [f"decoupe: wrote {number}.png (tiny on cpu in float32)"]


@pytest.mark.parametrize(
    ("inputs", "made"),
    [
        (("in", "in/"), ["a.png", "b.png"]),
        (("in", "in/**"), ["a.png", "b.png"]),
        (("in/*.jpg", "./in/*.jpg"), ["a.png", "b.png"]),
        (("in", "in/*.jpg"), ["in/a.png", "in/b.png"]),
        (("in/a*", "in/*.jpg"), ["in/a.png", "in/b.png"]),
        (("in/a.jpg", "./in/a.jpg", "in/b.jpg"), ["a.png", "b.png"]),
        (("in/a.jpg", "in/link.jpg", "in/b.jpg"), ["a.png", "b.png", "link.png"]),
        (("near", "in"), ["a.png", "b.png"]),
    ],
)
def test_pictures_that_are_named_in_two_ways_are_cut_once(
    run: Run, here: Path, inputs: tuple[str, ...], made: list[str]
) -> None:
    photo = photograph(here / "in" / "a.jpg")
    photograph(here / "in" / "b.jpg")
    (here / "near").symlink_to("in")
    if "in/link.jpg" in inputs:
        (here / "in" / "link.jpg").symlink_to(photo)
    result = run(*inputs, "-o", "out/")
    assert result.exit_code == 0
    assert lines(result) == [f"decoupe: {len(made)} cut; tiny on cpu in float32"]
    found = [path.relative_to(here / "out").as_posix() for path in (here / "out").rglob("*.png")]
    assert sorted(found) == made
    said = f"decoupe: {len(made)} there already: --overwrite does them again"
    if not any(name.endswith("a.jpg") for name in inputs):
        assert lines(run(*inputs, "-o", "out/")) == [said]


def test_names_that_differ_in_case_only(run: Run, here: Path) -> None:
    photograph(here / "in" / "A.jpg")
    if (here / "in" / "a.jpg").exists():
        pytest.skip("this disk takes them for one")
    photograph(here / "in" / "a.jpg", (30, 30))
    assert run("in").exit_code == 0
    assert sorted(path.name for path in (here / "in-cut").iterdir()) == ["A.png", "a.png"]
    with Image.open("in-cut/a.png") as image:
        assert image.size == (30, 30)
    for name in ("x/photo.jpg", "y/Photo.jpg"):
        photograph(here / name)
    result = run("x/photo.jpg", "y/Photo.jpg", "-o", "out/")
    assert result.exit_code == 1
    assert "y/Photo.jpg would overwrite out/Photo.png, made of x/photo.jpg" in lines(result)[0]


def test_the_output_of_a_name_that_is_nearly_too_long(run: Run, here: Path) -> None:
    name = f"{250 * 'a'}.jpg"
    photograph(here / name)
    result = run(name)
    assert result.exit_code == 1
    (said,) = lines(result)
    assert said.endswith("a.cut.png cannot be written (File name too long): name another output")
    assert run(name, "-o", "a.png").exit_code == 0


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="the folder of open files")
def test_a_picture_that_a_shell_gives_as_a_pipe(run: Run, here: Path) -> None:
    """As ``<(cat photo.jpg)``, beside which nothing can be written."""
    photo = photograph(here / "photo.jpg").read_bytes()
    for more, status in (([], 1), (["-o", "a.png"], 0)):
        reader, writer = os.pipe()
        os.write(writer, photo)
        os.close(writer)
        result = run(f"/dev/fd/{reader}", *more)
        os.close(reader)
        assert result.exit_code == status
        assert more or lines(result)[0].endswith("(No such file or directory): name another output")
    assert (here / "a.png").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names")
def test_a_pipe_that_has_a_name_is_read_once(run: Run, here: Path) -> None:
    photo = photograph(here / "photo.jpg").read_bytes()
    os.mkfifo("pipe")
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(Path("pipe").write_bytes, photo)
        assert run("pipe", "-o", "a.png").exit_code == 0
        assert written.result() == len(photo)
    assert (here / "a.png").exists()


def test_planning_asks_once_where_a_folder_lies(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = photograph(here / "in" / "0.jpg").read_bytes()
    for number in range(1, 50):
        (here / "in" / f"{number}.jpg").write_bytes(photo)
    assert run("in").exit_code == 0
    asked = []
    realpath = os.path.realpath

    def counted(path: str, **options: bool) -> str:
        asked.append(path)
        return realpath(path, **options)

    monkeypatch.setattr(os.path, "realpath", counted)
    assert lines(run("in"))[0].startswith("decoupe: 50 there already")
    assert len(asked) < 50


def test_a_device_is_never_replaced(run: Run, here: Path) -> None:
    photograph(here / "photo.jpg")
    os.mkfifo("pipe.png")
    result = run("photo.jpg", "-o", "pipe.png", "--overwrite")
    assert result.exit_code == 1
    assert "pipe.png is not a regular file: name another output" in lines(result)[0]
    assert (here / "pipe.png").is_fifo()


def test_the_rest_is_done_when_one_fails(run: Run, here: Path) -> None:
    photograph(here / "b.jpg")
    result = run("a.jpg", "b.jpg")
    assert result.exit_code == 1
    assert (here / "b.cut.png").is_file()
    assert lines(result)[0] == "decoupe: a.jpg does not exist: check the path"


def test_an_existing_output_is_kept(run: Run, here: Path) -> None:
    photograph(here / "photo.jpg")
    (here / "photo.cut.png").write_text("mine")
    for arguments in (["photo.jpg"], ["photo.jpg", "-o", "photo.cut.png"], ["-", "-o", "photo.cut.png"]):
        result = run(*arguments, stdin=b"")
        assert result.exit_code in (1, 2)
        assert "photo.cut.png exists: add --overwrite" in lines(result)[0]
        assert (here / "photo.cut.png").read_text() == "mine"
    assert run("photo.jpg", "--overwrite").exit_code == 0


def test_what_was_made_before_is_not_cut_again(run: Run, here: Path) -> None:
    """As by ``decoupe cut *`` a second time, or by the folder's name after one of its pictures."""
    photograph(here / "own" / "photo.jpg")
    assert run("own/photo.jpg").exit_code == 0
    again = run("own/photo.jpg", "own/photo.cut.png", "--overwrite")
    assert again.exit_code == 0
    assert lines(again)[0].startswith("decoupe: 1 left out, made of the pictures beside them")
    assert sorted(path.name for path in (here / "own").iterdir()) == ["photo.cut.png", "photo.jpg"]
    assert run("own").exit_code == 0
    assert [path.name for path in (here / "own-cut").iterdir()] == ["photo.png"]
    assert run("own/photo.cut.png").exit_code == 0  # asked for by name, and alone


@pytest.mark.parametrize(
    ("option", "made"),
    [
        ("--matte", "photo.matte.png"),
        ("--overlay", "photo.overlay.png"),
        ("--side-by-side", "photo.side-by-side.png"),
        ("--layers", "photo.layers.tif"),
    ],
)
def test_no_picture_that_was_made_before_is_cut_again(run: Run, here: Path, option: str, made: str) -> None:
    photograph(here / "photo.jpg")
    assert run("photo.jpg", option).exit_code == 0
    again = run("photo.jpg", made, option, "--overwrite")
    assert lines(again)[0].startswith("decoupe: 1 left out, made of the pictures beside them")
    assert sorted(path.name for path in here.glob("photo.*")) == ["photo.jpg", made]


@pytest.mark.parametrize("out", ["photo.png", "./photo.png", "link.png"])
def test_an_input_is_never_an_output(run: Run, here: Path, out: str) -> None:
    photo = photograph(here / "photo.png")
    (here / "link.png").symlink_to(photo)
    before = photo.read_bytes()
    result = run("photo.png", "-o", out, "--overwrite")
    assert result.exit_code == 2
    assert "is an input, and would be overwritten" in lines(result)[0]
    assert photo.read_bytes() == before


@pytest.mark.parametrize("command", [("photo.jpg", "-o", "beach.jpg"), ("in", "-o", "./", "--format", "jpg")])
def test_a_background_is_never_an_output(run: Run, here: Path, command: tuple[str, ...]) -> None:
    photograph(here / "photo.jpg")
    photograph(here / "in" / "beach.jpg")
    beach = photograph(here / "beach.jpg")
    before = beach.read_bytes()
    result = run(*command, "--over", "beach.jpg", "--overwrite")
    assert result.exit_code == 2
    assert "beach.jpg is an input, and would be overwritten" in lines(result)[0]
    assert beach.read_bytes() == before


def test_folders_of_earlier_runs_are_not_cut_again(run: Run, here: Path) -> None:
    """As with ``decoupe cut *``, run twice."""
    photograph(here / "in" / "a.jpg")
    photograph(here / "sea-cut" / "b.jpg")  # which nobody made here
    assert run("in", "sea-cut").exit_code == 0
    again = run("in", "in-cut", "sea-cut", "sea-cut-cut")
    assert again.exit_code == 0
    assert not (here / "in-cut-cut").exists()
    assert not (here / "sea-cut-cut-cut").exists()
    assert lines(again)[0].startswith("decoupe: 2 left out, made of the pictures beside them")


@pytest.mark.parametrize("place", ["/", "in"])
def test_the_root_has_no_folder_beside_it(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    photograph(here / "in" / "photo.jpg")
    monkeypatch.chdir(here / place)
    result = run(os.path.relpath("/"))
    assert result.exit_code == 2
    assert lines(result)[0].endswith(" has no folder beside it: name one with -o")


def test_a_folder_where_an_output_should_be_is_told(run: Run, here: Path) -> None:
    for name in ("in/a.jpg", "in/b.jpg"):
        photograph(here / name)
    (here / "in-cut" / "a.png").mkdir(parents=True)
    result = run("in")
    assert result.exit_code == 1
    assert lines(result) == [
        f"decoupe: {here / 'in-cut/a.png'} is a folder: name another output",
        "decoupe: 1 cut, 1 failed; tiny on cpu in float32",
    ]
    (here / "in" / "a.cut.png").mkdir()
    for more in ([], ["--overwrite"]):
        assert lines(run("in/a.jpg", *more)) == ["decoupe: in/a.cut.png is a folder: name another output"]


def test_a_folder_is_never_its_own_output(run: Run, here: Path) -> None:
    photograph(here / "in" / "photo.jpg")
    result = run("in", "-o", "./in")
    assert result.exit_code == 2
    assert lines(result) == [
        "decoupe: in is the folder of the pictures: name another with -o, or leave -o out"
    ]
    assert [path.name for path in (here / "in").iterdir()] == ["photo.jpg"]


def test_results_inside_an_input_are_not_cut_again(run: Run, here: Path) -> None:
    photograph(here / "in" / "a.jpg")
    photograph(here / "other" / "b.jpg")
    photograph(here / "c.jpg")
    command = ("in", "other", "c.jpg", "-o", "in/cut")
    assert run(*command).exit_code == 0
    made = ["c.png", "in/a.png", "other/b.png"]
    again = run("in", "other", "-o", "in/cut")
    assert again.exit_code == 0
    assert lines(again)[-1].startswith("decoupe: 2 there already")
    found = [path.relative_to(here / "in/cut").as_posix() for path in (here / "in/cut").rglob("*.png")]
    assert sorted(found) == made
    refused = run("in", "c.jpg", "-o", "in")
    assert refused.exit_code == 2
    assert lines(refused)[0].startswith("decoupe: in is the folder of the pictures: name another")


def test_a_folders_outputs_are_never_another_inputs(run: Run, here: Path) -> None:
    photo = photograph(here / "out" / "in" / "a.png")
    photograph(here / "in" / "a.jpg")
    before = photo.read_bytes()
    result = run("in", "out/in/a.png", "-o", "out", "--overwrite")
    assert result.exit_code == 2
    assert "out/in/a.png is an input, and would be overwritten" in lines(result)[0]
    assert photo.read_bytes() == before


def test_a_pictures_name_is_no_folder_for_several(run: Run, here: Path) -> None:
    photograph(here / "in" / "a.jpg")
    result = run("in", "-o", "out.png")
    assert result.exit_code == 2
    assert lines(result) == [
        "decoupe: out.png names one picture, the inputs are several: name a folder, or end it in /"
    ]
    assert not (here / "out.png").exists()
    assert run("in", "-o", "out.png/").exit_code == 0
    assert run("in", "-o", "out.png", "--overwrite").exit_code == 0


def test_an_output_named_as_an_input_is_pointed_out(run: Run, here: Path) -> None:
    photograph(here / "a.jpg")
    result = run("a.jpg", "b.png")
    assert result.exit_code == 1
    assert lines(result)[0] == "decoupe: b.png does not exist: check the path, or put -o before an output"


def test_two_inputs_never_share_an_output(run: Run, here: Path) -> None:
    photograph(here / "x" / "a.jpg")
    photograph(here / "y" / "a.jpg", (30, 30))
    result = run("x/a.jpg", "y/a.jpg", "-o", "out")
    assert result.exit_code == 1
    assert "y/a.jpg would overwrite out/a.png" in lines(result)[0]
    with Image.open(here / "out" / "a.png") as image:
        assert image.size == (80, 60)


@pytest.mark.parametrize(
    ("out", "message"),
    [("missing/out.png", "missing/out.png cannot be written"), ("file/out.png", "file is a file")],
)
def test_an_output_that_cannot_be_written(run: Run, here: Path, out: str, message: str) -> None:
    photograph(here / "photo.jpg")
    (here / "file").touch()
    result = run("photo.jpg", "-o", out)
    assert result.exit_code == 1
    (said,) = lines(result)
    assert message in said


def test_a_full_disk_is_one_line_for_each_picture(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photograph(here / "in" / "a.jpg")
    photograph(here / "in" / "b.jpg")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    result = run("in")
    assert result.exit_code == 1
    assert ["No space left" in line for line in lines(result)] == [True, True, False]
    assert list((here / "in-cut").iterdir()) == []


def test_an_output_folder_that_cannot_be_made(run: Run, here: Path) -> None:
    photograph(here / "in" / "a.jpg")
    (here / "file").touch()
    result = run("in", "-o", "file/out")
    assert result.exit_code == 1
    assert lines(result) == ["decoupe: file is a file, expected a folder: name another output with -o"]


# Wrong usage: status 2, nothing done.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "birefnt"], "unknown model 'birefnt'; did you mean 'birefnet'?"),
        (["-m", "absent.safetensors"], "absent.safetensors"),
        (["-o", "out.jpg"], "out.jpg: JPEG has no transparency: end it in .png, or add --over"),
        (["-o", "out.xyz"], "unknown output format '.xyz'"),
        (["-o", "out"], "out has no file ending"),
        (["--over", "whte"], "'whte' is neither a colour nor a file"),
        (["--over", "notes.txt"], "notes.txt is not a picture"),
        (["--over", "red", "--matte"], "--matte and --over exclude each other"),
        (["--over", ""], "a path is empty"),
        (["--box", "10,20,5,40"], "--box is '10,20,5,40', expected X0,Y0,X1,Y1 with X0 < X1 and Y0 < Y1"),
        (["--box", "0,0,5,5", "--point", "5,0"], "--point lies outside --box"),
        (["--what", "list", "--what", "dog"], "--what list lists the labels: leave the other labels out"),
        (["--shrink", "1001"], "--shrink is 1001, expected at most 1000 pixels"),
        (["--watch"], "in folders: name folders only"),
        (["--size", "big"], "--size is 'big', expected N, WxH or native"),
        (["--size", "big", "-o", "notes.txt"], "--size is 'big'"),
        (["--size", "0"], "size is 0×0, expected positive"),
        (["--device", "gpu"], "ONNX Runtime does not run on device 'gpu'"),
        (["--precision", "float12"], "unknown dtype 'float12'; did you mean"),
        (["--precision", "float16"], "exported files compute in float32"),
        (["-"], "- stands for one picture"),
        (["-q", "-v"], "--quiet and --verbose exclude each other: give one of them"),
        (["-q", "-v", "--what", "list"], "--quiet and --verbose exclude each other"),
        (["https://a.org/b.jpg"], "https://a.org/b.jpg is an address, and no pictures are fetched: download"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line(run: Run, here: Path, arguments: list[str], message: str) -> None:
    photograph(here / "photo.jpg")
    (here / "notes.txt").write_text("notes")
    result = run("photo.jpg", *arguments)
    assert result.exit_code == 2
    (said,) = lines(result)
    assert message in said
    assert sorted(path.name for path in here.iterdir()) == ["notes.txt", "photo.jpg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "a.jpg"], "JPEG has no transparency"),
        (["-o", "a.png", "--layers"], "a.png holds no layers"),
        (["-o", "a.png", "--quality", "80"], "PNG is lossless"),
    ],
)
def test_wrong_usage_is_told_where_the_output_stands_too(
    run: Run, here: Path, arguments: list[str], message: str
) -> None:
    photograph(here / "photo.jpg")
    (here / arguments[1]).write_bytes(b"stands")
    result = run("photo.jpg", *arguments)
    assert result.exit_code == 2
    assert message in lines(result)[0]


def test_watching_a_folder_that_does_not_exist(run: Run, here: Path) -> None:
    result = run("inbox", "-o", "out", "--watch")
    assert result.exit_code == 2
    assert lines(result)[0].endswith("in folders: create the folder inbox")


def test_options_that_do_not_exist_are_wrong_usage(here: Path) -> None:
    assert CliRunner().invoke(app, ["cut", "--frobnicate"]).exit_code == 2
    assert CliRunner().invoke(app, ["cut"]).exit_code == 2
    assert CliRunner().invoke(app, ["cut", "x", "--max-pixels", "0"]).exit_code == 2


@pytest.mark.parametrize("fault", ["another model's", "truncated"])
def test_a_checkpoint_that_cannot_be_used(run: Run, here: Path, fault: str) -> None:
    import torch
    from safetensors.torch import save_file

    photograph(here / "photo.jpg")
    path = here / "other.safetensors"
    save_file({"conv1.weight": torch.zeros(9)}, path)
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-4])
    result = run("photo.jpg", "-m", "other.safetensors")
    assert result.exit_code == 2
    (said,) = lines(result)
    assert "other.safetensors" in said
    assert ("conv1.weight" if fault != "truncated" else "truncated or damaged") in said


def test_a_model_that_needs_pytorch_names_the_extra(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photograph(here / "photo.jpg")
    monkeypatch.setitem(sys.modules, "torch", None)
    result = run("photo.jpg", "-m", "birefnet")
    assert result.exit_code == 2
    assert lines(result) == [
        "decoupe: the model 'birefnet' needs PyTorch: pip install 'decoupe[torch]'",
    ]
