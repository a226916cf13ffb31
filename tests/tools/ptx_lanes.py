"""Runs the PTX of one inline assembly block on the CPU, for a warp of 32 threads: what `hopper_few_ptx.py` needs of it.

Threads keep a place in the program each; those furthest behind go on, so that threads meet again after a branch, as
`shfl` and `vote` ask for.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

LANES = 32


def as_float(x: np.ndarray) -> np.ndarray:
    return (x & 0xFFFFFFFF).astype(np.uint32).view(np.float32)


def as_int(x: np.ndarray) -> np.ndarray:
    """Signed, as 64 bits."""
    return (x & 0xFFFFFFFF).astype(np.uint32).view(np.int32).astype(np.int64)


def of_float(x: np.ndarray) -> np.ndarray:
    out = np.asarray(x, dtype=np.float32)
    return np.where(np.isnan(out), 0x7FFFFFFF, out.view(np.uint32)).astype(np.int64)  # one NaN, as on the GPU


def _count(x: np.ndarray) -> np.ndarray:
    return np.array([int(v & 0xFFFFFFFF).bit_count() for v in x])


def _exact(x, y, z, towards: float | None = None):
    """A product and a sum, rounded once: to the nearest number, or down or up."""
    exact = x.astype(np.float64) * y + z
    out = exact.astype(np.float32)
    if towards is not None:
        over = out > exact if towards < 0 else out < exact
        out = np.where(over, np.nextafter(out, np.float32(towards)), out)
        out = np.where((exact == 0) & (towards < 0), np.float32(-0.0), out)
    return out


def _turned(x: np.ndarray) -> np.ndarray:
    return np.array([int(f"{int(v & 0xFFFFFFFF):032b}"[::-1], 2) for v in x])


FLOAT: dict[str, Callable] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "fma": _exact, "max": np.fmax, "min": np.fmin,
    "neg": np.negative, "abs": np.abs, "rcp": lambda x: 1 / x, "sqrt": np.sqrt, "lg2": np.log2, "div": np.divide,
}  # fmt: skip
INTEGER: dict[str, Callable] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "max": np.maximum, "min": np.minimum, "and": np.bitwise_and,
    "or": np.bitwise_or, "not": np.invert, "popc": _count, "brev": _turned, "shl": lambda x, n: x << n,
    "shr": lambda x, n: (x & 0xFFFFFFFF) >> n, "shf": lambda low, high, n: high << n | (low & 0xFFFFFFFF) >> (32 - n),
}  # fmt: skip
COMPARE = {"gt": np.greater, "ge": np.greater_equal, "lt": np.less, "le": np.less_equal, "eq": np.equal,
           "ne": np.not_equal}  # fmt: skip


class Warp:
    """values: what operands $0, $1, ... hold at first, [32] int64 each, bits of a float as they are; 64 bits for places
    in memory. After `run`: `values` again, and `stored` (place -> int)."""

    def __init__(self, text: str, values: dict[str, np.ndarray]) -> None:
        self.values, self.stored = dict(values), {}
        self.steps: list[tuple[str, str, list[str]]] = []
        self.labels: dict[str, int] = {}
        for line in text.strip("{}\n ").splitlines():
            line = line.strip().rstrip(";")
            if line.endswith(":"):
                self.labels[line[:-1]] = len(self.steps)
            elif line and not line.startswith(".reg"):
                guard, name, rest = re.fullmatch(r"(@!?\w+ )?([\w.]+) (.*)", line).groups()
                self.steps.append((guard or "", name, [x.strip() for x in rest.split(",")]))

    def get(self, name: str) -> np.ndarray:
        if name == "%laneid":
            return np.arange(LANES, dtype=np.int64)
        if name.startswith("0f"):
            return np.full(LANES, int(name[2:], 16), dtype=np.int64)
        if re.fullmatch(r"-?([0-9]+|0x[0-9a-f]+)", name):
            return np.full(LANES, int(name, 0), dtype=np.int64)
        return self.values.get(name, np.zeros(LANES, dtype=np.int64))

    def set(self, name: str, value: np.ndarray, where: np.ndarray) -> None:
        self.values[name] = np.where(where, value, self.get(name))

    def run(self) -> None:
        at = np.zeros(LANES, dtype=int)
        while (step := at.min()) < len(self.steps):
            guard, name, args = self.steps[step]
            here = at == step
            at[here] += 1
            if guard:
                here = here & (self.get(guard.strip("@! ")) != 0) ^ (here & ("!" in guard))
            if name == "bra":
                at[here] = self.labels[args[0]]
            elif here.any():
                with np.errstate(all="ignore"):
                    self.do(name.split("."), args, here)

    def do(self, name: list[str], args: list[str], here: np.ndarray) -> None:
        kind, floats = name[0], "f32" in name
        read = (lambda x: as_float(self.get(x))) if floats else (lambda x: as_int(self.get(x)))
        if kind == "st":
            value = self.get(args[1])
            places = self.get(args[0].strip("[]"))
            self.stored |= {int(places[i]): int(as_int(value)[i]) for i in np.flatnonzero(here)}
        elif kind == "vote":
            self.set(args[0], np.full(LANES, bool((self.get(args[1])[here] != 0).any())), here)
        elif kind == "shfl":
            assert here.all(), "threads went different ways"
            self.set(args[0], self.get(args[1])[np.arange(LANES) ^ int(args[2])], here)
        elif kind == "setp":
            out = COMPARE[name[1]](read(args[1]), read(args[2]))
            self.set(args[0], out & (self.get(args[3]) != 0) if "and" in name else out, here)
        elif kind == "selp":
            self.set(args[0], np.where(self.get(args[3]) != 0, self.get(args[1]), self.get(args[2])), here)
        elif kind == "mov":
            self.set(args[0], self.get(args[1]), here)
        elif kind == "cvt":
            self.set(args[0], of_float(as_int(self.get(args[1]))), here)
        elif "s64" in name or "wide" in name:
            self.set(args[0], INTEGER[kind](*map(self.get, args[1:])), here)
        elif "rm" in name or "rp" in name:
            towards = -np.inf if "rm" in name else np.inf
            self.set(args[0], of_float(_exact(*map(read, args[1:]), towards)), here)
        elif floats:
            self.set(args[0], of_float(FLOAT[kind](*map(read, args[1:]))), here)
        else:
            self.set(args[0], INTEGER[kind](*map(read, args[1:])) & 0xFFFFFFFF, here)
