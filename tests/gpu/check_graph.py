"""Does MoC behave inside ComfyUI on a GPU? LoRAs, CFG, cancelled runs, models by turns, other resolutions, two films at
once, other packs, float16: against the same without MoC.

python -m tests.gpu.check_graph --comfyui FOLDER [--tiny] [--out FILE.json]

A small model of ComfyUI's Wan class, random weights, two steps of Euler; every routed run has a trace, and a stand-in
for a browser listens to it. The tests under tests/host ask the same and more of the CPU; here the GPU engine runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from benchmarks import host
from benchmarks.end_to_end_cases import Film
from benchmarks.end_to_end_model import TEXT, TINY_SIZE, dense_by, new_model, noise_of
from moc.config import MoCSettings, RoutingConfig, Schedule

SIZE = {"dim": 1536, "num_heads": 12, "ffn_dim": 4096}
FILM, TINY_FILM = Film("4 shots", (24, 60, 104), 4, (1, 1)), Film("tiny", (8, 24, 32), 4, (1, 1))
ALL = RoutingConfig(top_k=10_000, own="chunk")
RULES = {
    "own shot + 5 frames, causal": RoutingConfig(top_k=5, own="shot", causal=True),
    "own chunk + 16 of 450": RoutingConfig(top_k=16, chunk_tokens=450, own="chunk"),
    "own frame + 16 of 8x8, min-max, tail": RoutingConfig(
        top_k=16, tile=(1, 8, 8), own="frame", descriptor="minmax", tail="pooled"
    ),
    "own frame + 20 of 4x4, min-max, tail": RoutingConfig(
        top_k=20, tile=(1, 4, 4), own="frame", descriptor="minmax", tail="pooled"
    ),
}


@torch.inference_mode()
def film(model, noise: Tensor, callback: Callable | None = None) -> Tensor:
    """KSampler's own path, two prompts at CFG 4."""
    import comfy.sample

    texts = [torch.randn(1, TEXT, 4096, generator=torch.Generator().manual_seed(s)) for s in (2, 3)]
    out = comfy.sample.sample(
        model, noise, 2, 4.0, "euler", "simple", [[texts[0], {}]], [[texts[1], {}]], torch.zeros_like(noise),
        disable_pbar=True, seed=3, callback=callback,
    )  # fmt: skip
    return out.float().cpu()


def with_lora(model, seed: int):
    """A clone with low-rank changes of some projections, as a LoRA file gives them."""
    model, make = model.clone(), torch.Generator().manual_seed(seed)
    patches = {}
    for name, weight in model.model.diffusion_model.named_parameters():
        if ".self_attn." in name and name.endswith("weight") and weight.ndim == 2:
            up, down = (torch.randn(n, 8, generator=make) * n**-0.5 for n in weight.shape)
            patches[f"diffusion_model.{name}"] = ("diff", (12.0 * up @ down.T,))
    assert len(model.add_patches(patches, 1.0)) == len(patches) > 0
    return model


def browser() -> list[dict]:
    """What ComfyUI's server would send a browser that has queued the runs from now on."""
    told: list[dict] = []
    queue = SimpleNamespace(get_current_queue_volatile=lambda: ([(0, "prompt", {}, {})], []))
    server = SimpleNamespace(
        client_id="browser", prompt_queue=queue, send_sync=lambda event, message, client: told.append(message)
    )
    sys.modules["server"] = SimpleNamespace(PromptServer=SimpleNamespace(instance=server))
    return told


def moc(base, routing: RoutingConfig, which: Film):
    """(a clone with MoC, its trace)."""
    from moc.host.patch import apply_moc
    from moc.shots.cuts import Shots
    from moc.trace.trace import Trace

    trace = Trace()
    return apply_moc(base, Shots(even=which.shots), MoCSettings(routing, Schedule(min_tokens=1)), trace), trace


