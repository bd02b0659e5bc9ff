"""Small functions that several test modules share."""

import html.parser

import numpy as np

from auheat.records import MIRROR


def mirror_points(points: np.ndarray, width: int) -> np.ndarray:
    """The landmarks of the mirrored image."""
    flipped = points.copy()
    flipped[..., 0] = width - 1 - flipped[..., 0]
    return flipped[..., MIRROR, :]


class Page(html.parser.HTMLParser):
    """Counts the tags by class and keeps every address and text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.sources, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found.get("class"), found.get("id")))
        self.sources += [v for k, v in attrs if k in ("src", "href", "action", "data")]

    def handle_data(self, data):
        self.texts.append(data.strip())

    def count(self, tag, kind=None):
        return sum(t == tag and (kind is None or c == kind) for t, c, _ in self.tags)
