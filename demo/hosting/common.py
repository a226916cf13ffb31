"""What every step needs: errors a person can act on, one line of progress, a lock between processes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent.parent

REASONS = (  # what a failed command prints -> what that means here; the first match counts
    ("No space left on device", "the disk is full."),
    ("Disk quota exceeded", "the disk quota is used up."),
    ("ProxyError", "the proxy refused the connection; check the network."),
    ("NewConnectionError", "the package index cannot be reached; check the network."),
    ("NameResolutionError", "the package index cannot be reached; check the network."),
    ("ConnectTimeout", "the package index does not answer; check the network."),
    ("Read timed out", "the connection to the package index broke; try again."),
    ("CERTIFICATE_VERIFY_FAILED", "this machine does not trust the package index's certificate."),
    ("ResolutionImpossible", "the package versions asked for exclude each other."),
    ("No matching distribution", "there is no package for Python {python} on this machine (3.10 to 3.13 should do)."),
    ("Permission denied", "a file could not be written (permission denied)."),
)


class HostError(RuntimeError):
    """What failed and why, in a sentence for the person in front of the terminal."""


def say(text: str) -> None:
    print(f"[host] {text}", flush=True)


def reason_in(text: str) -> str:
    """The likely cause in what a failed command printed."""
    found = next((reason for sign, reason in REASONS if sign in text), "the command failed.")
    return found.format(python=sys.version.split()[0])


def tail(text: str, lines: int = 12) -> str:
    """The last lines that say something, indented."""
    kept = [line.rstrip() for line in text.splitlines() if line.strip() and not line.startswith("WARNING: Location")]
    return "\n".join("    " + line for line in kept[-lines:])


@contextmanager
def locked(path: Path, waiting: str) -> Iterator[None]:
    """One process at a time. The system lets go of the lock however this one ends."""
    with path.open("a") as file:
        if not try_lock(file.fileno()):
            say(waiting)
            while not try_lock(file.fileno()):
                time.sleep(0.5)
        yield


def try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
