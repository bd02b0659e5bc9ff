"""The errors that auheat raises."""

from __future__ import annotations


class AuheatError(Exception):
    r"""Base of all errors that auheat raises on purpose.

    The text reads *where: what is wrong (what would be right)*. An `AuheatError` of no narrower
    kind is something that happened to a request that was in order: a loss that is no number any
    more, a process that has gone. It is one line: a line break in a file's name reads `\n`.

    Example:
        >>> import auheat
        >>> try:
        ...     auheat.load_codebook("no-such-codebook")
        ... except auheat.AuheatError as error:
        ...     print(str(error).partition(" (")[0])
        codebook 'no-such-codebook': unknown
    """

    def __str__(self) -> str:
        return "\\n".join(super().__str__().splitlines())


class RequestError(AuheatError, ValueError):
    """An argument, an option or a combination of them that cannot be met.

    Example:
        >>> import auheat
        >>> try:
        ...     auheat.make_config(lr=-1)
        ... except ValueError as error:
        ...     print(error)
        --lr: -1 (expected > 0)
    """


class StoreError(AuheatError, OSError):
    """A store, photo folder or file that is absent, damaged, in use, or cannot be written.

    `errno`, `strerror` and `filename` are None: the text says it all.

    Example:
        >>> import auheat
        >>> try:
        ...     auheat.ShardDataset("no/such/folder")
        ... except OSError as error:
        ...     print(type(error).__name__)
        StoreError
    """


class MissingExtraError(AuheatError, ImportError):
    """An optional package that a request needs, and that is not installed.

    The text ends with the command that installs it.

    Example:
        >>> import auheat
        >>> issubclass(auheat.MissingExtraError, ImportError)
        True
    """
