"""What of raylight MoC touches: its worker's methods, its one attention function, and a Wan model whose blocks see a
part of the tokens. On yunchang, as xfuser's attention is."""

from __future__ import annotations

import importlib.metadata
import sys
import types

import torch
import torch.distributed as dist
import yunchang
from comfy.ldm.flux.math import apply_rope1
from torch import Tensor
from yunchang.globals import PROCESS_GROUP
from yunchang.kernels import AttnType


class xFuserLongContextAttention(yunchang.LongContextAttention):
    def forward(
        self, attn, query: Tensor, key: Tensor, value: Tensor, *, joint_tensor_query=None, joint_tensor_key=None,
        joint_tensor_value=None, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1),
        alibi_slopes=None, deterministic=False, return_attn_probs=False, joint_strategy="none",
    ) -> Tensor:  # fmt: skip
        return super().forward(query, key, value, softmax_scale=softmax_scale, causal=causal)


def make_xfuser_attention(attn_type, sync_ulysses):
    usp = xFuserLongContextAttention(use_sync=sync_ulysses, attn_type=AttnType[attn_type])

    def attention(q, k, v, heads):
        q, k, v = (x.unflatten(-1, (heads, -1)) for x in (q, k, v))
        return usp(None, q, k, v).flatten(2)

    return attention


class RayWorker:
    def __init__(self, parallel_dict: dict) -> None:
        yunchang.set_seq_parallel_pg(parallel_dict["ulysses_degree"], 1, dist.get_rank(), dist.get_world_size())
        module = types.ModuleType("raylight.distributed_modules.attention")
        module.xFuserLongContextAttention = xFuserLongContextAttention
        module.make_xfuser_attention = make_xfuser_attention
        modules = types.ModuleType("raylight.distributed_modules")
        modules.attention = module
        known = importlib.metadata.version
        importlib.metadata.version = lambda name: "0.4.5" if name == "xfuser" else known(name)
        sys.modules |= {"raylight": types.ModuleType("raylight"), modules.__name__: modules, module.__name__: module}
        self.parallel_dict, self.model = parallel_dict, None

    def patch_usp(self):
        model = self.model.model.diffusion_model
        if not hasattr(model, "spread"):
            model.spread = True
            _spread(model, make_xfuser_attention("TORCH_MATH", False))

    def model_function_runner(self, fn, *args, **kwargs):
        self.model = fn(self.model, *args, **kwargs)

    def model_function_runner_get_values(self, fn, *args, **kwargs):
        return fn(self.model, *args, **kwargs)

    def get_parallel_dict(self):
        return self.parallel_dict

    def common_ksampler(
        self, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent, denoise=1.0, disable_noise=False,
        start_step=None, last_step=None, force_full_denoise=False, grouped_output=False,
    ):  # fmt: skip
        import comfy.sample

        image = latent["samples"]
        noise = comfy.sample.prepare_noise(image, seed)
        with torch.no_grad():
            samples = comfy.sample.sample(
                self.model, noise, steps, cfg, sampler_name, scheduler, positive, negative, image, disable_pbar=True,
                seed=seed,
            )  # fmt: skip
        return ({**latent, "samples": samples},)

    def custom_sampler(
        self, add_noise, noise_seed, cfg, positive, negative, sampler, sigmas, latent_image, grouped_output=False
    ):
        raise NotImplementedError

    def custom_sampler_advanced(
        self, add_noise, noise_seed, guider_spec, sampler, sigmas, latent_image, grouped_output=False
    ):
        raise NotImplementedError


def _spread(model, attention) -> None:
    """The blocks of a Wan model see this rank's tokens, filled up with zeros at the end; the head sees all again."""
    group = PROCESS_GROUP.ULYSSES_PG
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    whole = [0]

    def part(x: Tensor) -> Tensor:
        filling = -x.shape[1] % ranks
        padded = torch.cat([x, x.new_zeros(x.shape[0], filling, *x.shape[2:])], 1)
        return padded.chunk(ranks, 1)[rank]

    def before(block, args, kwargs):
        x = args[0]
        if block is model.blocks[0]:
            whole[0] = x.shape[1]
            x = part(x)
        return (x, *args[1:]), {**kwargs, "freqs": part(kwargs["freqs"])}

    def gathered(block, args, out):
        parts = [torch.empty_like(out) for _ in range(ranks)]
        dist.all_gather(parts, out.contiguous(), group=group)
        return torch.cat(parts, 1)[:, : whole[0]]

    for block in model.blocks:
        block.register_forward_pre_hook(before, with_kwargs=True, prepend=True)
        block.self_attn.forward = types.MethodType(_self_attention(attention), block.self_attn)
    model.blocks[-1].register_forward_hook(gathered)


def _self_attention(attention):
    def forward(self, x, freqs, **others):
        q, k = (
            apply_rope1(norm(project(x)).unflatten(-1, (self.num_heads, self.head_dim)), freqs).flatten(2)
            for project, norm in ((self.q, self.norm_q), (self.k, self.norm_k))
        )
        return self.o(attention(q, k, self.v(x), self.num_heads))

    return forward
