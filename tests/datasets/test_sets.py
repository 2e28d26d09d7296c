from __future__ import annotations

import io
import json
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageDraw

from decoupe.datasets.sets import (
    Pair,
    endings,
    find_pairs,
    fingerprint,
    fingerprints,
    names_of,
    near_duplicates,
    pairing,
    read_pair,
    read_picture,
    split,
    spread,
)
from decoupe.datasets.shards import Member, Source, members, opened
from decoupe.errors import InputError
from decoupe.evaluation.files import match, read_matte
from decoupe.evaluation.measures import unit
from decoupe.training.check import DARK, EMPTY, IN_ALPHA, look_at_pair


def save(path: Path, *, mode: str = "RGB", size: tuple[int, int] = (8, 6), level: int = 255) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, (level,) * 3 if mode == "RGB" else level).save(path)
    return path


def write_set(folder: Path, images: str, masks: str, *, stem: str = "a") -> None:
    save(folder / images / f"{stem}.jpg")
    save(folder / masks / f"{stem}.png", mode="L")


@pytest.mark.parametrize(
    ("name", "images", "masks"),
    [
        ("any", "im", "gt"),
        ("any", "images", "masks"),
        ("NC4K", "Imgs", "GT"),
        ("DIS5K/DIS-TR", "im", "gt"),
        ("DUTS-TR", "DUTS-TR-Image", "DUTS-TR-Mask"),
        ("DUTS-TE", "DUTS-TE-Image", "DUTS-TE-Mask"),
        ("UHRSD_TR_2K", "image", "mask"),
        ("COD10K-v3/Train", "Image", "GT_Object"),
        ("P3M-10k/train", "blurred_image", "mask"),
        ("P3M-500-NP", "original_image", "mask"),
        ("AM-2k/train", "original", "mask"),
        ("HRSOD", "HRSOD_train", "HRSOD_train_mask"),
        ("CAMO", "Images/Train", "GT"),
    ],
)
def test_published_layouts(tmp_path: Path, name: str, images: str, masks: str) -> None:
    folder = tmp_path / name
    write_set(folder, images, masks)
    (folder / images / ".DS_Store").write_text("hidden")
    expected = [Pair(folder / images / "a.jpg", folder / masks / "a.png")]
    assert find_pairs(folder) == expected
    assert find_pairs(tmp_path) == expected  # the only set inside


def test_several_sets_in_a_folder_are_told_and_each_can_be_given(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_set(tmp_path / "HRSOD", f"HRSOD_{part}", f"HRSOD_{part}_mask")
        write_set(tmp_path / "CAMO", f"Images/{part.title()}", "GT", stem=part)
        write_set(tmp_path / "DIS5K" / f"DIS-{part}", "im", "gt")
    for name, given_names in (
        ("HRSOD", ["HRSOD_train", "HRSOD_test"]),
        ("CAMO", ["Images/Train", "Images/Test"]),
        ("DIS5K", ["DIS-test", "DIS-train"]),
    ):
        folder = tmp_path / name
        with pytest.raises(InputError, match="holds several sets: give ") as caught:
            find_pairs(folder)
        for given_name in given_names:
            assert str(folder / given_name) in str(caught.value)
            assert len(find_pairs(folder / given_name)) == 1
    assert find_pairs(tmp_path / "CAMO" / "Images" / "Test")[0].name == "test"


def test_classes_are_read_from_the_names_of_dis5k(tmp_path: Path) -> None:
    write_set(tmp_path, "im", "gt", stem="2#Aircraft#13#Kite#1381120202_9dff6987b2_o")
    write_set(tmp_path, "im", "gt", stem="plain#name")
    assert [pair.label for pair in find_pairs(tmp_path)] == ["Kite", None]


def test_what_is_no_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a folder: expected .*/im and .*/gt"):
        find_pairs(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"holds no matte set: expected .*im with photographs"):
        find_pairs(tmp_path)
    for name in ("im", "gt"):
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="holds no pairs"):
        find_pairs(tmp_path)
    save(tmp_path / "im" / "b.jpg")
    save(tmp_path / "gt" / "c.png", mode="L")
    with pytest.raises(InputError, match=r"1 photographs of .* have no mask, b\.jpg first: add or remove"):
        find_pairs(tmp_path)
    pairs, bare, spare = pairing(tmp_path)
    assert (pairs, [one.name for one in bare], [one.name for one in spare]) == ([], ["b.jpg"], ["c.png"])


def test_names_may_all_end_in_more(tmp_path: Path) -> None:
    for name in ("1", "2"):
        save(tmp_path / "images" / f"{name}_sat.jpg")
        save(tmp_path / "masks" / f"{name}_mask.png", mode="L")
    found = find_pairs(tmp_path)
    assert [(one.name, one.mask.name) for one in found] == [("1_sat", "1_mask.png"), ("2_sat", "2_mask.png")]
    assert endings(["a_mask", "b_mask"], ["a", "c"]) == ("_mask", "")
    assert endings(["a_mask", "b"], ["a"]) == ("", "")


