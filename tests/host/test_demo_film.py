"""What the demo's film node tells MoC Shot Conditioning and MoC Windows."""

import sys

import pytest
import torch
from conftest import REPO

sys.path.append(str(REPO / "demo"))  # behind ComfyUI's own modules

from comfyui_moc_demo import Film, Storyboard, sb  # noqa: E402

PROMPT = "red over navy city [shot cut] white over blue sea"


def test_every_six_shots_read_words_of_their_own_and_one_control():
    captions, latent, _, cuts, sixes = Film.execute(PROMPT, 5, 12).args
    (first, facts), (second, same) = captions[0][0], captions[1][0]
    assert facts["concat_latent_image"] is same["concat_latent_image"]
    assert facts["concat_latent_image"].shape == latent["samples"].shape == (1, 16, 36, 32, 32)
    assert (cuts.count(","), sixes) == (10, "69")
    conditioning, _, _, _, cuts_of_six = Storyboard.execute(PROMPT, 5).args
    assert torch.equal(first, conditioning[0][0]) and cuts.startswith(cuts_of_six)
    assert not torch.equal(first, second)


def test_a_prompt_of_more_shots_than_the_film_is_refused():
    with pytest.raises(ValueError, match="not less than the 7 of the prompt"):
        Film.execute(" [shot cut] ".join("abcdefg"), 0, sb.SHOTS)