def off(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def rounding_of(model, noise: Tensor, dense: Tensor) -> float:
    """How far another kernel's dense film is from ComfyUI's."""
    other = model.clone()
    kernel = SDPBackend.EFFICIENT_ATTENTION if torch.cuda.is_available() else SDPBackend.MATH
    other.model_options["transformer_options"]["optimized_attention_override"] = dense_by(kernel)
    return max(off(film(other, noise), dense), 1e-5)


def checks(model, which: Film) -> Iterator[tuple[str, bool, str]]:
    """(what was asked, whether it holds, figures)."""
    import comfy.model_management

    from moc.host.web.push import describe

    noise, told = noise_of(which, white=False), browser()
    first, dense = film(model, noise), film(model, noise)
    same = torch.equal(film(model, noise), dense)
    yield "ComfyUI by itself repeats itself, once warm", same, f"the first film is off by {off(first, dense):.5f}"
    rounding = rounding_of(model, noise, dense)
    routed, trace = moc(model, ALL, which)
    found = off(film(routed, noise), dense)
    yield "all chunks chosen is dense", found < 3 * rounding, f"{found:.5f}, by another kernel {rounding:.5f}"
    yield "every call was routed", "dense" not in trace.report().splitlines()[0], trace.report().splitlines()[0]

    lora = with_lora(model, 7)
    changed = film(lora, noise)
    found, effect = off(film(moc(lora, ALL, which)[0], noise), changed), off(changed, dense)
    yield (
        "a LoRA changes the routed film as it changes the dense one",
        found < 3 * rounding < effect,
        f"{found:.5f} of {effect:.5f}",
    )
    found = off(film(with_lora(moc(model, ALL, which)[0], 7), noise), changed)
    yield "also where it comes after MoC", found < 3 * rounding, f"{found:.5f}"
    yield "without LoRA and MoC nothing is left of them", torch.equal(film(model, noise), dense), ""

    before: dict[str, Tensor] = {}
    for name, routing in RULES.items():
        patched, trace = moc(model, routing, which)
        before[name] = film(patched, noise)
        again = film(patched, noise)
        fine = bool(before[name].isfinite().all()) and torch.equal(again, before[name])
        line = trace.report().splitlines()[0]
        yield f"{name}: the same film twice", fine, f"{off(before[name], dense):.3f} from dense. {line}"

        def cancel(step, *_):
            raise comfy.model_management.InterruptProcessingException()

        try:
            film(patched, noise, cancel)
            stopped = False
        except comfy.model_management.InterruptProcessingException:
            stopped = True
        same = torch.equal(film(patched, noise), before[name])
        yield f"{name}: and after a cancelled run", stopped and same, ""

        told.clear()
        film(patched, noise)
        running, last = [m["step"] for m in told if m["running"]], told[-1]
        at_end = describe(trace)
        same = not last["running"] and {key: last[key] for key in at_end} == at_end
        counted = len(trace.records) == trace.routed > 0
        fine = same and counted and 0 in running and running == sorted(running)
        yield f"{name}: a browser is told while it runs, and all at its end", fine, f"steps {running} of two"
    turns = [moc(model, routing, which)[0] for routing in RULES.values()]
    same = [torch.equal(film(m, noise), out) for m, out in zip(turns[::-1], list(before.values())[::-1], strict=True)]
    yield "four models by turns get what each got alone", all(same), str(same)
    yield "and the model itself what it got at first", torch.equal(film(model, noise), dense), ""
    yield from elsewhere(model, which, noise, before)


def elsewhere(model, which: Film, noise: Tensor, before: dict[str, Tensor]) -> Iterator[tuple[str, bool, str]]:
    """Another resolution, two films at once, and another pack. before: what every rule made of the noise."""
    other = replace(which, latent=(which.latent[0] // 2, which.latent[1] // 2, which.latent[2]))
    small, two = noise_of(other, white=False), torch.cat([noise, noise.flip(2)])
    for name, routing in RULES.items():
        patched = moc(model, routing, which)[0]
        once, between, again = (film(patched, x) for x in (noise, small, noise))
        same = torch.equal(once, again) and torch.equal(once, before[name])
        alone = torch.equal(film(moc(model, routing, which)[0], small), between)
        yield f"{name}: another length and resolution in between", same and alone, f"{list(small.shape[2:])}"
    dense = film(model, two)
    rounding, found = rounding_of(model, two, dense), off(film(moc(model, ALL, which)[0], two), dense)
    yield (
        "two films at once, all chunks chosen, are dense",
        found < 3 * rounding,
        f"{found:.5f}, by another kernel {rounding:.5f}",
    )

    seen: list[bool] = []

    def pack(func, q, k, v, heads, *args, **kwargs):
        seen.append(q.shape == k.shape)
        return func(q, k, v, heads, *args, **kwargs)

    def with_pack(base):
        base = base.clone()
        base.model_options["transformer_options"]["optimized_attention_override"] = pack
        return base

    for name, routing in RULES.items():
        for order, patched in (
            ("before", moc(with_pack(model), routing, which)[0]),
            ("after", with_pack(moc(model, routing, which)[0])),
        ):
            seen.clear()
            same = torch.equal(film(patched, noise), before[name])
            fine = same and len(seen) > 0 and not any(seen)
            yield (
                f"{name}: another pack's attention, put in {order} MoC, gets all that is not routed",
                fine,
                f"{len(seen)} calls",
            )


def in_half(model, which: Film) -> Iterator[tuple[str, bool, str]]:
    """A model in float16."""
    noise = noise_of(which, white=False)
    film(model, noise)
    dense = film(model, noise)
    rounding, found = rounding_of(model, noise, dense), off(film(moc(model, ALL, which)[0], noise), dense)
    yield "float16: all chunks chosen is dense", found < 3 * rounding, f"{found:.5f}, by another kernel {rounding:.5f}"
    for name, routing in RULES.items():
        patched, trace = moc(model, routing, which)
        out = film(patched, noise)
        fine = bool(out.isfinite().all()) and torch.equal(film(patched, noise), out)
        yield (
            f"float16: {name}: the same film twice",
            fine,
            f"{off(out, dense):.3f} from dense. {trace.report().splitlines()[0]}",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    host.add_argument(parser)
    parser.add_argument("--out", type=host.Path)
    parser.add_argument("--tiny", action="store_true", help="a dry run on any device")
    args = parser.parse_args()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    version = host.start(args.comfyui, "--highvram" if cuda else "--cpu")
    size, which = (TINY_SIZE, TINY_FILM) if args.tiny else (SIZE, FILM)
    model, half = (new_model(4, size, device, d if cuda else torch.float32) for d in (torch.bfloat16, torch.float16))
    begin, results = time.perf_counter(), []
    for question, holds, figures in chain(checks(model, which), in_half(half, which)):
        results.append({"question": question, "holds": holds, "figures": figures})
        print(f"{time.perf_counter() - begin:6.1f} s  {'yes' if holds else 'NO '}  {question}  {figures}", flush=True)
    print(f"{sum(r['holds'] for r in results)} of {len(results)} hold")
    if args.out:
        facts = {
            "gpu": torch.cuda.get_device_name() if cuda else "none", "torch": torch.__version__, "comfyui": version,
            "tokens": which.tokens, "date": time.strftime("%Y-%m-%d"),
            "command": "python -m tests.gpu.check_graph --comfyui FOLDER",
        }  # fmt: skip
        args.out.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
