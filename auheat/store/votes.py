"""The votes that a data set has for each photo: landmarks/votes.csv of a store."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from auheat.errors import StoreError
from auheat.expressions import EXPRESSIONS
from auheat.records import Array
from auheat.shards.schema import LANDMARKS
from auheat.utils.files import cannot_write, write_whole
from auheat.utils.reading import read_limited

VOTES = "votes.csv"

_ID = "id"
_MOST_BYTES = 2**28
_MOST = 2**31


@dataclass(frozen=True, slots=True, eq=False)
class Votes:
    """How many people saw what in each photo.

    `names` are the columns: canonical expressions, and what else could be voted for ("unknown").
    `counts` has a row for each photo's id.
    """

    names: tuple[str, ...]
    counts: Mapping[str, tuple[int, ...]]

    def count(self, ids: Sequence[str], classes: Sequence[str]) -> Array:
        """Return the votes for each class (N, K) f64; NaN for a photo without votes."""
        places = [self.names.index(name) if name in self.names else -1 for name in classes]
        out: Array = np.full((len(ids), len(classes)), np.nan)
        for row, key in enumerate(ids):
            if (found := self.counts.get(key)) is not None:
                out[row] = [found[place] if place >= 0 else 0 for place in places]
        return out

    def share(self, ids: Sequence[str], classes: Sequence[str]) -> Array:
        """Return each class's share of the votes for any of these classes, (N, K) f32.

        NaN for a photo without votes for one of them: votes for anything else say nothing here.
        """
        counts = self.count(ids, classes)
        total = counts.sum(1, keepdims=True)
        shares: Array = np.full(counts.shape, np.nan, np.float32)
        np.divide(counts, total, out=shares, where=total > 0, casting="same_kind")
        return shares

    def agree(self, ids: Sequence[str], labels: Sequence[str]) -> Array:
        """Return the share of all of a photo's votes that its label has, (N,) f64; NaN without."""
        out: Array = np.full(len(ids), np.nan)
        for row, (key, label) in enumerate(zip(ids, labels, strict=True)):
            found = self.counts.get(key)
            if found is None or label not in self.names:
                continue
            if total := sum(found):
                out[row] = found[self.names.index(label)] / total
        return out


def write_votes(store: Path, votes: Mapping[str, Mapping[str, int]]) -> None:
    """Write the votes of a data set beside its landmarks; without any, remove those of another.

    Args:
        store: The store's folder.
        votes: Photo's id -> what was voted for -> how often; all photos have the same choices.

    Raises:
        StoreError: The file cannot be written.

    Example:
        >>> from auheat.store.votes import read_votes, write_votes
        >>> write_votes(store, {"a": {"Fear": 3, "unknown": 1}})  # doctest: +SKIP
    """
    file = store / LANDMARKS / VOTES
    text = io.StringIO()
    names = list(next(iter(votes.values()), {}))
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_ID, *names])
    writer.writerows([key, *(row[name] for name in names)] for key, row in sorted(votes.items()))
    try:
        if votes:
            write_whole(file, text.getvalue().encode())
        else:
            file.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(file, error) from error


def join_votes(parts: Sequence[tuple[str, Votes | None]]) -> dict[str, dict[str, int]]:
    """Return the votes of several stores as those of one, for `write_votes`.

    Args:
        parts: What each store's ids get in front, and its votes. What only some could vote for has
            no votes in the others; of an id that several have the first one's votes count, as
            `merge` keeps the first of equal rows.

    Returns:
        Photo's id -> what was voted for -> how often.

    Example:
        >>> from auheat.store.votes import Votes, join_votes
        >>> join_votes([("a/", Votes(("Fear",), {"1": (3,)})), ("b/", None)])
        {'a/1': {'Fear': 3}}
    """
    known = [(prefix, votes) for prefix, votes in parts if votes is not None]
    choices = dict.fromkeys((name for _, votes in known for name in votes.names), 0)
    return {
        prefix + key: choices | dict(zip(votes.names, row, strict=True))
        for prefix, votes in reversed(known)
        for key, row in votes.counts.items()
    }


def read_votes(store: Path) -> Votes | None:
    """Return the votes of a store; None where its data set has none.

    Args:
        store: The store's folder.

    Returns:
        The votes of every photo that has some.

    Raises:
        StoreError: A file that is no such table.

    Example:
        >>> from pathlib import Path
        >>> from auheat.store.votes import read_votes
        >>> read_votes(Path("no-store")) is None
        True
    """
    file = store / LANDMARKS / VOTES
    if not file.is_file():
        return None
    remedy = "`auheat extract` writes it again"
    try:
        text = io.StringIO(read_limited(file, _MOST_BYTES).decode(), newline="")
        rows = list(csv.reader(text))
        (first, *names), counts = rows[0], dict[str, tuple[int, ...]]()
        if first != _ID or not {*names} & {*EXPRESSIONS} or len({*names}) < len(names):
            raise StoreError(
                f"{file}: columns {', '.join(rows[0])} (expected id and expressions; {remedy})"
            )
        for line, (key, *cells) in enumerate(rows[1:], 2):
            numbers = tuple(map(int, cells))
            fits = len(numbers) == len(names) and all(0 <= n < _MOST for n in numbers)
            if not fits or key in counts:
                raise StoreError(
                    f"{file}: line {line}: {', '.join([key, *cells])} (expected another id, and "
                    f"{len(names)} counts; {remedy})"
                )
            counts[key] = numbers
    except StoreError:
        raise
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise StoreError(f"{file}: unreadable ({remedy})") from error
    return Votes(tuple(names), counts)
