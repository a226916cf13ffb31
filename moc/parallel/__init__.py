"""One video on several GPUs: every rank holds a slice of the sequence, and attends the whole of it for its own heads.

DeepSpeed Ulysses (arXiv 2309.14509): an all-to-all turns "some tokens, all heads" into "all tokens, some heads" and
back. Heads route independently, so what a rank computes for a head is what one GPU computes for it, bit for bit, and a
fixed k per head keeps the ranks equally busy.
"""

from __future__ import annotations

from .attn_processor import AttnProcessor
from .together import Together
from .ulysses import GROUPS, Routed, heads_of_rank, routing_of_heads, ulysses_attention

__all__ = ["GROUPS", "AttnProcessor", "Routed", "Together", "heads_of_rank", "routing_of_heads", "ulysses_attention"]
