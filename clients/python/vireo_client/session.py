"""What a viewer did in this session without watching it."""

from __future__ import annotations

from dataclasses import dataclass

from vireo_client._generated.enums import SESSION_ACTION_NUMBERS, SessionAction

_NUMBERS = {action: number for number, action in SESSION_ACTION_NUMBERS.items()}


@dataclass(frozen=True, slots=True)
class SessionVideo:
    """A video that the viewer came upon in this session. It counts for one request alone."""

    video_id: str
    """Your own id of the video; unknown ones are ignored."""
    action: SessionAction = SessionAction.OPENED
    """How; what was opened counts more than what was searched or hovered over."""

    @property
    def action_number(self) -> int:
        """Number of the action in messages."""
        return _NUMBERS[SessionAction(self.action)]
