"""Which tokens a model's self-attention sees: one file per model family, which ends with what it declares.

To add a family, put a file here that writes down the sequence of its video self-attention and ends with
`ADAPTERS = (Adapter(...),)`. Nothing else has to know of it. A row in `tests/host/variants` then tests it on a tiny
model, and `python tests/host/table.py` writes it into the README and docs/models.md.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from ...errors import MoCError
from .base import Adapter, Sequence


def collect() -> dict[str, Adapter]:
    """Diffusion model class -> its adapter, of every file in this folder."""
    found: dict[str, Adapter] = {}
    for file in iter_modules(__path__):
        for adapter in getattr(import_module(f"{__name__}.{file.name}"), "ADAPTERS", ()):
            for name in adapter.classes:
                if name in found:
                    raise MoCError(f"{found[name].name} and {adapter.name} both declare the class {name}.")
                found[name] = adapter
    return found


ADAPTERS = collect()


def class_of(diffusion_model: object) -> str:
    """Its name, also where torch.compile has put a module around it."""
    return type(getattr(diffusion_model, "_orig_mod", diffusion_model)).__name__


def adapter_for(diffusion_model: object) -> Adapter | None:
    return ADAPTERS.get(class_of(diffusion_model))


__all__ = ["ADAPTERS", "Adapter", "Sequence", "adapter_for", "class_of", "collect"]
