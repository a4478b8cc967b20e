"""The gunicorn worker: uvicorn's server, which on SIGTERM first fails readiness, then waits, then closes."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar

from uvicorn.config import Config
from uvicorn.server import Server
from uvicorn_worker import UvicornWorker

from serving.gateway.last_call import refuse_new_connections, take_new_connections
from serving.gateway.protocol import GatewayProtocol

if TYPE_CHECKING:  # gunicorn's parent imports this file, and must not import prometheus_client
    from serving.gateway.context import Context

KEEP_ALIVE_S = 5
LAST_CALL_S = 0.5
EXIT_WITHIN_S = 25.0  # after SIGTERM: `drain_s`, 20 at most, and then what is in flight
MARGIN_S = 1.0


class DrainingServer(Server):
    """SIGTERM starts the drain; SIGINT and SIGQUIT end at once, as uvicorn does it."""

    def __init__(self, config: Config, context: Context, listeners: list[socket.socket]) -> None:
        super().__init__(config)
        self._context, self._listeners = context, listeners
        self._close_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Signal handler: notes the wish, `on_tick` acts on it."""
        if sig != signal.SIGTERM:
            super().handle_exit(sig, frame)
        elif self._close_at is None:
            self._context.draining = True
            self._close_at = time.monotonic() + self._context.settings.drain_s

    async def on_tick(self, counter: int) -> bool:
        """Every 0.1 s; True ends the main loop."""
        if self._close_at is not None:
            self._context.metrics.set("lockstep_draining", 1)
            if time.monotonic() >= self._close_at:
                return True
        elif not self.should_exit:  # another worker that ended has closed the door that is ours too
            for listener in self._listeners:
                take_new_connections(listener)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, answer what was accepted, then let uvicorn wait for what is in flight."""
        for sock in sockets or []:
            refuse_new_connections(sock)
        await asyncio.sleep(LAST_CALL_S)
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        await super().shutdown([])


class GatewayWorker(UvicornWorker):  # type: ignore[misc]
    """One process of the gateway."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": GatewayProtocol,
        "ws": "none",
        "lifespan": "on",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
    }

    async def _serve(self) -> None:
        context: Context = self.wsgi.state.context
        self.config.app = self.wsgi
        self.config.timeout_graceful_shutdown = int(EXIT_WITHIN_S - context.settings.drain_s - 2 * MARGIN_S)
        self._install_sigquit_handler()
        # The plain sockets: of gunicorn's wrappers uvloop closes the number and then the object, once too often.
        listeners = [listener.sock for listener in self.sockets]
        await DrainingServer(self.config, context, listeners).serve(sockets=listeners)
