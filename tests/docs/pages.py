"""Code blocks of Markdown pages, with the comment that stands before a block and says what a test does with it."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"(?:<!-- (?P<comment>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A code block.

    Args:
        language: what stands after the fence: ``python``, ``sh``, or nothing for what is no code.
        comment: the HTML comment in the line before it; empty where there is none.
        code: the lines between the fences.
    """

    language: str
    comment: str
    code: str

    def argument(self, kind: str) -> str | None:
        """What stands after ``kind:`` in the comment."""
        return self.comment.removeprefix(f"{kind}: ") if self.comment.startswith(f"{kind}: ") else None


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page, in order."""
    found = _BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(m["language"], m["comment"] or "", m["code"]) for m in found]


def pages() -> list[Path]:
    """README and docs; CONTRIBUTING has a test of its own."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
