"""Which rule remembers? Samples held-out storyboards under every rule: `python evaluate.py --weights DIR --out DIR`.

Reads DIR/vae.safetensors and any of DIR/dense.safetensors, DIR/moc.safetensors; writes one JSON per set of weights.
kept     share of (query, key) pairs attended to, tail not counted, measured while sampling
between  cosine similarity of the character between shots: cells averaged, mean colour removed
within   the same between the frames of one shot
flicker  mean change of the still background from one frame of a shot to the next (pixels in 0..1)
motion   pixels the character moved in a shot from first to last frame, found by matching it near its box
colour   mean distance of the sky's colour (top tenth of the picture) from what the words say
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import clips  # noqa: E402
import data  # noqa: E402
import masked  # noqa: E402
import model as nets  # noqa: E402
import train  # noqa: E402

sb = clips.sb
Routing = masked.RoutingConfig.of
GRID = (sb.LATENT_FRAMES, sb.SIZE // 16, sb.SIZE // 16)
STARTS = tuple(range(0, sb.LATENT_FRAMES, sb.LATENTS_PER_SHOT))


def rules():
    """name -> (routing, shared), the most wanted first: the clock may end an evaluation early."""
    fine, mid, coarse, tail = (1, 2, 2), (1, 4, 4), (1, 8, 8), dict(tail="pooled")
    frame = dict(own="frame", descriptor="minmax")
    out = {
        "dense": None,
        "own shot only": Routing(top_k=0),
        "own shot + first frame of every shot": Routing(top_k=0, static="first frame"),
        "own shot + frames, top-5, mean": Routing(top_k=5),
        "own shot + frames, top-5, mean, causal": Routing(top_k=5, causal=True),
        "own frame + 4x4, top-20, min-max, tail": Routing(top_k=20, tile=mid, **frame, **tail),
        "own frame + 4x4, top-10, min-max, tail": Routing(top_k=10, tile=mid, **frame, **tail),
        "own frame + 2x2, top-20, min-max, tail": Routing(top_k=20, tile=fine, **frame, **tail),
        "own frame + 4x4, top-10, mean, tail": Routing(top_k=10, tile=mid, own="frame", **tail),
        "own shot + 4x4, top-10, min-max": Routing(top_k=10, tile=mid, descriptor="minmax"),
        "own frame + 8x8, top-5, min-max, tail": Routing(top_k=5, tile=coarse, **frame, **tail),
        "own shot + whole shots, top-5, causal": Routing(top_k=5, chunk_tokens=1280, causal=True),
        "own frame + 4x4, top-20, min-max": Routing(top_k=20, tile=mid, **frame),
        "own frame + 2x2, top-20, min-max": Routing(top_k=20, tile=fine, **frame),
    }
    out = {name: (routing, None) for name, routing in out.items()}
    shared = Routing(top_k=20, tile=fine, **frame, **tail)
    out["own frame + 2x2, tail, one list per 4x4 rows by mean query, top-20"] = shared, ("mean query", 4)
    union = Routing(top_k=4, tile=fine, **frame, **tail)
    out["own frame + 2x2, tail, one list per 4x4 rows, union of their top-4"] = union, ("union", 4)
    more = {
        "own frame + 4x4, top-5, min-max, tail": Routing(top_k=5, tile=mid, **frame, **tail),
        "own frame + 4x4, top-40, min-max, tail": Routing(top_k=40, tile=mid, **frame, **tail),
        "own frame + 2x2, top-10, min-max, tail": Routing(top_k=10, tile=fine, **frame, **tail),
        "own frame + 2x2, top-40, min-max, tail": Routing(top_k=40, tile=fine, **frame, **tail),
        "own frame + 4x4, top-20, mean, tail": Routing(top_k=20, tile=mid, own="frame", **tail),
        "own frame +-1 + 4x4, top-10, min-max, tail": Routing(top_k=10, tile=mid, window=1, **frame, **tail),
        "own shot + frames, top-3, mean": Routing(top_k=3),
        "own shot + 4x4, top-20, min-max": Routing(top_k=20, tile=mid, descriptor="minmax"),
        "own shot + 4x4, top-10, mean": Routing(top_k=10, tile=mid),
        "own shot + 4x4, top-5, min-max": Routing(top_k=5, tile=mid, descriptor="minmax"),
        "own shot + 2x2, top-20, min-max": Routing(top_k=20, tile=fine, descriptor="minmax"),
        "own shot + 8x8, top-5, mean": Routing(top_k=5, tile=coarse),
        "own frame + 2x2, top-20, mean, tail": Routing(top_k=20, tile=fine, own="frame", **tail),
        "own frame + 4x4, top-10, min-max": Routing(top_k=10, tile=mid, **frame),
        "own frame + 2x2, top-40, min-max": Routing(top_k=40, tile=fine, **frame),
    }
    out |= {name: (routing, None) for name, routing in more.items()}
    return out


def background_mask(box):
    """(F, SIZE, SIZE), True where the character (and its outline) is not."""
    at = torch.arange(sb.SIZE, device=box.device) + 0.5
    left, top, cell = box[..., None].unbind(1)
    reach = (sb.OUTLINE + 0.4) * cell
    inside = [(at > low - reach) & (at < low + sb.CELLS * cell + reach) for low in (left, top)]
    return ~(inside[1][:, :, None] & inside[0][:, None, :])


def flicker(video, box):
    shot = torch.tensor(sb.SHOT_OF_FRAME, device=video.device)
    still = background_mask(box)
    both = still[1:] & still[:-1] & (shot[1:] == shot[:-1])[:, None, None]
    change = (video[1:] - video[:-1]).abs().mean(1)
    return (change * both).sum() / both.sum()


def motion(video, box):
    """(pixels moved in a shot, mean distance from where the character should be), by matching in +-10 pixels."""
    frames = video.movedim(1, -1)
    shifts = [(x, y) for y in range(-10, 11, 4) for x in range(-10, 11, 4)] + [(0, 0)]
    shot = torch.tensor(sb.SHOT_OF_FRAME, device=video.device)
    member = torch.nn.functional.one_hot(shot).float()
    template = sb.describe(sb.cell_colours(frames, box))
    template = member @ (member.T @ template / member.sum(0)[:, None])
    match = torch.stack(
        [
            (sb.describe(sb.cell_colours(frames, box, s)) * template).sum(-1) - 1e-3 * (abs(s[0]) + abs(s[1]))
            for s in shifts
        ]
    )
    offset = torch.tensor(shifts, device=video.device, dtype=torch.float32)[match.argmax(0)]
    place = box[:, :2] + sb.CELLS / 2 * box[:, 2:] + offset
    first = [0, *sb.CUTS]
    last = [c - 1 for c in (*sb.CUTS, sb.FRAMES)]
    return (place[last] - place[first]).norm(dim=-1).mean(), offset.norm(dim=-1).mean()


def sky(video, truth, box, words):
    rows = slice(0, sb.SIZE // 10)
    keep = (
        background_mask(box)[:, rows]
        & (words[torch.tensor(sb.SHOT_OF_FRAME), 2] != sb.SCENES.index("stripes"))[:, None, None]
    )
    count = keep.sum((1, 2)).clamp(min=1)
    mean = [(v[:, :, rows] * keep[:, None]).sum((2, 3)) / count[:, None] for v in (video, truth)]
    used = keep.any(2).any(1)
    return (mean[0] - mean[1]).abs().mean(1)[used].mean()


def measure(video, truth, recipes, dense):
    rows = []
    for i, (v, box) in enumerate(zip(video, recipes["box"])):
        s = sb.similarity(v.movedim(1, -1), box)
        moved, off = motion(v, box)
        rows.append(
            {
                "between": s["between"],
                "within": s["within"],
                "flicker": flicker(v, box).item(),
                "motion": moved.item(),
                "off": off.item(),
                "colour": sky(v, truth[i], box, recipes["words"][i]).item(),
                "from dense": ((v - dense[i]) ** 2).mean().sqrt().item() if dense is not None else 0.0,
            }
        )
    mean = {k: sum(r[k] for r in rows) / len(rows) for k in rows[0]}
    between = torch.tensor([r["between"] for r in rows])
    mean["between worst"] = between.min().item()
    if len(rows) > 1:
        mean["between error"] = (between.std() / len(rows) ** 0.5).item()
    return mean


def unrelated(video, recipes):
    """Mean similarity of characters of different clips."""
    mean = torch.stack(
        [sb.describe(sb.cell_colours(v.movedim(1, -1), b)).mean(0) for v, b in zip(video, recipes["box"])]
    )
    mean = torch.nn.functional.normalize(mean, dim=1)
    cosine = mean @ mean.T
    return ((cosine.sum() - cosine.trace()) / (len(mean) * (len(mean) - 1))).item()


def evaluate(dit, vae, name, out, clips_n=16, steps=10, shift=3.0, batch=16, device="cuda", only=None, limit=1e9):
    """Sample and measure every rule until the clock says `limit`; writes after each."""
    began = time.perf_counter()
    seeds = [clips.EVALUATION_SEEDS + i for i in range(clips_n)]
    truth = clips.render(clips.stack([clips.recipe(s) for s in seeds], device))
    table, dense, pictures = {}, None, {}
    result = {"weights": name, "clips": clips_n, "steps": steps, "shift": shift, "rules": table}
    for rule, (routing, shared) in rules().items():
        if only and rule not in only:
            continue
        if time.perf_counter() - began > limit:
            print("evaluation stopped by the clock before", rule, flush=True)
            break
        start = time.perf_counter()
        attend = nets.dense_attention if routing is None else masked.Masked(routing, GRID, STARTS, shared)
        if routing is not None:
            attend.measure = True
        z, recipes = train.sample(dit, seeds, steps, shift, attend, batch, device)
        video = data.decode(vae, z)
        if routing is None:
            dense = video
            result["truth"] = measure(truth, truth, recipes, None)
            if clips_n > 1:
                result["unrelated"] = {"truth": unrelated(truth, recipes), "dense": unrelated(video, recipes)}
        table[rule] = {
            "kept": 1.0 if routing is None else attend.kept / attend.calls,
            **measure(video, truth, recipes, dense),
        }
        table[rule] = {k: round(v, 5) for k, v in table[rule].items()}
        table[rule]["seconds"] = round(time.perf_counter() - start, 1)
        pictures[rule] = video[0].half()
        print(
            f"{name:6} {rule:70}",
            {k: v if isinstance(v, str) else round(v, 4) for k, v in table[rule].items()},
            flush=True,
        )
        (out / f"evaluation_{name}.json").write_text(json.dumps(result, indent=1))
    print("truth", result.get("truth"), result.get("unrelated"), f"{time.perf_counter() - began:.0f} s", flush=True)
    if dense is not None:
        clips.sheet(dense[:8]).save(out / f"{name}_dense.png")
    clips.sheet(list(pictures.values())[:16], 2).save(out / f"{name}_rules.png")


def load(path, module, device):
    module.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return module.to(device).eval().requires_grad_(False)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--shift", type=float, default=3.0)
    parser.add_argument("--limit", type=float, default=1e9, help="seconds per set of weights")
    parser.add_argument("--only", nargs="*")
    a = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a.out.mkdir(parents=True, exist_ok=True)
    vae = load(a.weights / "vae.safetensors", nets.VAE(), device)
    print("masked attention differs from the library by", masked.check(device))
    for name in ("dense", "moc"):
        if (a.weights / f"{name}.safetensors").exists():
            state = load_file(a.weights / f"{name}.safetensors")
            dim, ffn_dim = state["blocks.0.ffn.0.weight"].shape[::-1]
            layers = 1 + max(int(k.split(".")[1]) for k in state if k.startswith("blocks."))
            dit = load(a.weights / f"{name}.safetensors", nets.DiT(dim, ffn_dim, layers), device)
            evaluate(dit, vae, name, a.out, a.clips, a.steps, a.shift, device=device, only=a.only, limit=a.limit)


if __name__ == "__main__":
    main()
