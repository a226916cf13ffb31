"""One worker process: a tiny model of ComfyUI, sharded over the workers by raylight's own code or by what stands in."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

REAL = os.environ.get("MOC_RAYLIGHT_DIR")


def main(pipe: Any, rank: int, ranks: int, meet: str, variant: str) -> None:
    worker = _worker(rank, ranks, meet, variant)
    import cloudpickle

    while True:
        try:
            name, args, kwargs = cloudpickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        except Exception as error:  # the worker does not know what it was sent
            pipe.send_bytes(cloudpickle.dumps((None, error)))
            continue
        try:
            told = getattr(worker, name)(*args, **kwargs), None
        except Exception as error:
            told = None, RuntimeError(f"{type(error).__name__}: {error}")  # Ray wraps it likewise
        pipe.send_bytes(cloudpickle.dumps(told))


def _worker(rank: int, ranks: int, meet: str, variant: str) -> Any:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from conftest import start_comfyui

    start_comfyui()  # and not the pack: a worker does not know it
    sys.modules.pop("mixture_of_contexts", None)
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=ranks)
    degrees = {"is_xdit": True, "is_fsdp": False, "ulysses_degree": ranks, "ring_degree": 1, "cfg_degree": 1}
    degrees |= {"attention": "TORCH_MATH", "sync_ulysses": False}
    import tiny

    if REAL:
        return _real(rank, ranks, degrees, tiny.load(variant))
    from raylight_engine import stand_in

    return stand_in.RayWorker(degrees, tiny.load(variant))


def _real(rank: int, ranks: int, degrees: dict, model: Any) -> Any:
    """raylight's own worker, without the lines of its __init__ that need Ray and CUDA."""
    import types

    import torch

    sys.path.insert(0, str(REAL))
    ray, exceptions = types.ModuleType("ray"), types.ModuleType("ray.exceptions")
    exceptions.RayActorError = RuntimeError  # type: ignore[attr-defined]
    ray.exceptions = exceptions  # type: ignore[attr-defined]
    sys.modules |= {"ray": ray, "ray.exceptions": exceptions}
    kept, torch.cuda.is_available = torch.cuda.is_available, lambda: True  # xfuser has no classes without CUDA
    try:
        import raylight  # noqa: F401
    finally:
        torch.cuda.is_available = kept
    from raylight.distributed_worker.parallel_group_manager import initialize_xfuser_parallel
    from raylight.distributed_worker.ray_worker import RayWorker

    worker = object.__new__(RayWorker)
    vars(worker).update(model=model.clone(), parallel_dict=degrees, local_rank=rank, cached_controlnet=None)
    vars(worker).update(vae_model=None, xfuser_parallel=initialize_xfuser_parallel(rank, ranks, degrees))
    worker.patch_usp()
    return worker
