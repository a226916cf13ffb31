"""Training the demo's autoencoder."""

import copy
import json
import math

import clips
import model as nets
import torch
import torch.nn.functional as F
from data import autocast, crops, decode
from optimise import RANK, Clock, Ema, Log, Optimizer, say
from safetensors.torch import load_file, save_file

sb = clips.sb


def train_vae(a, recipes):
    device = a.device
    torch.manual_seed(1)
    vae = nets.VAE()
    if a.resume:
        vae.load_state_dict({k: v.float() for k, v in load_file(a.resume / "vae.safetensors").items()})
    vae.to(device, memory_format=torch.channels_last)
    torch.manual_seed(100 + RANK)
    ema = Ema(vae, 0.998)
    optimizer, clock, log = Optimizer(vae, a.vae_rate, a.vae_muon_rate), Clock(a.vae, a.steps), Log()
    generator = torch.Generator().manual_seed(1 + RANK)
    going = True
    while going:
        if (clock.step % 4) == 0:
            batch = recipes.take(a.vae_batch)
            with torch.no_grad():
                video = clips.render(batch)
        x = crops(video, batch["box"], a.vae_batch, a.vae_frames, a.vae_size, generator)
        with autocast(device):
            z = vae.encode(x)
            noisy = z + torch.randn_like(z) * 0.1 * torch.rand(len(z), 1, 1, 1, 1, device=device)
            y = vae.decode(noisy)
        z, y = z.float(), y.float()
        mse = F.mse_loss(y, x)
        var, mean = torch.var_mean(z, (0, 2, 3, 4))
        scale = (mean**2 + var - 1 - var.clamp(min=1e-4).log()).mean()
        loss = 4 * mse + F.l1_loss(y, x) + 0.02 * scale
        loss.backward()
        share, going = clock.tick()
        optimizer.step(share)
        ema.update()
        log.add(mse=mse, scale=scale, std=z.std())
        if clock.step % a.every == 0 or not going:
            row = log.flush(clock.step, clock)
            say("vae", row, f"psnr {-10 * math.log10(row['mse']):.2f}")
    if RANK == 0:
        save_file(nets.half_state(ema.module), a.out / "vae.safetensors")
        (a.out / "vae_log.json").write_text(json.dumps(log.rows))
    return ema.module


@torch.no_grad()
def check_vae(vae, a, n):
    """Held-out clips through the autoencoder as exported (half precision weights)."""
    batch = clips.stack([clips.recipe(clips.EVALUATION_SEEDS + i) for i in range(n)], a.device)
    vae = copy.deepcopy(vae)
    for p in vae.parameters():
        p.copy_(p.half())
    video = clips.render(batch)
    z = torch.cat([vae.encode(v[None]) for v in video])
    y = decode(vae, z)
    mse = ((y - video) ** 2).mean((1, 2, 3, 4))
    box = batch["box"]
    sims = [sb.similarity(y[i].movedim(1, -1), box[i]) for i in range(n)]
    result = {
        "psnr": round((-10 * mse.log10()).mean().item(), 2),
        "worst psnr": round(-10 * math.log10(mse.max().item()), 2),
        "latent mean": [round(v, 3) for v in z.mean((0, 2, 3, 4)).tolist()],
        "latent std": [round(v, 3) for v in z.std((0, 2, 3, 4)).tolist()],
        "between": round(sum(s["between"] for s in sims) / n, 4),
        "within": round(sum(s["within"] for s in sims) / n, 4),
    }
    clips.sheet(torch.stack([v for pair in zip(video[:3], y[:3]) for v in pair])).save(a.out / "vae.png")
    say("vae check", result)
    (a.out / "vae_check.json").write_text(json.dumps(result))
