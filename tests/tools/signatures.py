"""What the arguments of kernels are, to compile them without calling them.

A name means the same in every kernel, as far as this table goes; a spec says what is otherwise in its kernel. A name
that is new stands in one of the two. Strides (`s_n`, `sq_h`, ...) are integers.
"""

from __future__ import annotations

import re

_BY_TYPE = {
    "*bf16": "desc grad mean mean_k mean_v out own part q tail v x",
    "*fp32": "delta dk dmean_k dmean_v dq dv exact lse own_lse tail_lse threshold total weight",
    "*i32": "block border chunk column count end entry first found frame free high index indices item low number"
    " overflow_count overflow_rows pairs passes piece piece_chunk piece_len piece_of piece_start ranges retry_count"
    " retry_rows row rows sample sample_range sel shot_mask some span start stop taken tile tile_end tile_first"
    " tile_stop",
    "*i64": "step written",
    "*i8": "place",
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


def facts(kernel, constants: dict, types: dict[str, str]) -> tuple[dict, dict]:
    """(constants, what is a multiple of 16) by place, as Triton's sources take them."""
    places = {name: i for i, name in enumerate(kernel.arg_names)}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for name, i in places.items()
        if types[name].startswith("*") or _ALIGNED.fullmatch(name)
    }
    return {(places[name],): value for name, value in constants.items()}, aligned
