from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from io import BytesIO
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from decoupe.errors import InputError, OutputError
from decoupe.inference import media

NAMES = st.builds(
    lambda *parts: PurePosixPath("".join(parts)),
    st.sampled_from(["", "d/", "D/"]),
    st.sampled_from(["a", "A", "ß", "ss", "ſ", "İ", "i̇"]),
    st.sampled_from(["", ".jpg", ".JPG", ".png"]),
    st.sampled_from([".jpg", ".JPG", ".png", ".bmp", ".ß", ""]),
)
"""Names that are easily taken for one another."""
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def touch(root: Path, *names: str) -> list[Path]:
    paths = [root / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def write_image(image: Image.Image, path: Path) -> None:
    media.write_bytes(media.encode(image, path.suffix), path)


def test_find_images_is_recursive_sorted_and_skips_hidden(tmp_path: Path) -> None:
    wanted = touch(tmp_path, "b.JPG", "a/x.png", "a/deep/y.webp")
    touch(tmp_path, ".hidden.png", ".git/z.png", "notes.txt", "out/b.png")
    assert media.find_images(tmp_path, exclude=[tmp_path / "out"]) == sorted(wanted)
    assert tmp_path / "out" / "b.png" in media.find_images(tmp_path)
    assert len(media.find_images(tmp_path, exclude=[tmp_path])) == 4
    with pytest.raises(InputError, match="is not a folder"):
        media.find_images(tmp_path / "b.JPG")


def test_output_mirrors_the_folder(tmp_path: Path) -> None:
    source = tmp_path / "in" / "a" / "x.jpg"
    targets = media.output_paths([source], tmp_path / "in", tmp_path / "out")
    assert targets == {source: tmp_path / "out" / "a" / "x.png"}


def test_no_two_outputs_alike_and_none_an_input(tmp_path: Path) -> None:
    sources = touch(tmp_path, "a.jpg", "a.bmp", "b.jpg")
    out = tmp_path / "out"
    targets = media.output_paths(sources, tmp_path, out)
    assert list(targets.values()) == [out / "a.jpg.png", out / "a.bmp.png", out / "b.png"]
    three = media.output_paths([*sources, *touch(tmp_path, "a.jpg.tif")], tmp_path, out)
    names = ["a.jpg.png", "a.bmp.png", "b.png", "a.jpg.tif.png"]
    assert [target.name for target in three.values()] == names
    cases = touch(tmp_path, "IMG.jpg", "img.heic")  # one file where disks fold cases
    names = [target.name for target in media.output_paths(cases, tmp_path, out).values()]
    assert names == ["IMG.jpg.png", "img.heic.png"]
    beside = touch(tmp_path, "d.jpg", "d.png")
    names = [target.name for target in media.output_paths(beside, tmp_path, tmp_path).values()]
    assert names == ["d.jpg.png", "d.png.png"]
    with pytest.raises(OutputError, match=r"c\.png is an input"):
        media.output_paths(touch(tmp_path, "c.png"), tmp_path, tmp_path)
    link = tmp_path / "link.png"
    link.symlink_to(sources[0])
    with pytest.raises(OutputError, match="is an input"):
        media.refuse_overwriting([link], media.real_paths(sources))


@given(st.lists(NAMES, unique=True, max_size=6), st.sampled_from([".png", ".webp"]))
def test_no_two_names_are_the_same_whatever_they_are_of(sources: list[PurePosixPath], suffix: str) -> None:
    """Nor the same but for their case, unless the sources are."""
    names = media.result_names(sources, suffix)
    assert list(names) == sources
    assert len(set(names.values())) == len(sources)
    assert all(name.suffix == suffix and name.parent == source.parent for source, name in names.items())
    pairs = {(media.folded(name), media.folded(source)) for source, name in names.items()}
    assert len(pairs) == len({name for name, _ in pairs})


def test_case_is_told_apart_where_the_sources_disk_does() -> None:
    def named(*sources: str) -> list[str]:
        return [str(name) for name in media.result_names(map(PurePosixPath, sources), ".png").values()]

    assert named("A.jpg", "a.jpg") == ["A.png", "a.png"]
    assert named("Img/1.jpg", "img/1.jpg") == ["Img/1.png", "img/1.png"]
    assert named("strasse.jpg", "straße.jpg") == ["strasse.png", "straße.png"]
    assert named("a.JPG", "a.jpg") == ["a.JPG.png", "a.jpg.png"]
    assert named("A.jpg", "a.jpg", "a.bmp") == ["A.jpg.png", "a.jpg.png", "a.bmp.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege")
def test_where_files_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, *_ = touch(tmp_path, "far/a.png", "b.png")
    (tmp_path / "near").symlink_to("far")
    (tmp_path / "far" / "link.png").symlink_to("../b.png")
    (tmp_path / "far" / "circle.png").symlink_to("circle.png")
    monkeypatch.chdir(tmp_path / "near")
    names = [
        "a.png",
        "../near/a.png",
        "link.png",
        "circle.png",
        "none/a.png",
        ".",
        "..",
        "../far",
        "/",
        "/a.png",
        "",
        "x" * 300,
    ]
    for name in names:
        assert media.real_path_of()(Path(name)) == os.path.realpath(name)
    assert media.real_paths(map(Path, names[:2])) == {str(real)}


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such pipes")
def test_a_pipe_in_a_folder_is_no_picture(tmp_path: Path) -> None:
    """Reading one that nobody writes to takes for ever."""
    picture, link = touch(tmp_path, "a.png", "b.png")
    os.mkfifo(tmp_path / "c.png")
    link.unlink()
    link.symlink_to("nowhere.png")  # which is told when it is read
    assert media.find_images(tmp_path) == [picture, link]


def test_the_folders_that_are_looked_into_can_be_told(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.png", ".git/z.png", "out/b.png")
    (tmp_path / "empty").mkdir()
    listed: list[Path] = []
    media.find_images(tmp_path, exclude=[tmp_path / "out"], listed=listed.append)
    assert sorted(listed) == [tmp_path, tmp_path / "a", tmp_path / "empty"]


def test_what_stands_is_done_and_may_be_outdated(tmp_path: Path) -> None:
    source, target = touch(tmp_path, "a.jpg", "a.png")
    assert not media.is_done(target)  # empty: what a crash of the machine leaves
    target.write_bytes(b"a picture")
    assert media.is_done(target)
    os.utime(source, (1000, 1000))
    assert not media.is_outdated(source, target)
    os.utime(source, (4e9, 4e9))
    assert media.is_outdated(source, target)
    assert not media.is_done(tmp_path / "missing.png")
    assert not media.is_done(source / "below a file.png")
    assert not media.is_done(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are others there")
def test_what_takes_a_files_place_has_its_permissions(tmp_path: Path) -> None:
    (target,) = touch(tmp_path, "a.png")
    for mode in (0o600, 0o640, 0o444, 0o777):
        target.chmod(mode)
        with media.replacing(target) as temporary:
            assert temporary.stat().st_mode & 0o177 == (mode | 0o600) & 0o177  # while it is written, too
            temporary.write_bytes(b"whole")
        assert target.stat().st_mode & 0o777 == mode
    media.write_bytes(b"", tmp_path / "new.png")
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "new.png").stat().st_mode & 0o777 == 0o666 & ~umask


def test_nothing_is_left_beside_what_windows_keeps_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It neither replaces nor deletes such files, and the new one has the old one's permissions."""
    (target,) = touch(tmp_path, "a.png")
    target.chmod(0o444)
    unlink = Path.unlink

    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Access is denied", str(path))

    def remove(path: Path, missing_ok: bool = False) -> None:
        if not path.stat().st_mode & stat.S_IWUSR:
            refuse(path)
        unlink(path, missing_ok)

    monkeypatch.setattr(media, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(Path, "replace", refuse)
    monkeypatch.setattr(Path, "unlink", remove)
    with pytest.raises(OutputError, match=r"a\.png cannot be written \(Access is denied\): check"):
        media.write_bytes(b"whole", target)
    assert list(tmp_path.iterdir()) == [target]


def test_a_name_that_a_disk_does_not_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Windows, or exFAT on Linux, of one with a question mark."""

    def refuse(path: Path, target: Path) -> None:
        raise OSError(errno.EINVAL, "The filename, directory name, or volume label syntax is incorrect")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(
        OutputError, match=r"why\?\.png cannot be written \(The file.*\): name another output"
    ):
        media.write_bytes(b"whole", tmp_path / "why?.png")


def test_what_a_block_refuses_is_told_in_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"^it is so$"), media.replacing(tmp_path / "a.png"):
        raise OutputError("it is so")


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="the folder of open files")
def test_a_folder_where_no_files_are_made_is_not_said_to_be_missing() -> None:
    with pytest.raises(OutputError, match=r"/dev/fd/a\.png cannot be written \(.*\): (name another|check)"):
        media.write_bytes(b"", Path("/dev/fd/a.png"))


def test_a_name_that_is_too_long_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\(File name too long\): name another output"):
        media.write_bytes(b"", tmp_path / ("x" * 300 + ".png"))


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff", ".avif", ".jpg"])
def test_formats_keep_profile_and_pixels(tmp_path: Path, suffix: str) -> None:
    mode = "RGB" if suffix == ".jpg" else "RGBA"
    image = Image.new(mode, (20, 10), (10, 200, 30, 99)[: len(mode)])
    image.info["icc_profile"] = SRGB
    path = tmp_path / f"result{suffix}"
    if suffix not in Image.registered_extensions():
        with pytest.raises(OutputError, match="the installed Pillow cannot write AVIF: upgrade it"):
            write_image(image, path)
        return
    write_image(image, path)
    with Image.open(path) as read:
        assert read.info["icc_profile"] == SRGB
        assert read.mode == mode
        assert all(
            abs(a - b) <= 3 for a, b in zip(read.getpixel((3, 3)), image.getpixel((3, 3)), strict=True)
        )
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_grey_masks_carry_no_rgb_profile() -> None:
    mask = Image.new("L", (4, 4), 7)
    mask.info["icc_profile"] = SRGB
    assert "icc_profile" not in Image.open(BytesIO(media.encode(mask))).info


def test_what_cannot_be_written_says_so(tmp_path: Path) -> None:
    image = Image.new("RGBA", (4, 4))
    with pytest.raises(OutputError, match="JPEG has no transparency"):
        write_image(image, tmp_path / "a.jpg")
    with pytest.raises(OutputError, match=r"unknown output format '\.pgn': end it in one of \.png, \.webp, "):
        write_image(image, tmp_path / "a.pgn")
    with pytest.raises(OutputError, match="its folder does not exist: create"):
        write_image(image, tmp_path / "missing" / "a.png")
    touch(tmp_path, "file")
    with pytest.raises(OutputError, match="cannot be written"):
        write_image(image, tmp_path / "file" / "a.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match=r"folder\.png is a folder: name another output"):
        write_image(image, tmp_path / "folder.png")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder.png"]


@pytest.mark.parametrize(("suffix", "longest"), [(".webp", 16_383), (".jpg", 65_500), (".avif", 65_536)])
def test_a_side_that_is_too_long_is_told_in_one_line(
    capfd: pytest.CaptureFixture[str], suffix: str, longest: int
) -> None:
    for size in ((longest + 1, 1), (1, longest + 1)):
        with pytest.raises(OutputError, match=f"holds at most {longest} pixels a side: save as .png or .tif"):
            media.encode(Image.new("RGB", size), suffix)
    if suffix in Image.registered_extensions():
        assert media.encode(Image.new("RGB", (longest, 1)), suffix)
    assert capfd.readouterr().err == ""


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from PIL import Image
from decoupe.errors import OutputError
from decoupe.inference import media

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
try:
    media.write_bytes(media.encode(Image.fromarray(noise)), Path(sys.argv[1]))
except OutputError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a limit on file sizes stands in for a full disk")
def test_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"what was there")
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, timeout=60, check=True
    )
    assert "a.png cannot be written (File too large)" in result.stdout
    assert path.read_bytes() == b"what was there"
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege")
def test_a_link_stays_and_what_it_points_to_is_written(tmp_path: Path) -> None:
    link, far = tmp_path / "here" / "cut.png", tmp_path / "far" / "real.png"
    link.parent.mkdir()
    link.symlink_to(Path("../far/real.png"))
    with pytest.raises(OutputError, match=r"real\.png cannot be written, its folder does not exist: create "):
        media.write_bytes(b"new", link)
    far.parent.mkdir()
    for content in (b"first", b"second"):
        media.write_bytes(content, link)
        assert link.is_symlink()
        assert far.read_bytes() == content
    assert [path.name for path in far.parent.iterdir()] == ["real.png"]
