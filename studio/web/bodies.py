"""Bodies of requests within their bounds: read whole, given again, or counted as they come."""

from __future__ import annotations

import re

from starlette.types import Message, Receive

_BOUNDARY = re.compile(rb'boundary="?([^";,]+)"?', re.I)


async def whole(receive: Receive, most: int) -> bytes | None:
    """The whole body, or None when it is larger than `most` bytes."""
    content = bytearray()
    while True:
        message = await receive()
        content += message.get("body", b"")
        if len(content) > most:
            return None
        if not message.get("more_body"):
            return bytes(content)


def replayed(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read to the app; then whatever else comes, such as a disconnect."""
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


class Counted:
    """A body that ends, as if the sender had gone, after `most` bytes or `parts` files."""

    def __init__(self, receive: Receive, most: int, kind: bytes, parts: int) -> None:
        self._receive = receive
        self._most = most
        self._parts = parts
        found = _BOUNDARY.search(kind)
        self._mark = b"--" + found[1] if found else b""
        self._seen = 0
        self._tail = b""
        self.come = 0

    @property
    def over(self) -> bool:
        # The mark stands before each part and once at the end.
        return self.come > self._most or self._seen > self._parts + 1

    async def receive(self) -> Message:
        message = await self._receive()
        content = message.get("body", b"")
        self.come += len(content)
        if self._mark:
            window = self._tail + content
            self._seen += window.count(self._mark)
            self._tail = window[-(len(self._mark) - 1) :]
        return {"type": "http.disconnect"} if self.over else message
