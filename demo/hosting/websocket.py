"""The little of RFC 6455 that reading a server's text messages takes."""

from __future__ import annotations

import base64
import os
import socket
import struct
import time

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


class WebSocket:
    def __init__(self, host: str, port: int, path: str, timeout: float = 10) -> None:
        self.socket = socket.create_connection((host, port), timeout)
        self.buffer = b""
        self.parts = b""
        self.kind = TEXT
        key = base64.b64encode(os.urandom(16)).decode()
        request = (
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        self.socket.sendall(request.encode())
        while b"\r\n\r\n" not in self.buffer:
            self.read_some()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        if head.split(b" ", 2)[1] != b"101":
            raise ConnectionError(f"no websocket at {path}: {head.splitlines()[0].decode()}")

    def receive(self, timeout: float) -> str | None:
        """The next text message, or None if none comes in time. Binary messages (previews) are passed over."""
        deadline = time.monotonic() + timeout
        while True:
            while (frame := self.take_frame()) is not None:
                if (text := self.handle(*frame)) is not None:
                    return text
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return None
            self.socket.settimeout(remaining)
            try:
                self.read_some()
            except TimeoutError:
                return None

    def read_some(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("the server closed the websocket")
        self.buffer += data

    def take_frame(self) -> tuple[bool, int, bytes] | None:
        """One frame off the buffer, once it is there as a whole: (last of its message, opcode, payload)."""
        if len(self.buffer) < 2:
            return None
        first, length, start = self.buffer[0], self.buffer[1] & 0x7F, 2
        if length > 125:
            form = ">H" if length == 126 else ">Q"
            start += struct.calcsize(form)
            if len(self.buffer) < start:
                return None
            (length,) = struct.unpack_from(form, self.buffer, 2)
        if len(self.buffer) < start + length:
            return None
        payload, self.buffer = self.buffer[start : start + length], self.buffer[start + length :]
        return bool(first & 0x80), first & 0x0F, payload

    def handle(self, last: bool, opcode: int, payload: bytes) -> str | None:
        if opcode == PING:
            self.send(PONG, payload)
        elif opcode == CLOSE:
            raise ConnectionError("the server closed the websocket")
        elif opcode in (CONTINUATION, TEXT, BINARY):
            self.kind = opcode or self.kind
            self.parts += payload
            if last:
                message, self.parts = self.parts, b""
                return message.decode("utf-8", "replace") if self.kind == TEXT else None
        return None

    def send(self, opcode: int, payload: bytes) -> None:
        """A short control frame; what a client sends must be masked."""
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload[:125]))
        self.socket.sendall(bytes((0x80 | opcode, 0x80 | len(masked))) + mask + masked)

    def close(self) -> None:
        self.socket.close()
