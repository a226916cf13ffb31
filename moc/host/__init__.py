"""MoC inside ComfyUI: the only part of the method that imports it."""

from __future__ import annotations

from .patch import apply_moc, apply_probe

__all__ = ["apply_moc", "apply_probe"]
