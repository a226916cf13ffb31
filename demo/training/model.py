"""The demo's two networks, written for training.

``DiT`` is a Wan-format video transformer and ``VAE`` a TAEHV-format video autoencoder. Both are written from
the file formats: their ``state_dict`` keys and shapes are the ones ComfyUI's stock loaders recognise, and
``verify.py`` checks that the host computes the same function from the exported files.
"""

import functools
import math
import sys
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "comfyui_moc_demo"))
import storyboard as sb  # noqa: E402

# The host multiplies the latents of a half-precision TAEHV file by this before decoding (divides after encoding).
TAEHV_SCALE = 0.476986


def model_to_file_latent(z):
    """Model space (unit scale) -> what a host LATENT holds."""
    mean = torch.tensor(sb.LATENT_MEAN, device=z.device, dtype=z.dtype).view(1, -1, 1, 1, 1)
    std = torch.tensor(sb.LATENT_STD, device=z.device, dtype=z.dtype).view(1, -1, 1, 1, 1)
    return z * std + mean


def file_to_model_latent(z):
    mean = torch.tensor(sb.LATENT_MEAN, device=z.device, dtype=z.dtype).view(1, -1, 1, 1, 1)
    std = torch.tensor(sb.LATENT_STD, device=z.device, dtype=z.dtype).view(1, -1, 1, 1, 1)
    return (z - mean) / std


# ---------------------------------------------------------------------------------------------- transformer


def dense_attention(q, k, v, block):
    """q, k, v: (batch, heads, tokens, head dim)."""
    return F.scaled_dot_product_attention(q, k, v)


