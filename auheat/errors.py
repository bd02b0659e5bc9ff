"""The errors that auheat raises."""

from __future__ import annotations


class AuheatError(Exception):
    """A request that cannot be met; its text reads *where: what is wrong (what would be right)*."""
