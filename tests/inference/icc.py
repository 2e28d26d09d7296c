"""Minimal ICC profiles, built byte by byte: enough for littlecms to use them."""

from __future__ import annotations

import struct

D50 = (0.9642, 1.0, 0.8249)


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {b"wtpt": b"XYZ " + bytes(4) + _fixed(*D50), **tags}
    offset, table, body = 132 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += struct.pack(">4sII", name, offset + len(body), len(data))
        body += data
    size = offset + len(body)
    header = struct.pack(">I4xI4s4s4s12x4s", size, 0x02400000, kind, space, connection, b"acsp")
    header = header.ljust(68, b"\0") + _fixed(*D50)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def linear_grey() -> bytes:
    """Grey whose values are proportional to light: 128 is much lighter than sRGB's 128."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": b"curv" + struct.pack(">4xIH", 1, 256)})


def display_p3() -> bytes:
    """Display P3's primaries, whose red and green are stronger than sRGB's."""
    return _rgb(red=(0.5151, 0.2412, -0.0011), green=(0.2920, 0.6922, 0.0419), blue=(0.1571, 0.0666, 0.7841))


def exchanged_rgb() -> bytes:
    """RGB with sRGB's primaries, red's and blue's exchanged."""
    return _rgb(red=(0.1431, 0.0606, 0.7141), green=(0.3851, 0.7169, 0.0971), blue=(0.4361, 0.2225, 0.0139))


def _rgb(**primaries: tuple[float, float, float]) -> bytes:
    colourants = {f"{name[0]}XYZ".encode(): colour for name, colour in primaries.items()}
    tags = {name: b"XYZ " + bytes(4) + _fixed(*colour) for name, colour in colourants.items()}
    curve = b"curv" + struct.pack(">4xIH", 1, round(2.2 * 256))
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve))


def green_cyan() -> bytes:
    """CMYK whose cyan ink is green: what is printed depends on the profile."""
    ramp = bytes(range(256))
    lab = []
    for corner in range(16):
        c, m, y, k = (corner >> shift & 1 for shift in (3, 2, 1, 0))
        dark = 1 - (0.5 * c + 0.3 * m + 0.1 * y) * (1 - k) - k
        lab += [max(0, round(255 * dark)), 128 - 90 * c * (1 - k), 128 + 60 * c * (1 - k)]
    lut = struct.pack(">4s4xBBBx", b"mft1", 4, 3, 2) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    lut += ramp * 4 + bytes(lab) + ramp * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": lut})
