"""Messages in files of JSON lines, in the spelling of REST, and sending them in batches."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from google.protobuf.json_format import Parse, ParseError
from google.protobuf.message import Message

from vireo.ops.cli.output import progress_bar
from vireo.server.errors import VireoError

Content = TypeVar("Content", bound=Message)
Item = TypeVar("Item")


def messages_in(file: Path, kind: type[Content]) -> list[Content]:
    """Return the message in each line of a file that isn't blank; `-` is standard input.

    Raises:
        VireoError: the file can't be read, a line isn't such a message, or there is none.
    """
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VireoError(f"cannot read {file}: {error}; it has a line of JSON each") from error
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found.append(Parse(line, kind()))
        except (ParseError, RecursionError) as error:
            raise VireoError(
                f"{file}, line {number}: {error}; docs/api.md has the fields of "
                f"{kind.DESCRIPTOR.name}, in lowerCamelCase here"
            ) from error
    if not found:
        raise VireoError(f"{file} is empty; it has a line of JSON each")
    return found


def in_batches(items: Sequence[Item], what: str, size: int) -> Iterator[Sequence[Item]]:
    """Yield runs of items, showing on standard error how many are done."""
    with progress_bar(what, len(items)) as show:
        for begin in range(0, len(items), size):
            yield items[begin : begin + size]
            show(min(begin + size, len(items)), None)
