from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoupe.errors import ConfigError
from decoupe.training.fields import from_plain, from_yaml, override, to_plain, to_yaml


@dataclass(frozen=True)
class Part:
    kind: Literal["round", "square"] = "round"
    rate: float = 0.1


@dataclass(frozen=True)
class Whole:
    name: str
    parts: tuple[Part, ...] = ()
    size: tuple[int, int] = (3, 4)
    most: int | None = None
    on: bool = False
    part: Part | None = None


words = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "))
numbers = st.floats(allow_nan=False, allow_infinity=False)
parts = st.builds(Part, kind=st.sampled_from(["round", "square"]), rate=numbers)
wholes = st.builds(
    Whole,
    name=words,
    parts=st.lists(parts, max_size=3).map(tuple),
    size=st.tuples(st.integers(), st.integers()),
    most=st.none() | st.integers(),
    on=st.booleans(),
    part=st.none() | parts,
)


@given(wholes)
def test_plain_data_and_yaml_give_the_same_back_to_the_bit(whole: Whole) -> None:
    assert from_plain(Whole, to_plain(whole)) == whole
    assert from_plain(Whole, from_yaml(to_yaml(to_plain(whole)), "text")) == whole


def test_numbers_may_be_written_as_people_write_them() -> None:
    assert from_yaml("rate: 1e-4", "text") == {"rate": 1e-4}
    assert from_yaml("rate: 2.5E3", "text") == {"rate": 2500.0}
    assert from_yaml("name: e4", "text") == {"name": "e4"}


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"name": "a", "part": {"rate": math.nan}}, "part.rate is nan, expected a number"),
        ({"name": "a", "part": {"rate": math.inf}}, "part.rate is inf, expected a number"),
        ({"nmae": "a"}, "unknown setting 'nmae'; did you mean 'name'?"),
        ({"name": "a", "part": {"rates": 1}}, "unknown setting of part 'rates'; did you mean 'rate'"),
        ({"name": "a", "parts": [{}, {"rate": "x"}]}, r"parts\[1\]\.rate is 'x', expected a number"),
        (
            {"name": "a", "parts": [{"kind": "rond"}]},
            r"unknown parts\[0\]\.kind 'rond'; did you mean 'round'",
        ),
        ({"name": "a", "parts": 3}, "parts is 3, expected a list"),
        ({"name": "a", "size": [1]}, r"size is \[1\], expected 2 values"),
        ({"name": "a", "most": 1.5}, "most is 1.5, expected a whole number"),
        ({"name": "a", "most": True}, "most is True, expected a whole number"),
        ({"name": 3}, "name is 3, expected text"),
        ({"name": "a", "on": 1}, "on is 1, expected true or false"),
        ({"name": "a", "part": 5}, "part is 5, expected its settings by name"),
        ({}, "name is not set: it has no default"),
        ([1], "expected its settings by name"),
    ],
)
def test_what_does_not_fit_is_one_line(data: object, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        from_plain(Whole, data)


def test_settings_reach_inside() -> None:
    plain = to_plain(Whole("a", parts=(Part(), Part()), part=Part()))
    settings = ["name=b", "parts[1].rate=2e-3", "size=[5, 6]", "part.kind=square", "on=true", "most=null"]
    changed = from_plain(Whole, override(plain, settings))
    assert changed == Whole("b", (Part(), Part(rate=2e-3)), (5, 6), None, True, Part("square"))
    assert plain["name"] == "a"
    assert override(plain, ["size[0]=9"])["size"] == [9, 4]


@pytest.mark.parametrize("text", ["1e5", "+1e-4", "2.e3", "1.5", "null"])
def test_text_that_reads_as_a_number_stays_text(text: str) -> None:
    """A folder may be called 1e5, which YAML 1.1 does not take for a number and we do."""
    whole = Whole(text)
    assert from_plain(Whole, from_yaml(to_yaml(to_plain(whole)), "text")) == whole


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("name", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("part.kind.x=1", "part.kind is 'round', it has no parts to set"),
        ("prat.kind=1", "unknown setting 'prat'; did you mean 'part'"),
        ("parts[7].rate=1", r"there is no parts.\[7\]"),
        ("size[2]=1", r"there is no size\[2\]"),
        ("name=[", "is not YAML"),
    ],
)
def test_settings_that_reach_nothing_are_told(setting: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        override(to_plain(Whole("a", parts=(Part(),), part=Part())), [setting])


def test_a_broken_file_is_told_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"mine\.yaml, line 2 is not YAML"):
        from_yaml("name: a\nparts: [", "mine.yaml")
    with pytest.raises(ConfigError, match=r"mine\.yaml holds list, expected settings by name"):
        from_yaml("- a", "mine.yaml")
