"""Tiny data sets of pictures: as class folders, as shuffled files of one folder, as a parquet file, and in memory."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

Rows = list[tuple[Image.Image, int]]
NAMES = ["ant", "bee", "cow"]


def drawings(counts: Sequence[int], seed: int, size: tuple[int, int] = (8, 8)) -> Rows:
    """Grey pictures, ``counts`` of each class, sorted by class; all differ, and tell their class by their upper left pixel."""
    rng = np.random.default_rng(seed)
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    pixels = [rng.integers(0, 256, size, dtype=np.uint8) for _ in labels]
    for picture, label in zip(pixels, labels, strict=True):
        picture[0, 0] = 60 * label + 7
    return [(Image.fromarray(picture), label) for picture, label in zip(pixels, labels, strict=True)]


def png(picture: Image.Image) -> bytes:
    return encoded(picture, "PNG")


def encoded(picture: Image.Image, form: str, **more: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **more)
    return file.getvalue()


def class_folders(path: Path, **parts: Rows) -> Path:
    """``train/ant/000.png``: the library reads them class by class."""
    for part, rows in parts.items():
        for number, (picture, label) in enumerate(rows):
            file = path / part / NAMES[label] / f"{number:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(picture))
    return path


def shuffled_folder(path: Path, **parts: Rows) -> Path:
    """Files of all classes in one folder, in a random order, with their classes in ``metadata.jsonl``."""
    for part, rows in parts.items():
        (path / part).mkdir(parents=True)
        lines = []
        for number, place in enumerate(np.random.default_rng(4).permutation(len(rows))):
            picture, label = rows[place]
            (path / part / f"{number:03}.png").write_bytes(png(picture))
            lines.append(json.dumps({"file_name": f"{number:03}.png", "label": label}))
        (path / part / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return path


def parquet(path: Path, **parts: Rows) -> Path:
    """A file for each part, its rows sorted by class from the last one to the first."""
    path.mkdir()
    for part, rows in parts.items():
        in_memory([(png(picture), label) for picture, label in reversed(rows)]).to_parquet(str(path / f"{part}.parquet"))
    return path


def in_memory(rows: Sequence[tuple[bytes, Any]], label: Any = None) -> datasets.Dataset:
    """What the library makes of files with these contents."""
    features = datasets.Features({"image": datasets.Image(), "label": label or datasets.ClassLabel(names=NAMES)})
    images = [{"bytes": content, "path": f"{number}.png"} for number, (content, _) in enumerate(rows)]
    return datasets.Dataset.from_dict({"image": images, "label": [label for _, label in rows]}, features=features)
