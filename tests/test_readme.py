"""The README's Python runs, and prints what the README says it prints.

A ```python block runs in the namespace of those before it. A ```text block that follows one, with
nothing but blank lines between, is what that block prints, to the letter.
"""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

import fusegraph as fg

README = Path(__file__).parents[1] / "README.md"
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    line: int
    code: str
    printed: str | None  # None: the document does not say


def blocks_of(text):
    found = []
    fences = list(FENCE.finditer(text))
    for at, fence in enumerate(fences):
        if fence[1] != "python":
            continue
        after = fences[at + 1] if at + 1 < len(fences) else None
        follows = after and after[1] == "text" and not text[fence.end() : after.start()].strip()
        line = text.count("\n", 0, fence.start()) + 1
        found.append(Block(line, fence[2], after[2] if follows else None))
    return found


def shown(text):
    """Lines without what an editor strips."""
    return [line.rstrip() for line in text.strip("\n").splitlines()]


def check(text, name="README.md"):
    """Run the blocks in order; a difference in what one prints is an error."""
    namespace = {"__name__": "__main__"}
    for block in blocks_of(text):
        place = f"{name}, line {block.line}"
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * block.line + block.code, name, "exec"), namespace)
        if block.printed is not None:
            assert shown(printed.getvalue()) == shown(block.printed), place


def test_the_readme_prints_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with fg.options(engine="auto", verify=False):
        check(README.read_text(encoding="utf-8"))


def test_the_readme_has_its_marked_commands():
    text = README.read_text(encoding="utf-8")
    for name in ("demo", "test"):
        assert re.search(rf"^<!-- command: {name} -->\n```sh\n[^\n]+\n```$", text, re.MULTILINE)


RIGHT = "a\n\n```python\nx = 2\n```\n\n```python\nprint(x + 1)\nprint()\n```\n\n```text\n3\n```\n"


def test_a_right_document_passes():
    assert [b.printed for b in blocks_of(RIGHT)] == [None, "3\n"]
    check(RIGHT)


@pytest.mark.parametrize("wrong", [RIGHT.replace("3\n", "4\n"), RIGHT.replace("3\n", "3\n3\n")])
def test_a_difference_in_what_is_printed_fails(wrong):
    with pytest.raises(AssertionError, match="line 7"):
        check(wrong)


def test_a_block_that_raises_fails():
    with pytest.raises(ZeroDivisionError):
        check("```python\n1 / 0\n```\n")


def test_other_text_between_means_that_nothing_is_said():
    assert blocks_of("```python\n1\n```\nelse:\n```text\n2\n```\n")[0].printed is None