def test_only_pictures_pair_and_each_name_once(tmp_path: Path) -> None:
    write_set(tmp_path, "im", "gt")
    for name in ("gt/a.txt", "gt/Thumbs.db", "im/notes.csv"):
        (tmp_path / name).write_text("no picture")
    assert find_pairs(tmp_path) == [Pair(tmp_path / "im" / "a.jpg", tmp_path / "gt" / "a.png")]
    for twin in (tmp_path / "im" / "a.png", tmp_path / "gt" / "a.bmp"):
        save(twin)
        with pytest.raises(InputError, match=r"a\.\w+ and a\.\w+ share a name: keep one of them"):
            find_pairs(tmp_path)
        twin.unlink()


def test_folders_inside_are_read_as_they_are_scored(tmp_path: Path) -> None:
    """Training left them out, and a model was scored on fewer pictures than files were."""
    for name in ("b", "inside/a", "more/a"):
        save(tmp_path / "im" / f"{name}.jpg")
        save(tmp_path / "gt" / f"{name}.png", mode="L")
    (tmp_path / "im" / ".hidden").mkdir()
    pairs = find_pairs(tmp_path)
    assert [pair.name for pair in pairs] == ["b", "inside/a", "more/a"]
    assert pickle.loads(pickle.dumps(pairs)) == pairs
    assert pairs[2].mask == tmp_path / "gt" / "more" / "a.png"
    matching = match(tmp_path / "gt", shutil.copytree(tmp_path, tmp_path.with_name("truth")))
    assert [pair.name for pair in matching.pairs] == [pair.name for pair in pairs]
    save(tmp_path / "im" / "inside" / "c.jpg")
    with pytest.raises(InputError, match=r"1 photographs of .* have no mask, c\.jpg first"):
        find_pairs(tmp_path)


def test_sets_are_named_by_as_many_folders_as_tell_them_apart(tmp_path: Path) -> None:
    folders = [tmp_path / "P3M" / "train", tmp_path / "AM" / "train"]
    assert names_of(folders) == ["P3M/train", "AM/train"]
    assert names_of([folders[0]]) == ["train"]
    assert names_of([]) == []
    with pytest.raises(InputError, match="is given twice: give it once"):
        names_of([*folders, folders[0]])


def test_versions_of_a_set_are_told_apart() -> None:
    assert names_of([Path("cats.v1"), Path("cats.v2"), Path("dogs.tar")]) == ["cats.v1", "cats.v2", "dogs"]


def test_pairs_are_read_upright_in_eight_bits_and_at_most_so_long(tmp_path: Path) -> None:
    (tmp_path / "im").mkdir()
    (tmp_path / "gt").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    ramp = np.linspace(0, 255, 80 * 40).reshape(40, 80).astype(np.uint8)
    Image.fromarray(np.stack([ramp] * 3, -1)).save(tmp_path / "im" / "a.jpg", exif=exif, quality=95)
    Image.fromarray(np.full((80, 40), 32896, np.uint16)).save(tmp_path / "gt" / "a.png")
    pair = Pair(tmp_path / "im" / "a.jpg", tmp_path / "gt" / "a.png")
    image, mask = read_pair(pair)
    assert (image.shape, mask.shape) == ((80, 40, 3), (80, 40))
    assert set(mask.ravel()) == {128}
    assert image[0, -1, 0] < 20 < image[-1, 0, 0]  # the ramp's first row is the right edge
    image, mask = read_pair(pair, longest=16)
    assert (image.shape, mask.shape) == ((16, 8, 3), (16, 8))
    assert read_picture(pair.image, longest=16).shape == (16, 8, 3)


def test_grey_of_any_depth_is_one_mask_to_all_that_read_it(tmp_path: Path) -> None:
    """To training, to its check and to measures; 60 and 20 of 255 is a mask that is too dark."""
    image = save(tmp_path / "a.png", size=(2, 1))
    for dark, levels in ((False, [51, 204]), (True, [20, 60])):
        grey = np.array([levels], np.uint8)
        for name, values in {
            "8.png": grey,
            "16.png": grey.astype(np.uint16) * 257,
            "32.tif": grey.astype(np.int32) * 257,
            "floats.tif": grey.astype(np.float32) / 255,
        }.items():
            Image.fromarray(values).save(tmp_path / name)
            pair = Pair(image, tmp_path / name)
            assert read_pair(pair)[1].tolist() == [levels], name
            assert look_at_pair(pair).findings == ((DARK,) if dark else ()), name
            assert (unit(read_matte(pair.mask), name) * 255).tolist() == [pytest.approx(levels)], name
            assert read_picture(pair.mask)[..., 0].tolist() == [levels], name  # as a photograph too
    for values, line in ((np.float32([[0, 255]]), "from 0 to 255"), (np.int32([[-1, 9]]), "from -1 to 9")):
        Image.fromarray(values).save(tmp_path / "range.tif")
        for read in (lambda path: read_pair(Pair(image, path)), read_matte):
            with pytest.raises(InputError, match=f"range.tif holds .*{line}, expected"):
                read(tmp_path / "range.tif")


