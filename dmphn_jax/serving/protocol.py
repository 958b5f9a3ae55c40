"""HTTP with patience that ends: what uvicorn's own protocol waits for without a limit."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

_PATIENCE = 20.0  # seconds between requests
# For the system's buffer to take more of an answer, on a slow line it holds a minute's worth.
_STUCK = 120.0


class Impatient(H11Protocol):
    """Closes a connection that stays too long between requests, or takes nothing of an answer.

    Between requests are: a header that does not end, the rest of a body that was refused, silence.
    """

    _between: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Is called after an answer."""
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        super().pause_writing()
        self._stuck = self.loop.call_later(_STUCK, self.transport.abort)

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        super().resume_writing()
        self._stuck = _cancel(self._stuck)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._between, self._stuck = _cancel(self._between), _cancel(self._stuck)
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._between = _cancel(self._between)
        elif self._between is None and not self.transport.is_closing():
            self._between = self.loop.call_later(_PATIENCE, self.transport.abort)


def _cancel(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """Returns what stands in a cancelled timer's place."""
    if timer is not None:
        timer.cancel()
    return None
