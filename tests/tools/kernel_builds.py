"""Kernels compiled without calling them, and so without a GPU: what their arguments are.

A name means the same in every kernel, as far as this table goes; a spec says what is otherwise in its kernel. A name
that is new stands in one of the two. Strides (`s_n`, `sq_h`, ...) are integers.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

_BY_TYPE = {
    "*bf16": "desc grad mean mean_k mean_v out own part q tail v x",
    "*fp32": "delta dk dmean_k dmean_v dq dv exact k_scale lse offset own_lse q_scale tail_lse threshold total weight"
    " x_scale",
    "*i32": "block border chunk column count end entry first found frame free high index indices item low number"
    " overflow_count overflow_rows pairs passes piece piece_chunk piece_len piece_of piece_start ranges retry_count"
    " retry_rows row rows sample sample_range sel shot_mask some span start stop taken tile tile_end tile_first"
    " tile_stop",
    "*i64": "step written",
    "*i8": "k8 place q8 x8",
    "i32": "C F H K N S W bh_first enough head heads k lists most num_blocks own_first own_rows parts pieces rank"
    " rotation seen segment share steps tiles width work",
    "fp32": "bar factor least scale",
}
TYPES = {name: kind for kind, names in _BY_TYPE.items() for name in names.split()}
_STRIDE = re.compile(r"s[a-z]?_(b|h|n|g|bh)|[kv]_(b|h|c)")
_ALIGNED = re.compile(r"s[qkvog]?_(b|h|n|bh)")  # to 16, as those of a model's tensors are


def signature(kernel, constants: dict, own: dict[str, str]) -> dict[str, str]:
    """Type of every argument, as `triton.compile` takes it. own: this kernel's, where a name means something else."""

    def kind(name: str) -> str:
        if name in constants:
            return "constexpr"
        return own.get(name) or ("i32" if _STRIDE.fullmatch(name) else TYPES[name])

    return {name: kind(name) for name in kernel.arg_names}


@dataclass(frozen=True)
class Build:
    """One kernel as it is built for one architecture, without calling it."""

    source: ASTSource
    architecture: int
    options: dict[str, int]

    @classmethod
    def of(
        cls, kernel, constants: dict, own: dict[str, str], architecture: int, options: dict[str, int], kind=ASTSource
    ) -> Build:
        types = signature(kernel, constants, own)
        places = {name: i for i, name in enumerate(kernel.arg_names)}
        aligned = {
            (i,): [["tt.divisibility", 16]]
            for name, i in places.items()
            if types[name].startswith("*") or _ALIGNED.fullmatch(name)
        }
        values = {(places[name],): value for name, value in constants.items()}
        return cls(kind(kernel, types, values, aligned), architecture, options)

    def key(self) -> str:
        """Of all that goes into it but Triton: its source and that of whatever it calls, types, constants, options."""
        what = self.source.hash(), self.architecture, sorted(self.options.items())
        return hashlib.sha256(repr(what).encode()).hexdigest()[:24]

    def compiled(self):
        """Triton's compiled kernel: its code by stage in `asm`, what it asks for in `metadata`."""
        return triton.compile(self.source, target=GPUTarget("cuda", self.architecture, 32), options=self.options)
