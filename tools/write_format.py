"""Write the tables, the rules and the dump of FORMAT.md from the code: python tools/write_format.py

The dump is of a training shard made of two drawn photos, so it needs no data.
"""

import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import cv2
import h5py
import numpy as np

from auheat.facs import load_codebook
from auheat.pipeline.extraction import extract
from auheat.pipeline.rendering import render
from auheat.shards.schema import FORMATS, Spec
from auheat.shards.validation import RULES

ROOT = Path(__file__).parent.parent
TYPES = {"u1": "uint8", "i4": "int32", "i8": "int64", "f4": "float32", "b1": "bool"}


def table(specs: Mapping[str, Spec]) -> str:
    """The rows of a table of datasets."""
    lines = ["| dataset | shape, type | meaning |", "|---|---|---|"]
    for name, spec in specs.items():
        first = "B" if name == "image" else "N"
        shape = ", ".join(str(n) for n in (first, *spec.row))
        shape = f"({shape},)" if not spec.row else f"({shape})"
        needed = "" if spec.needed else " (not in every shard)"
        kind = TYPES.get(spec.dtype, spec.dtype)
        lines.append(f"| `{name}` | {shape} {kind} | {spec.meaning}{needed} |")
    return "\n".join(lines) + "\n"


def rules() -> str:
    """The rules as a table."""
    lines = ["| rule | text |", "|---|---|"]
    return "\n".join(lines + [f"| {name} | {text} |" for name, text in RULES.items()])


def dump(folder: Path) -> str:
    """What h5py says of a shard with two rows."""
    photos = folder / "photos" / "happy"
    photos.mkdir(parents=True)
    for i in range(2):
        cv2.imwrite(str(photos / f"{i}.png"), np.full((64, 64, 3), 90 + i, np.uint8))
    points = np.stack(2 * [13 * load_codebook("martinez").frame.mean + [31.5, 26]])
    np.savez(folder / "points.npz", id=["happy/0.png", "happy/1.png"], landmarks=points)
    extract(folder / "photos", folder / "store", detector=str(folder / "points.npz"))
    render(folder / "store")
    with h5py.File(folder / "store" / "shards" / "martinez" / "00000.h5") as shard:
        lines = [f"/ {key} = {_short(value)}" for key, value in shard.attrs.items()]
        for name, dataset in shard.items():
            text = h5py.check_string_dtype(dataset.dtype)
            kind = f"text[{text.length}]" if text else dataset.dtype.name
            stored = "contiguous" if dataset.chunks is None else f"chunks {dataset.chunks}, gzip"
            shape = "(B,)" if name == "image" else dataset.shape
            lines.append(f"{name} {shape} {kind}, {stored}")
            lines += [f"    {key} = {_short(value)}" for key, value in dataset.attrs.items()]
    return "\n".join(lines)


def _short(value: object) -> str:
    text = str(value.tolist() if hasattr(value, "tolist") else value)
    return text if len(text) <= 60 else text[:57] + "..."


def rewrite(text: str, folder: Path) -> str:
    """FORMAT.md with its generated parts made anew."""
    parts = {
        "rules": rules(),
        "landmark datasets": table(FORMATS["auheat-landmarks"]),
        "training datasets": table(FORMATS["auheat-training"]),
        "dump": "```\n" + dump(folder) + "\n```",
    }
    for name, body in parts.items():
        pattern = rf"(<!-- {name} -->\n).*?(\n<!-- end -->)"
        text = re.sub(pattern, lambda m, body=body: m[1] + body.rstrip() + m[2], text, flags=re.S)
    return text


def main() -> None:
    """Rewrite FORMAT.md in place."""
    file = ROOT / "FORMAT.md"
    with tempfile.TemporaryDirectory() as folder:
        file.write_text(rewrite(file.read_text(), Path(folder)))
    sys.stdout.write(f"{file} written\n")


if __name__ == "__main__":
    main()
