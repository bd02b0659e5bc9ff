"""Deliberate faults: a test that compares with an oracle must fail when one is put in."""

import inspect
import sys
import textwrap


def mutate(monkeypatch, owner, name, old, new):
    """Replace one place in the source of a function or method of `owner`, for one test."""
    source = textwrap.dedent(inspect.getsource(getattr(owner, name)))
    assert source.count(old) == 1, f"{name} has {old!r} {source.count(old)} times"
    module = owner if inspect.ismodule(owner) else sys.modules[owner.__module__]
    code = compile(source.replace(old, new), f"<mutant of {name}>", "exec", dont_inherit=True)
    made: dict = {}
    exec(code, vars(module), made)
    monkeypatch.setattr(owner, name, made[name])
