"""Procedural textures of the street, all from a random generator. Every function gives uint8[n, n, 3] RGB."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Rgb = tuple[float, float, float]

WALL_COLORS: tuple[Rgb, ...] = (
    (150, 90, 70),
    (190, 180, 160),
    (170, 160, 150),
    (120, 120, 125),
    (205, 175, 125),
    (140, 150, 160),
    (175, 110, 85),
    (214, 205, 190),
    (120, 80, 66),
    (186, 140, 120),
)


def fractal_noise(
    rng: np.random.Generator, size: int, octaves: tuple[int, ...], gain: float = 0.7
) -> npt.NDArray[np.float32]:
    """Sum of tiling bicubic noise with the given cells a side; float32[size, size] in 0..1."""
    total = np.zeros((size, size), np.float32)
    amplitude = 1.0
    for cells in octaves:
        cells = min(cells, size)
        lattice = rng.random((cells, cells), dtype=np.float32)
        # Two wrapped cells on each side keep the bicubic kernel periodic, so that the texture tiles.
        wrapped = np.pad(lattice, 2, mode="wrap")
        cell = size // cells
        enlarged = cv2.resize(
            wrapped, ((cells + 4) * cell, (cells + 4) * cell), interpolation=cv2.INTER_CUBIC
        )[2 * cell : 2 * cell + cells * cell, 2 * cell : 2 * cell + cells * cell]
        if enlarged.shape != total.shape:
            enlarged = cv2.resize(enlarged, (size, size), interpolation=cv2.INTER_LINEAR)
        total += np.float32(amplitude) * enlarged
        amplitude *= gain
    total -= total.min()
    return (total / max(float(total.max()), 1e-6)).astype(np.float32)


def _to_image(values: npt.ArrayLike) -> Image:
    return np.clip(np.asarray(values), 0, 255).astype(np.uint8)


def mottled(
    rng: np.random.Generator,
    size: int,
    base: npt.ArrayLike,
    amplitude: float,
    octaves: tuple[int, ...] = (8, 16, 32, 64, 128),
) -> Image:
    """A colour with cloudy variation of brightness: asphalt, grass, leaves, bark."""
    noise = fractal_noise(rng, size, octaves, 0.9)[..., None] - 0.5
    return _to_image(np.asarray(base, np.float32)[None, None] + noise * amplitude)


def asphalt(rng: np.random.Generator, size: int = 256) -> Image:
    """Asphalt with a few repaired patches and cracks."""
    shade = rng.uniform(70, 104)
    image = mottled(rng, size, (shade, shade, shade + 4), 34, (4, 8, 16, 32, 64)).astype(np.float32)
    for _ in range(int(rng.integers(0, 4))):
        x, y = rng.integers(0, size - 40, 2)
        w, h = rng.integers(16, 40, 2)
        image[y : y + h, x : x + w] *= rng.uniform(0.82, 0.95)
    for _ in range(int(rng.integers(0, 4))):
        walk = rng.integers(0, size, 2) + np.cumsum(rng.integers(-9, 10, (12, 2)), 0)
        cv2.polylines(image, [walk.astype(np.int32)], False, (48, 48, 50), 1)
    return _to_image(image)


def paving(rng: np.random.Generator, size: int = 128) -> Image:
    """Pavement slabs, four joints a tile."""
    base = np.array(((150, 148, 142), (166, 156, 142), (128, 130, 134))[int(rng.integers(3))])
    image = mottled(rng, size, base, 36).astype(np.float32)
    step = size // int(rng.choice((2, 4)))
    for k in range(0, size, step):
        image[k : k + 2] *= 0.75
        image[:, k : k + 2] *= 0.75
    return _to_image(image)


def facade(rng: np.random.Generator, size: int = 128) -> Image:
    """A wall with two by two windows a tile."""
    wall = np.array(WALL_COLORS[int(rng.integers(len(WALL_COLORS)))]) * rng.uniform(0.85, 1.1)
    image = mottled(rng, size, wall, 26).astype(np.float32)
    if rng.random() < 0.4:
        image[::8] *= 0.85
    cells = int(rng.choice((2, 3)))
    cell = size // cells
    width, height = rng.uniform(0.35, 0.75), rng.uniform(0.45, 0.72)
    frame = wall * rng.uniform(1.1, 1.35)
    for row in range(cells):
        for column in range(cells):
            x0 = int(column * cell + cell * (1 - width) / 2)
            x1 = int(column * cell + cell * (1 + width) / 2)
            y0 = int(row * cell + cell * (1 - height) / 2)
            y1 = int(row * cell + cell * (1 + height) / 2)
            image[y0 - 2 : y1 + 2, x0 - 2 : x1 + 2] = frame
            sky_gradient = np.linspace(125, 45, y1 - y0)[:, None, None]
            image[y0:y1, x0:x1] = sky_gradient * np.array([0.8, 0.95, 1.1]) * rng.uniform(0.4, 1.1)
            if rng.random() < 0.25:
                blind = int((y1 - y0) * rng.uniform(0.3, 0.8))
                image[y0 : y0 + blind, x0:x1] = rng.uniform(130, 215)
            middle = (x0 + x1) // 2
            image[y0:y1, middle - 1 : middle + 1] = frame
            image[y1 + 1 : y1 + 4, x0 - 3 : x1 + 3] = wall * 0.72
    return _to_image(image)


def shop_front(rng: np.random.Generator, size: int = 128) -> Image:
    """Ground floor of a shop: a band of colour over wide panes and a door."""
    image = np.full((size, size, 3), rng.uniform(60, 190), np.float32)
    image[: size // 5] = rng.uniform(30, 220, 3)
    for _ in range(9):
        x = int(rng.integers(8, size - 14))
        image[size // 12 : size // 7, x : x + int(rng.integers(2, 8))] = rng.choice((20, 240))
    image[size // 4 : size * 7 // 8, 6 : size - 6] = (52, 62, 70)
    for _ in range(8):
        x, y = int(rng.integers(8, size - 24)), int(rng.integers(size // 3, size * 3 // 4))
        image[y : y + int(rng.integers(6, 24)), x : x + int(rng.integers(4, 18))] = rng.uniform(
            20, 190, 3
        )
    image[size // 4 : size, size * 2 // 3 : size * 2 // 3 + 3] = 150
    return _to_image(image)


def brick(rng: np.random.Generator, size: int = 128) -> Image:
    """Brickwork with mortar joints."""
    base = np.array([150, 80, 60]) * rng.uniform(0.8, 1.15)
    if rng.random() < 0.35:
        base = np.array([146, 142, 136]) * rng.uniform(0.8, 1.1)
    image = mottled(rng, size, base, 45).astype(np.float32)
    for course, y in enumerate(range(0, size, 16)):
        image[y : y + 2] = 165
        for x in range((course % 2) * 16, size, 32):
            image[y : y + 16, x : x + 2] = 165
    return _to_image(image)


SIGN_KINDS = ("prohibition", "parking", "no_entry", "warning", "speed", "direction")


def sign(kind: str, size: int = 64) -> Image:
    """Face of a traffic sign; ``kind`` is one of :data:`SIGN_KINDS`."""
    image = np.full((size, size, 3), 250, np.uint8)
    centre, half = (size // 2, size // 2), size // 2
    if kind == "prohibition":
        cv2.circle(image, centre, half - 4, (205, 20, 25), 8)
        cv2.line(image, (14, 14), (size - 14, size - 14), (205, 20, 25), 6)
    elif kind == "parking":
        image[:] = (20, 70, 175)
        cv2.putText(image, "P", (15, 50), cv2.FONT_HERSHEY_SIMPLEX, 1.7, (255, 255, 255), 6)
    elif kind == "no_entry":
        image[:] = (200, 15, 25)
        cv2.rectangle(image, (10, 26), (size - 10, 38), (255, 255, 255), -1)
    elif kind == "warning":
        image[:] = (245, 205, 25)
        cv2.rectangle(image, (28, 10), (36, 40), (10, 10, 10), -1)
        cv2.rectangle(image, (28, 46), (36, 54), (10, 10, 10), -1)
    elif kind == "speed":
        cv2.circle(image, centre, half - 4, (205, 20, 25), 8)
        cv2.putText(image, "50", (13, 41), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (10, 10, 10), 3)
    else:
        image[:] = (20, 70, 175)
        cv2.arrowedLine(image, (10, 32), (54, 32), (255, 255, 255), 6, tipLength=0.4)
    return image


def sky(rng: np.random.Generator, overcast: bool, warmth: float, size: int = 128) -> Image:
    """Six faces of a sky box stacked downwards, uint8[6 * size, size, 3].

    Args:
        rng: source of the cloud pattern.
        overcast: a closed grey layer instead of separate clouds.
        warmth: 0 at noon .. 1 with the sun at the horizon (orange rim).
        size: pixels along a face.
    """
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    u, v = np.meshgrid(axis, axis)
    one = np.ones_like(u)
    # Order and orientation of OpenGL cube faces; +y is up in texture space.
    faces = [
        (one, -v, -u),
        (-one, -v, u),
        (u, one, v),
        (u, -one, -v),
        (u, -v, one),
        (-u, -v, -one),
    ]
    clouds = fractal_noise(rng, 256, (4, 8, 16, 32, 64), 0.6)
    zenith = np.array([62, 112, 195.0]) * (1 - 0.4 * warmth)
    rim = np.array([188, 208, 228.0]) * (1 - warmth) + np.array([250, 178, 110.0]) * warmth
    white = np.array([245, 246, 250.0]) * (1 - warmth) + np.array([252, 214, 186.0]) * warmth
    cover = rng.uniform(0.35, 0.7)
    grey = rng.uniform(150, 195)
    stacked = []
    for x, y, z in faces:
        norm = np.sqrt(x * x + y * y + z * z)
        x, y, z = x / norm, y / norm, z / norm
        height = np.clip(y, 0, 1)[..., None] ** 0.55
        lift = np.maximum(y, 0.03) + 0.3
        column = ((x / lift * 36 + 128) % 256).astype(int)
        row = ((z / lift * 36 + 128) % 256).astype(int)
        pattern = clouds[row, column][..., None]
        if overcast:
            color = grey + 55 * (pattern - 0.5) * (0.3 + height) + 18 * (1 - height)
            color = color * np.array([0.97, 1.0, 1.04])
        else:
            color = rim * (1 - height) + zenith * height
            density = (
                np.clip((pattern - cover) * 4, 0, 1) * np.clip((y - 0.02) * 8, 0, 1)[..., None]
            )
            color = color * (1 - density) + white * density
        stacked.append(color)
    return _to_image(np.concatenate(stacked, 0))