@functools.lru_cache
def rope_table(grid, head_dim, device, frames=None, theta=10000.0):
    """Rotation angles (tokens, head_dim / 2): time, height and width each own a band of the head.

    frames: the times of the grid's frames where they are not 0, 1, 2, ...
    """
    band = 2 * (head_dim // 6)
    angles = []
    for axis, dim in enumerate((head_dim - 2 * band, band, band)):
        freq = theta ** -(torch.arange(0, dim, 2, device=device, dtype=torch.float64) / dim)
        pos = torch.arange(grid[axis], device=device, dtype=torch.float64)
        if axis == 0 and frames is not None:
            pos = torch.tensor(frames, device=device, dtype=torch.float64)
        shape = [1, 1, 1, dim // 2]
        shape[axis] = grid[axis]
        angles.append((pos[:, None] * freq).view(shape).expand(*grid, dim // 2))
    angles = torch.cat(angles, -1).reshape(-1, head_dim // 2)
    return angles.cos().float(), angles.sin().float()


def rotate(x, table):
    """Rotate neighbouring pairs of x (batch, tokens, heads, head dim) by the table's angles."""
    cos, sin = table[0][None, :, None], table[1][None, :, None]
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = nn.RMSNorm(dim, eps=1e-6), nn.RMSNorm(dim, eps=1e-6)

    def project(self, x, context, table):
        q, k, v = self.norm_q(self.q(x)), self.norm_k(self.k(context)), self.v(context)
        q, k, v = [t.unflatten(-1, (self.heads, -1)) for t in (q, k, v)]
        if table is not None:
            q, k = rotate(q, table), rotate(k, table)
        return [t.to(v.dtype).transpose(1, 2) for t in (q, k, v)]

    def output(self, y):
        return self.o(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, dim, ffn_dim, heads):
        super().__init__()
        self.self_attn, self.cross_attn = Attention(dim, heads), Attention(dim, heads)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.norm3 = nn.LayerNorm(dim, eps=1e-6)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(ffn_dim, dim))
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def before(self, x, e, table):
        shift, scale = e[:, 0:1], e[:, 1:2]
        y = self.norm1(x) * (1 + scale) + shift
        return self.self_attn.project(y, y, table)

    def after(self, x, y, e, context):
        x = x + self.self_attn.output(y) * e[:, 2:3]
        q, k, v = self.cross_attn.project(self.norm3(x), context, None)
        x = x + self.cross_attn.output(F.scaled_dot_product_attention(q, k, v))
        y = self.norm2(x) * (1 + e[:, 4:5]) + e[:, 3:4]
        return x + self.ffn(y) * e[:, 5:6]

    def forward(self, x, e, table, context, attend, index):
        e = self.modulation + e
        q, k, v = self.before(x, e, table)
        return self.after(x, attend(q, k, v, index), e, context)


class Head(nn.Module):
    def __init__(self, dim, out):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.head = nn.Linear(dim, out)
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)

    def forward(self, x, e):
        shift, scale = (self.modulation + e[:, None]).chunk(2, 1)
        return self.head(self.norm(x) * (1 + scale) + shift)


class DiT(nn.Module):
    """Velocity model: forward(x, sigma, context, control) predicts noise - clean."""

    PATCH = (1, 2, 2)

    def __init__(self, dim=256, ffn_dim=512, layers=8, channels=16, control=16, text_dim=4096, freq_dim=256):
        super().__init__()
        self.freq_dim, self.channels, self.head_dim = freq_dim, channels, 128
        heads = dim // self.head_dim
        self.patch_embedding = nn.Conv3d(channels + control, dim, self.PATCH, self.PATCH)
        self.text_embedding = nn.Sequential(nn.Linear(text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))
        self.time_embedding = nn.Sequential(nn.Linear(freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(dim, ffn_dim, heads) for _ in range(layers))
        self.head = Head(dim, channels * math.prod(self.PATCH))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.head.head.weight)

    def embed_time(self, sigma):
        half = self.freq_dim // 2
        freq = torch.exp(-math.log(10000) * torch.arange(half, device=sigma.device) / half)
        angle = (sigma.float() * 1000)[:, None] * freq
        return self.time_embedding(torch.cat((angle.cos(), angle.sin()), -1))

    def forward(self, x, sigma, context, control, attend=dense_attention, frames=None):
        x = torch.cat((x, control), 1)
        grid = x.shape[2], x.shape[3] // 2, x.shape[4] // 2
        patches = x.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)
        x = F.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)
        table = rope_table(grid, self.head_dim, x.device, frames)
        time = self.embed_time(sigma)
        e = self.time_projection(time).unflatten(-1, (6, -1))
        context = self.text_embedding(context)
        for i, block in enumerate(self.blocks):
            x = block(x, e, table, context, attend, i)
        x = self.head(x, time)
        t, h, w = grid
        x = x.view(-1, t, h, w, 1, 2, 2, self.channels)
        return x.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(x.shape[0], self.channels, t, 2 * h, 2 * w)


# ---------------------------------------------------------------------------------------------- autoencoder


def conv3x3(n_in, n_out, **kw):
    return nn.Conv2d(n_in, n_out, 3, padding=1, **kw)


class Soften(nn.Module):
    """A smooth limit at +-3 in front of the decoder."""

    def forward(self, x):
        return 3 * torch.tanh(x / 3)


class Memory(nn.Module):
    """A residual block that also sees the frame before."""

    def __init__(self, n):
        super().__init__()
        self.conv = nn.Sequential(conv3x3(2 * n, n), nn.ReLU(), conv3x3(n, n), nn.ReLU(), conv3x3(n, n))

    def forward(self, x, before):
        return F.relu(self.conv(torch.cat((x, before), 1)) + x)


class Join(nn.Module):
    """`stride` frames become one."""

    def __init__(self, n, stride):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(n * stride, n, 1, bias=False)

    def forward(self, x):
        return self.conv(x.reshape(-1, self.stride * x.shape[1], *x.shape[2:]))


class Split(nn.Module):
    """One frame becomes `stride` frames."""

    def __init__(self, n, stride):
        super().__init__()
        self.conv = nn.Conv2d(n, n * stride, 1, bias=False)
        self.channels = n

    def forward(self, x):
        x = self.conv(x)
        return x.reshape(-1, self.channels, *x.shape[2:])


def run_blocks(blocks, x):
    """x: (batch, frames, channels, height, width). All frames at once; a Memory block sees zeros before the first."""
    batch = x.shape[0]
    x = x.flatten(0, 1)
    for block in blocks:
        if isinstance(block, Memory):
            frames = x.unflatten(0, (batch, -1))
            x = block(x, F.pad(frames, (0, 0) * 3 + (1, 0))[:, :-1].flatten(0, 1))
        else:
            x = block(x)
    return x.unflatten(0, (batch, -1))


class VAE(nn.Module):
    """Works in model space: latents (batch, 16, frames, height/8, width/8) of about unit scale; video in 0..1.

    4n - 3 frames become n latent frames. Latent frame i holds video frames 4i-3 .. 4i and knows nothing later: for
    that the first frame is given to the encoder four times, since the format groups frames from the front.
    """

    def __init__(self, channels=16):
        super().__init__()
        n = 64
        stages = [conv3x3(3, n), nn.ReLU()]
        for stride in (2, 2, 1):
            stages += [Join(n, stride), conv3x3(n, n, stride=2, bias=False), Memory(n), Memory(n), Memory(n)]
        self.encoder = nn.Sequential(*stages, conv3x3(n, channels))
        stages = [Soften(), conv3x3(channels, 256), nn.ReLU()]
        for n_in, n_out, stride in ((256, 128, 1), (128, 64, 2), (64, 64, 2)):
            stages += [
                Memory(n_in),
                Memory(n_in),
                Memory(n_in),
                nn.Upsample(scale_factor=2),
                Split(n_in, stride),
                conv3x3(n_in, n_out, bias=False),
            ]
        self.decoder = nn.Sequential(*stages, nn.ReLU(), conv3x3(64, 3))

    def encode(self, video):
        """video: (batch, frames, 3, height, width)"""
        video = torch.cat((video[:, :1].expand(-1, 3, -1, -1, -1), video), 1)
        z = run_blocks(self.encoder, video).transpose(1, 2)
        return file_to_model_latent(z / TAEHV_SCALE)

    def decode(self, z):
        z = model_to_file_latent(z) * TAEHV_SCALE
        return run_blocks(self.decoder, z.transpose(1, 2))[:, 3:]


def half_state(module):
    return {k: v.detach().half().contiguous().cpu() for k, v in module.state_dict().items()}
