"""Show reStructuredText of docstrings, code blocks and references, as Markdown."""

import re
from typing import Any

from griffe import Extension, Object

CODE_BLOCK = re.compile(r"^( *)\.\. code-block:: (\w+)\n\n((?:\1 {4}.*\n?|\s*\n)+)", re.M)
ROLE = re.compile(r":(?:class|func|meth|attr|data|mod):`~?([^`]+)`")


class RstDocstrings(Extension):
    """Rewrite docstrings before they are parsed."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring is not None:
            text = CODE_BLOCK.sub(_fenced, obj.docstring.value)
            obj.docstring.value = ROLE.sub(lambda m: f"`{m[1].split('.')[-1]}`", text)


def _fenced(match: re.Match[str]) -> str:
    indent, language, body = match.groups()
    lines = [line[len(indent) + 4 :] for line in body.rstrip().split("\n")]
    return (
        "\n".join([f"{indent}```{language}", *(indent + x for x in lines), f"{indent}```", ""])
        + "\n"
    )
