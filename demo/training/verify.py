"""Does ComfyUI compute what training computed? `python verify.py --comfyui PATH MODEL.safetensors VAE.safetensors`.

Loads both files through the host's stock loaders on the CPU and compares with the training code in float32.
"""

import argparse
import sys
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--comfyui", type=Path, required=True)
parser.add_argument("model", type=Path)
parser.add_argument("vae", type=Path)
a = parser.parse_args()
sys.path[:0] = [str(a.comfyui), str(Path(__file__).resolve().parent)]
sys.argv = [sys.argv[0], "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402
import model as nets  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402


def error(got, want):
    return ((got - want).abs().max() / want.abs().max()).item()


def settings(state):
    dim, ffn_dim = state["blocks.0.ffn.0.weight"].shape[::-1]
    return dict(
        dim=dim, ffn_dim=ffn_dim, layers=1 + max(int(k.split(".")[1]) for k in state if k.startswith("blocks."))
    )


@torch.inference_mode()
def main():
    torch.manual_seed(0)
    state = load_file(a.model)
    own = nets.DiT(**settings(state)).eval()
    own.load_state_dict({k: v.float() for k, v in state.items()})
    patcher = comfy.sd.load_diffusion_model(str(a.model), model_options={"dtype": torch.float32})
    host = patcher.model
    x, control = torch.randn(2, 16, 4, 10, 8), torch.randn(1, 16, 4, 10, 8)
    words, sigma = torch.randn(1, 7, 4096), torch.tensor([0.8, 0.8])
    want = own(x, sigma, words.expand(2, -1, -1), control.expand(2, -1, -1, -1, -1))
    concat = host.concat_cond(
        noise=x, concat_latent_image=nets.model_to_file_latent(control), device=torch.device("cpu")
    )
    got = x - host.apply_model(x, sigma, c_concat=concat, c_crossattn=words.expand(2, -1, -1))
    print("model class", type(host).__name__, type(host.diffusion_model).__name__, "shift", host.model_sampling.shift)
    errors = {
        "velocity": error(got / sigma.view(-1, 1, 1, 1, 1), want),
        "latent in": error(host.process_latent_in(nets.model_to_file_latent(x)), x),
        "latent out": error(host.process_latent_out(x), nets.model_to_file_latent(x)),
    }

    own = nets.VAE().eval()
    own.load_state_dict({k: v.float() for k, v in load_file(a.vae).items()})
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(a.vae)))
    vae.throw_exception_if_invalid()
    video = torch.rand(1, 9, 3, 48, 32)
    z = own.encode(video)
    want = own.decode(z)[0].movedim(1, -1)
    errors["decode"] = error(vae.decode(nets.model_to_file_latent(z)).reshape(want.shape), want)
    frames = video[0].movedim(1, -1)
    coded = vae.encode(torch.cat((frames[:1].expand(3, -1, -1, -1), frames)))
    errors["encode"] = error(coded, nets.model_to_file_latent(z))
    print({k: f"{v:.1e}" for k, v in errors.items()})
    if not all(v < 1e-4 for v in errors.values()):
        sys.exit("The host and the training code disagree.")


main()
