"""Why a self-attention call ran dense, in words."""

from __future__ import annotations

from enum import Enum


class Reason(Enum):
    """Why a self-attention call ran dense, in the words the user reads; `SHORTLY` has fewer of them."""

    SCHEDULE = "outside the part of the sampling that MoC is on for (start and end percent, dense_above)"
    BLOCK = "block kept dense (dense first/last blocks)"
    SHORT = "so short that dense attention is as fast (to route anyway: min_tokens 1 in MoC Routing)"
    SLOWER = "slower to route than to run dense, as measured here (to route anyway: min_tokens 1 in MoC Routing)"
    KERNELS = (
        "no GPU kernels: routing would be slower than dense attention (to route anyway: min_tokens 1 in MoC Routing)"
    )
    ONE_FRAME = "a single latent frame: nothing to route"
    NO_CHOICE = "every chunk is always seen with these settings: nothing to route"
    MASK = "the model passed an attention mask"
    LENGTH = "the number of tokens does not fit the video's grid"
    MODEL = "MoC does not know how this model arranges its tokens"
    MEMORY = "out of memory while routing"
    FAILED = "the routed attention failed"


class Anew(Enum):
    """Why a call chose, in a step that takes what was chosen before."""

    SAMPLER = "this sampler calls the model more than once a step, between its steps or going back"
    CHANGED = "tokens, batch or prompts were not those of the step before"
    MEMORY = "too little memory to keep choices in"
    TRAINING = "in training every step chooses"
    HEADS = "every head cuts the video for itself here, in every step"


SHORTLY = {
    Reason.SCHEDULE: "start/end percent",
    Reason.BLOCK: "dense first/last blocks",
    Reason.SHORT: "short, dense is as fast",
    Reason.SLOWER: "dense is faster, as measured",
    Reason.KERNELS: "no GPU kernels",
    Reason.ONE_FRAME: "a single frame",
    Reason.NO_CHOICE: "nothing to choose",
    Reason.MASK: "attention mask",
    Reason.LENGTH: "unknown tokens",
    Reason.MODEL: "unknown model",
    Reason.MEMORY: "out of memory",
    Reason.FAILED: "routing failed, see the report",
}
