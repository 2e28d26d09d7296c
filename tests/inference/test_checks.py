from __future__ import annotations

import math

import numpy as np
import pytest

from decoupe.errors import InputError
from decoupe.inference.checks import LONGEST_NAME, check_number, shortened


def test_numbers_of_every_kind_are_taken() -> None:
    for value in (0, 0.5, 1, np.float32(0.5), np.int64(1), np.float64(0)):
        check_number("share", value, "a number from 0 to 1", least=0, most=1)
    for value in (3, np.uint8(3)):
        check_number("pixels", value, "whole pixels", whole=True)


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("0.5", "share is '0.5', expected a number from 0 to 1"),
        (1.5, "share is 1.5, expected a number from 0 to 1"),
        (math.nan, "share is nan, expected a number from 0 to 1"),
        (True, "share is True, expected a number from 0 to 1"),
        (None, "share is None, expected a number from 0 to 1"),
        ([0.5], r"share is \[0.5\], expected a number from 0 to 1"),
    ],
)
def test_what_is_none_is_refused_in_one_line(value: object, line: str) -> None:
    with pytest.raises(InputError, match=f"^{line}$"):
        check_number("share", value, "a number from 0 to 1", least=0, most=1)


def test_infinity_and_parts_of_a_whole_are_refused() -> None:
    with pytest.raises(InputError, match="margin is inf"):
        check_number("margin", math.inf, "pixels", least=0)
    with pytest.raises(InputError, match=r"quality is 80\.5"):
        check_number("quality", 80.5, "a whole number", whole=True)


def test_a_long_name_is_shortened() -> None:
    assert shortened("a" * LONGEST_NAME) == "a" * LONGEST_NAME
    short = shortened("data:image/jpeg;base64," + "A" * 10**6 + "end")
    assert len(short) <= LONGEST_NAME
    assert short.startswith("data:image/jpeg;base64,")
    assert short.endswith("end")