def test_mattes_in_alpha_are_told(tmp_path: Path) -> None:
    """A cut-out's colours are a photograph's; what is opaque, or says the same twice, is read as grey."""
    image = save(tmp_path / "a.png", size=(8, 6))
    colours, alpha = Image.effect_noise((8, 6), 90), Image.new("L", (8, 6), 255)
    alpha.paste(0, (0, 0, 4, 6))
    opaque, black = Image.new("L", (8, 6), 255), Image.new("L", (8, 6), 0)
    for bands, findings in (
        ((colours, colours, colours, alpha), (IN_ALPHA,)),
        ((opaque, alpha), (IN_ALPHA,)),
        ((alpha, alpha), ()),
        ((alpha, alpha, alpha, opaque), ()),
        ((black, black, black, opaque), (EMPTY,)),
    ):
        Image.merge("LA" if len(bands) == 2 else "RGBA", bands).save(tmp_path / "mask.png")
        assert look_at_pair(Pair(image, tmp_path / "mask.png")).findings == findings


def test_bad_pairs_are_named(tmp_path: Path) -> None:
    image = save(tmp_path / "a.jpg", size=(8, 6))
    with pytest.raises(InputError, match=r"b\.png is 8×7, its photograph 8×6: make them the same"):
        read_pair(Pair(image, save(tmp_path / "b.png", mode="L", size=(8, 7))))
    broken = tmp_path / "c.png"
    broken.write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match=r"c\.png cannot be read .*: get it again, or remove the pair"):
        read_pair(Pair(image, broken))


def write_shard(path: Path, files: dict[str, Image.Image | bytes], *, mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            file = io.BytesIO()
            if isinstance(content, bytes):
                file.write(content)
            else:
                content.save(file, name.rpartition(".")[2].replace("jpg", "jpeg"))
            info = tarfile.TarInfo(name)
            info.size = file.tell()
            file.seek(0)
            archive.addfile(info, file)
    return path


def test_pairs_in_shards_are_those_in_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(256, size=(6, 8, 3), dtype=np.uint8)) for _ in range(3)]
    mask = Image.new("L", (8, 6), 7)
    first = write_shard(
        tmp_path / "shards" / "0.tar",
        {
            "000.png": pictures[0],
            "000.mask.png": mask,
            "000.json": b"{}",
            "x/001.jpg": pictures[1],
            "x/001.png": mask,
        },
    )
    write_shard(tmp_path / "shards" / "1.tar", {"000.webp": pictures[2], "000.gt.png": mask})
    pairs = find_pairs(tmp_path / "shards")
    assert [pair.name for pair in pairs] == ["000", "001", "000"]
    assert str(pairs[1].image) == f"{first}/x/001.jpg"
    image, read_mask = read_pair(pickle.loads(pickle.dumps(pairs[0])))
    assert np.array_equal(image, np.asarray(pictures[0]))
    assert set(read_mask.ravel()) == {7}
    assert find_pairs(first) == pairs[:2]
    assert len(np.unique(fingerprints([pair.image for pair in pairs]), axis=0)) == 3
    assert isinstance(pairs[0].image, Member)


def test_shards_that_cannot_be_used(tmp_path: Path) -> None:
    packed = write_shard(tmp_path / "z.tar", {"a.jpg": Image.new("RGB", (8, 6))}, mode="w:gz")
    with pytest.raises(
        InputError, match=r"z\.tar cannot be read as a shard .*: expected an uncompressed \.tar"
    ):
        members(packed)
    alone = write_shard(tmp_path / "y.tar", {"a.png": Image.new("RGB", (8, 6))})
    with pytest.raises(InputError, match=r"1 photographs of .*y\.tar have no mask, a\.png first"):
        find_pairs(alone)
    (member,) = members(write_shard(tmp_path / "x.tar", {"a.jpg": b"nothing"}))
    with pytest.raises(InputError, match=r"x\.tar/a\.jpg cannot be read"), opened(member):
        pass


def test_photographs_of_16_bits_are_told_apart(tmp_path: Path) -> None:
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for file, levels in zip(files, (np.arange(64), np.arange(64)[::-1]), strict=True):
        Image.fromarray(np.tile(1000 * levels.astype(np.uint16), (64, 1))).save(file)
    assert np.array_equal(fingerprint(files[0])[:8], ~fingerprint(files[1])[:8])


