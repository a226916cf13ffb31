"""MoC on several GPUs, inside the workers of raylight (github.com/komikndr/raylight): an engine of Ray, xfuser and
yunchang that copies the forward passes of ComfyUI's models, with the sequence spread over its workers.

actors  in ComfyUI's process: its workers are told when to route, and asked what they traced
worker  in a worker: MoC is put on its model for the time of a sampling
usp     in a worker: the one attention function of all its models, routed
Nothing of it is imported before somebody's graph holds its workers.
"""

from __future__ import annotations

RAYLIGHT = ("1.5.1",)  # commit c049571, June 2026
XFUSER = ("0.4.4", "0.4.5")
FAMILIES = ("Wan 2.1/2.2",)  # of our adapters: raylight keeps the order of their tokens
