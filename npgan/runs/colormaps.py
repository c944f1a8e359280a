"""The colors of heat maps. Imports nothing: the command line takes the names of ``--colormap`` from here."""

from __future__ import annotations

# Each colormap at 17 evenly spaced levels. All but gray are matplotlib's (CC0), 256 colors each, of which what is interpolated
# here differs by at most 7 of 255.
COLORMAPS = {
    "inferno": "000004 0b0724 210c4a 3d0965 57106e 71196e 8a226a a32c61 bc3754 d04545 e35933 f1711f f98c0a fcaa0f f9c932 "
    "f2e865 fcffa4",
    "magma": "000004 0a0822 1d1147 36106b 51127c 6a1c81 832681 9c2e7f b73779 cf4070 e55064 f4695c fb8761 fea571 fec287 "
    "fde0a1 fcfdbf",
    "plasma": "0d0887 310597 4c02a1 6600a7 7e03a8 9511a1 aa2395 bc3587 cc4778 d9586a e56b5d f07f4f f89441 fdab33 fdc328 "
    "f9dd25 f0f921",
    "viridis": "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c 1f9f88 27ad81 3dbc74 5cc863 81d34d aadc32 "
    "d5e21a fde725",
    "gray": "000000 ffffff",
}
COLORMAP = "inferno"  # the tutorial's


def colors(name: str) -> list[tuple[int, int, int]]:
    """Red, green and blue, 0 to 255, of each of the 256 levels from dark to bright."""
    anchors = [bytes.fromhex(anchor) for anchor in COLORMAPS[name].split()]
    table = []
    for level in range(256):
        place = level * (len(anchors) - 1)
        low, share = divmod(place, 255)
        high = min(low + 1, len(anchors) - 1)
        red, green, blue = (
            round(below + (above - below) * share / 255)
            for below, above in zip(anchors[low], anchors[high], strict=True)
        )
        table.append((red, green, blue))
    return table
