"""One worker process: tiny models of ComfyUI, spread over the workers by raylight's own code or by what stands in."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

REAL = os.environ.get("MOC_RAYLIGHT_DIR")


def main(pipe: Any, rank: int, ranks: int, meet: str) -> None:
    load = _start(rank, ranks, meet)
    import cloudpickle

    worker = None
    while True:
        try:
            name, args, kwargs = cloudpickle.loads(pipe.recv_bytes())
            if name == "load":
                worker = load(*args)
                told = None, None
            else:
                told = getattr(worker, name)(*args, **kwargs), None
        except EOFError:
            return
        except Exception as error:
            told = None, RuntimeError(f"{type(error).__name__}: {error}")  # Ray wraps it likewise
        pipe.send_bytes(cloudpickle.dumps(told))


def _start(rank: int, ranks: int, meet: str) -> Callable[[str], Any]:
    """The name of a tiny model -> a worker of raylight with that model."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from conftest import start_comfyui

    sys.modules.pop("mixture_of_contexts", None)  # a worker does not know the pack
    start_comfyui()
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=ranks)
    degrees = {"is_xdit": True, "is_fsdp": False, "ulysses_degree": ranks, "ring_degree": 1, "cfg_degree": 1}
    degrees |= {"attention": "TORCH_MATH", "sync_ulysses": False}
    import tiny

    if REAL:
        worker = _real(rank, ranks, degrees)
    else:
        from raylight_engine.stand_in import RayWorker

        worker = RayWorker(degrees)

    def load(variant: str) -> Any:
        worker.model = tiny.load(variant).clone()
        worker.patch_usp()
        return worker

    return load


def _real(rank: int, ranks: int, degrees: dict) -> Any:
    """raylight's own worker, without the lines of its __init__ that need Ray and CUDA."""
    import torch
    import tqdm.auto

    sys.path.insert(0, str(REAL))
    ray, sys.modules["ray.exceptions"] = MagicMock(), MagicMock()
    ray.experimental.tqdm_ray.tqdm = tqdm.auto.tqdm
    sys.modules |= {"ray": ray, "ray.experimental": ray.experimental}
    sys.modules["ray.experimental.tqdm_ray"] = ray.experimental.tqdm_ray
    kept, torch.cuda.is_available = torch.cuda.is_available, lambda: True  # xfuser has no classes without CUDA
    try:
        import raylight  # noqa: F401
    finally:
        torch.cuda.is_available = kept
    from raylight.distributed_worker.parallel_group_manager import initialize_xfuser_parallel
    from raylight.distributed_worker.ray_worker import RayWorker

    worker = object.__new__(RayWorker)
    vars(worker).update(parallel_dict=degrees, local_rank=rank, cached_controlnet=None, vae_model=None)
    worker.xfuser_parallel = initialize_xfuser_parallel(rank, ranks, degrees)
    return worker
