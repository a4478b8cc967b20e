"""Closing a listening socket without resetting those who had just connected.

Connections that the kernel has accepted and the process has not are reset when the socket closes. So first a packet
filter on the socket drops new SYNs (their senders try again a second later and meet a closed port, before any request
was made), then everything that is in the queue is accepted, then it closes.
The workers of a gateway share the socket, so where only one of them ends, or all are replaced, those that stay take the
filter off again.
Source: socket(7), SO_ATTACH_FILTER, SO_DETACH_FILTER; Linux Documentation/networking/filter.rst (classic BPF; on a TCP
socket the packet begins at the TCP header, whose byte 13 holds the flags).
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import socket
import struct

logger = logging.getLogger("lockstep.gateway")

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_SYN, _SYN_ACK = 0x02, 0x12
# (code, jump if true, jump if false, constant)
_DROP_NEW_CONNECTIONS = (
    (0x30, 0, 0, 13),  # load the byte of the flags
    (0x54, 0, 0, _SYN_ACK),  # keep SYN and ACK
    (0x15, 0, 1, _SYN),  # SYN alone: next line, else the one after
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # let pass, whole
)


def refuse_new_connections(sock: socket.socket) -> None:
    """From now on the socket gets no new connections; those in its queue stay. Logs where the kernel has no filters."""
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in _DROP_NEW_CONNECTIONS)
    memory = ctypes.create_string_buffer(program)  # has to live until setsockopt has copied it
    option = struct.pack("HL", len(_DROP_NEW_CONNECTIONS), ctypes.addressof(memory))
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, option)
    except OSError as error:
        logger.warning("new connections cannot be filtered (%s): some may be reset at the close", error)


def take_new_connections(sock: socket.socket) -> None:
    """Undo `refuse_new_connections`, by whichever process it was done; nothing happens where it was not."""
    with contextlib.suppress(OSError):  # ENOENT: there is no filter
        sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
