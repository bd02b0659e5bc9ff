"""How the site reads docstrings: their `Example:` is the section that griffe calls `Examples:`."""

import re

import griffe


class OneExample(griffe.Extension):
    """Renames the section, so that its lines are shown as code and not as text."""

    def on_object(self, *, obj, **_) -> None:
        """Change an object's docstring before it is parsed (called by griffe)."""
        if obj.docstring:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = text