def copies_of(photograph: Image.Image) -> dict[str, Image.Image]:
    """A photograph as people copy it."""
    width, height = photograph.size
    edge = width // 50, height // 50, width - width // 50, height - height // 50
    return {
        "smaller": photograph.resize((width // 2, height // 2)),
        "cropped": photograph.crop(edge),
        "brighter": photograph.point(lambda value: min(255, int(value * 1.2))),
    }


def test_near_duplicates_are_copies_of_a_photograph(discs: Path, tmp_path: Path) -> None:
    sources: list[Source] = [pair.image for pair in find_pairs(discs)]
    with opened(sources[3]) as file:
        for name, copy in copies_of(file.convert("RGB")).items():
            copy.save(tmp_path / f"{name}.jpg", quality=60)
            sources.append(tmp_path / f"{name}.jpg")
    pairs = {tuple(pair) for pair in near_duplicates(fingerprints(sources)).tolist()}
    first = len(sources) - 3
    assert {(3, first + number) for number in range(3)} <= pairs
    assert not any(other < first for _, other in pairs)
    assert all(one == 3 or one >= first for one, _ in pairs)
    assert near_duplicates(fingerprints([])).shape == (0, 2)


def test_different_things_on_a_white_ground_are_not_copies(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(20):
        shape = Image.new("L", (200, 200), 0)
        wide, high = rng.integers(30, 80), rng.integers(110, 170)
        box = [100 - wide // 2, 100 - high // 2, 100 + wide // 2, 100 + high // 2]
        ImageDraw.Draw(shape).rounded_rectangle([int(side) for side in box], 10, fill=255)
        label = Image.fromarray(rng.integers(20, 230, (8, 8, 3), dtype=np.uint8)).resize((200, 200))
        photograph = Image.new("RGB", (200, 200), "white")
        photograph.paste(label, mask=shape)
        for folder, image in (("im", photograph), ("gt", shape)):
            (tmp_path / folder).mkdir(exist_ok=True)
            image.save(tmp_path / folder / f"{number:02}.png")
    train, held_out = split({"things": find_pairs(tmp_path)}, {"things": 4}, seed=1)
    assert (len(train["things"]), len(held_out["things"])) == (16, 4)


def test_a_split_keeps_near_duplicates_out_of_both_parts(discs: Path) -> None:
    def parts(held_out: int, seed: int) -> list[list[Pair]]:
        return [one["discs"] for one in split({"discs": find_pairs(discs)}, {"discs": held_out}, seed=seed)]

    train, held_out = parts(5, 3)
    assert (len(train), len(held_out)) == (19, 5)
    assert parts(5, 3) == [train, held_out]
    assert parts(0, 3) == [find_pairs(discs), []]
    twin = held_out[0].name
    for kind, suffix in (("im", "jpg"), ("gt", "png")):
        copy = discs / kind / f"zz.{suffix}"
        copy.write_bytes((discs / kind / f"{twin}.{suffix}").read_bytes())
    for seed in range(40):
        names = [{pair.name for pair in part} for part in parts(5, seed)]
        assert not (names[0] & {twin, "zz"} and names[1] & {twin, "zz"})


def test_what_one_set_holds_out_is_in_no_other(discs: Path, tmp_path: Path) -> None:
    sets = {"a": find_pairs(discs), "b": find_pairs(Path(shutil.copytree(discs, tmp_path / "b")))}
    alone = split({"a": sets["a"]}, {"a": 3}, seed=1)
    train, held_out = split(sets, {"a": 3, "b": 0}, seed=1)
    assert (train["a"], held_out["a"]) == (alone[0]["a"], alone[1]["a"])
    names = {pair.name for pair in held_out["a"]}
    assert {pair.name for pair in train["b"]} == {pair.name for pair in sets["b"]} - names
    assert len(train["b"]) == 21
    assert held_out["b"] == []


def test_a_turned_copy_is_a_near_duplicate(discs: Path, tmp_path: Path) -> None:
    """A phone's file says how to turn it, its export is turned."""
    upright = Image.open(find_pairs(discs)[0].image)
    turned, exif = upright.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    upright.save(tmp_path / "export.png")
    turned.save(tmp_path / "phone.png", exif=exif)
    prints = fingerprints([tmp_path / "export.png", tmp_path / "phone.png"])
    assert near_duplicates(prints).tolist() == [[0, 1]]


def test_a_few_of_many_are_spread_evenly() -> None:
    assert spread(range(10), 4) == [0, 2, 5, 7]
    assert spread("abc", 3) == list("abc")
    assert json.dumps(spread([], 3)) == "[]"
