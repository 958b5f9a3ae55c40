"""An HTTP server in threads for stand-ins, which leaves no word in another test's output."""

from __future__ import annotations

from http.server import ThreadingHTTPServer
from typing import Any


class QuietServer(ThreadingHTTPServer):
    """Says nothing of a broken connection: its test may have ended, and another one reads stderr.

    What a test is about it sees at its client.
    """

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ends a request that failed."""
