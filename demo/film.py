"""The prompt of the demo's long film: windows that a model can hold, with MoC Windows or as ComfyUI makes them."""

from __future__ import annotations

from typing import Any

KNOWN, TOGETHER = 6, 2  # shots that the demo model tells apart; those in a window
LENGTH = 21  # video frames of so many shots, of 3 latent frames each
STEPS = 10
MOC, DEFAULTS = "MoC Windows, bank", "ComfyUI's default windows"
WINDOWS: dict[str, tuple[str, dict[str, Any]]] = {
    MOC: ("MoCWindows", {"shots": ["cuts", 0], "windows": "shots", "length": LENGTH, "overlap": 0, "bank": "on"}),
    DEFAULTS: (
        "WanContextWindowsManual",
        {
            "context_length": LENGTH,
            "context_overlap": 4 * TOGETHER,
            "context_schedule": "standard_uniform",
            "context_stride": 1,
            "closed_loop": False,
            "fuse_method": "pyramid",
            "freenoise": True,
            "retain_first_frame": False,
            "split_conds_to_windows": False,
        },
    ),
}


def prompt_of(windows: str, shots: int, text: str, seed: int) -> dict[str, dict[str, Any]]:
    """windows: of WINDOWS; shots: a multiple of KNOWN; text: a storyboard, of which what it leaves out is drawn."""
    kind, settings = WINDOWS[windows]
    cuts = {"how": "cuts", "unit": "frames", "fps": 12.0}
    nodes: dict[str, tuple[str, dict[str, Any]]] = {
        "model": ("UNETLoader", {"unet_name": "moc_demo_wan.safetensors", "weight_dtype": "default"}),
        "vae": ("VAELoader", {"vae_name": "moc_demo_vae.safetensors"}),
        "schedule": ("ModelSamplingSD3", {"model": ["model", 0], "shift": 5.0}),
        "film": ("MoCDemoFilm", {"prompt": text, "seed": 0, "shots": shots}),
        "cuts": ("MoCShots", {"times": ["film", 3], **cuts}),
        "sixes": ("MoCShots", {"times": ["film", 4], **cuts}),
        "captions": (
            "MoCShotConditioning",
            {"model": ["schedule", 0], "shots": ["sixes", 0], "captions": ["film", 0]},
        ),
        "windows": (kind, {"model": ["captions", 0], **settings}),
        "sample": (
            "KSampler",
            {
                "model": ["windows", 0],
                "positive": ["captions", 1],
                "negative": ["captions", 1],
                "latent_image": ["film", 1],
                "seed": seed,
                "steps": STEPS,
                "cfg": 1.0,
                "sampler_name": "euler",
                "scheduler": "simple",
                "denoise": 1.0,
            },
        ),
        "decode": ("VAEDecode", {"samples": ["sample", 0], "vae": ["vae", 0]}),
        "alike": ("MoCDemoSimilarity", {"frames": ["decode", 0], "storyboard": ["film", 2]}),
        "video": ("CreateVideo", {"images": ["alike", 0], "fps": 12.0}),
        "save": ("SaveVideo", {"video": ["video", 0], "filename_prefix": "video", "format": "mp4", "codec": "h264"}),
        "sheet": ("SaveImage", {"images": ["alike", 3], "filename_prefix": "sheet"}),
    }
    return {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}
