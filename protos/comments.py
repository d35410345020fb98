"""The comments of a proto file, by the element that each is about."""

from __future__ import annotations

from google.protobuf.descriptor_pb2 import FileDescriptorProto

# Numbers of what is declared, in the descriptor that declares it.
MESSAGES, ENUMS, SERVICES, SYNTAX = 4, 5, 6, 12
MEMBERS = 2
"""Of a message its fields, of an enum its values, of a service its methods."""


class Comments:
    """What the comments of one file say."""

    def __init__(self, file: FileDescriptorProto) -> None:
        """Takes the file, with its source info."""
        self._texts = {
            tuple(place.path): place.leading_comments for place in file.source_code_info.location
        }

    def of(self, *path: int) -> str:
        """The comment before an element, without indentation; empty where there is none.

        Args:
            path: numbers and indexes that lead there, for example `MESSAGES, 0, MEMBERS, 3`;
                `SYNTAX` for what is said of the file.
        """
        lines = self._texts.get(path, "").split("\n")
        return "\n".join(line.removeprefix(" ") for line in lines).strip()
