"""What each part of the page must offer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

Message = dict[str, Any]  # a JSON object
Send = Callable[
    [Message], Awaitable[None]
]  # returns when the page can take more; after the page was closed it does nothing


class Part(Protocol):
    """One tab of one page. Messages come one at a time, in order; parts do not wait for one another."""

    async def handle(self, message: Message) -> None:
        """Raises InputError for what the page is to be told."""

    async def close(self) -> None:
        """The page is gone or the server stops: ends all that the part has started."""
