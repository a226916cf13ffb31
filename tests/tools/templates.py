"""Writes the templates in workflows/ that start from ComfyUI's official model files: python -m tests.tools.templates

Files, sizes, steps and shifts are those of ComfyUI's own templates, so that who has their files presses Run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.tools.graphs import Graph, Node, Out, from_prompt

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
DEMO = FOLDER.parent / "demo"
HUB = "https://huggingface.co/Comfy-Org/"
WAN21, WAN22 = (f"{HUB}Wan_{v}/resolve/main/split_files/" for v in ("2.1_ComfyUI_repackaged", "2.2_ComfyUI_Repackaged"))
HUNYUAN = f"{HUB}HunyuanVideo_1.5_repackaged/resolve/main/split_files/"
LTX = "https://huggingface.co/Lightricks/LTX-2/resolve/main/ltx-2-19b-dev-fp8.safetensors"
GEMMA = f"{HUB}ltx-2/resolve/main/split_files/text_encoders/gemma_3_12B_it_fp4_mixed.safetensors"
UMT5 = f"{WAN21}text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors"
NEGATIVE = "overexposed, static, blurred details, subtitles, painting, still picture, worst quality, low quality"
ONE_SHOT = (
    "A red-haired woman in a yellow raincoat walks along a harbour wall in the evening sun, gulls overhead. Film."
)
SHOTS = """[global] Live action, warm evening light. A red-haired woman in a yellow raincoat, the same in all shots.
[shot 1 "harbour"] Wide shot: she walks along a harbour wall, gulls overhead.
[shot 2 "face"] Close-up: wind in her hair, she looks out to sea.
[shot 3 "boat"] She climbs into a small blue boat and takes the oars."""
LONG = (
    SHOTS
    + """
[shot 4 "open sea"] Seen from above: the blue boat alone on dark water.
[shot 5 "lantern"] Close-up: her hands light a lantern.
[shot 6 "home"] Wide shot: the lantern's light comes back into the harbour at night."""
)
COMPARE = "To compare with full attention, bypass *MoC Apply* (Ctrl+B) and keep the seed."


def file_of(url: str) -> str:
    return url.rpartition("/")[2]


def text_encoders(g: Graph, clip: Out, prompt: str | Out) -> tuple[Out, Out]:
    positive = g.add("CLIPTextEncode", "Prompt", tall=160, clip=clip, text=prompt)
    negative = g.add("CLIPTextEncode", "Negative prompt", tall=130, clip=clip, text=NEGATIVE)
    return positive.only, negative.only


def wan_files(g: Graph, *models: str, shift: float) -> tuple[list[Out], Out, Out]:
    """(models with their shift, text encoder, VAE)."""
    loaded = [g.add("UNETLoader", url=url, unet_name=file_of(url), weight_dtype="default").only for url in models]
    clip = g.add("CLIPLoader", url=UMT5, clip_name=file_of(UMT5), type="wan").only
    vae = g.add("VAELoader", url=f"{WAN21}vae/wan_2.1_vae.safetensors", vae_name="wan_2.1_vae.safetensors").only
    return [g.add("ModelSamplingSD3", model=model, shift=shift).only for model in loaded], clip, vae


def wan22_files(g: Graph, kind: str) -> tuple[list[Out], Out, Out]:
    both = (f"{WAN22}diffusion_models/wan2.2_{kind}_{n}_noise_14B_fp8_scaled.safetensors" for n in ("high", "low"))
    return wan_files(g, *both, shift=5.0)


def two_samplers(g: Graph, models: list[Out], positive: list[Out], negative: Out, latent: Out) -> Node:
    """High noise, then low noise, as Wan 2.2 14B is sampled."""
    how = {"steps": 20, "cfg": 3.5, "sampler_name": "euler", "scheduler": "simple", "negative": negative}
    high = {"add_noise": "enable", "noise_seed": 42, "end_at_step": 10, "return_with_leftover_noise": "enable"}
    first = g.add(
        "KSamplerAdvanced", "High noise", model=models[0], positive=positive[0], latent_image=latent, **how, **high
    )
    low = {"add_noise": "disable", "start_at_step": 10, "return_with_leftover_noise": "disable"}
    return g.add(
        "KSamplerAdvanced", "Low noise", model=models[1], positive=positive[-1], latent_image=first.only, **how, **low
    )


def apply(
    g: Graph, models: list[Out], shots: Node | None, preset: str = "large pictures", **routing: Any
) -> list[Node]:
    """A MoC Apply for every model, by one MoC Routing."""
    chosen = g.add("MoCRouting", preset=preset, tall=150, **routing)
    inputs = {"routing": chosen["routing"], **({"shots": shots["shots"]} if shots else {})}
    return [g.add("MoCApply", model=model, tall=140, **inputs) for model in models]


def result(
    g: Graph, trace: Node, sampled: Out, vae: Out, fps: float, name: str, view: str = "frames", audio: Out | None = None
) -> Node:
    """The heatmap and the film."""
    g.column("Result", 560)
    heatmap = g.add("MoCRoutingHeatmap", tall=640, trace=trace["trace"], after_sample=sampled, view=view)
    g.add("PreviewAny", "What was routed, what ran dense and why", tall=150, source=heatmap["report"])
    g.column("Film", 520)
    images = g.add("VAEDecode", samples=heatmap["latent"], vae=vae).only
    film = g.add("CreateVideo", images=images, fps=fps, **({"audio": audio} if audio else {})).only
    g.add("SaveVideo", tall=480, video=film, filename_prefix=f"video/{name}")
    return heatmap


def wan22_t2v(g: Graph) -> None:
    g.note(f"""## Wan 2.2 14B text to video, one shot

1. The **files** are those of ComfyUI's own Wan 2.2 template.
2. Each of the two models has a **MoC Apply** of its own, last before its sampler.
3. **MoC Routing** is on *large pictures*, the fast preset at 720p. *recommended* is closer to full attention.
4. **Run.** The line on MoC Apply says what was routed; the heatmap shows the low noise half.

{COMPARE}""")
    g.column("Models")
    models, clip, vae = wan22_files(g, "t2v")
    g.column("The video", 440)
    positive, negative = text_encoders(g, clip, ONE_SHOT)
    latent = g.add("EmptyHunyuanLatentVideo", "Size and length", width=1280, height=720, length=81).only
    g.column("MoC and sampling")
    applied = apply(g, models, None)
    sampled = two_samplers(g, [a["model"] for a in applied], [positive], negative, latent)
    result(g, applied[1], sampled.only, vae, 16.0, "moc_wan22")


def wan22_t2v_multishot(g: Graph) -> None:
    g.note(f"""## Wan 2.2 14B text to video, three shots with a prompt each

1. **MoC Shots**: drag cuts on its timeline, write what happens below. The cuts snap to where Wan can cut.
2. **MoC Shot Conditioning**, one for each model: every frame reads its own shot's prompt and what is common to all.
3. **MoC Apply**, one for each model: memory from shot to shot at a part of the work.
4. **Run.** The heatmap shows which shot read which.

{COMPARE}""")
    g.column("Models")
    models, clip, vae = wan22_files(g, "t2v")
    g.column("The shots", 480)
    shots = g.add("MoCShots", tall=780, times="29, 57", prompt=SHOTS, length=81, family="Wan")
    g.column("The video", 440)
    captions = [g.add("MoCShotConditioning", model=model, shots=shots["shots"], clip=clip) for model in models]
    negative = g.add("CLIPTextEncode", "Negative prompt", tall=130, clip=clip, text=NEGATIVE).only
    latent = g.add("EmptyHunyuanLatentVideo", "Size and length", width=1280, height=720, length=81).only
    g.column("MoC and sampling")
    applied = apply(g, [c["model"] for c in captions], shots, "recommended")
    texts = [c["conditioning"] for c in captions]
    sampled = two_samplers(g, [a["model"] for a in applied], texts, negative, latent)
    result(g, applied[1], sampled.only, vae, 16.0, "moc_wan22_multishot", "shots")


def wan22_i2v(g: Graph) -> None:
    g.note(f"""## Wan 2.2 14B image to video

1. **Load Image**: the first frame.
2. Each of the two models has a **MoC Apply** of its own. The start image is part of the video's first frame.
3. **Run.** The heatmap shows how much later frames read the first one.

{COMPARE}""")
    g.column("Models")
    models, clip, vae = wan22_files(g, "i2v")
    g.column("The video", 440)
    image = g.add("LoadImage", "Start image", tall=360, image="example.png")["IMAGE"]
    positive, negative = text_encoders(g, clip, ONE_SHOT)
    size = {"width": 1280, "height": 720, "length": 81}
    start = g.add("WanImageToVideo", positive=positive, negative=negative, vae=vae, start_image=image, **size)
    g.column("MoC and sampling")
    applied = apply(g, models, None)
    sampled = two_samplers(g, [a["model"] for a in applied], [start["positive"]], start["negative"], start["latent"])
    result(g, applied[1], sampled.only, vae, 16.0, "moc_wan22_i2v")


def hunyuan15_t2v(g: Graph) -> None:
    g.note(f"""## HunyuanVideo 1.5 text to video, 720p

1. The **files** are those of ComfyUI's own template, without its second stage.
2. **MoC Apply** goes last before the sampler. Text and video share one attention here: text is always seen.
3. **Run.** 121 frames at 720p are long enough for routing to pay on most cards.

{COMPARE}""")
    g.column("Models")
    url = f"{HUNYUAN}diffusion_models/hunyuanvideo1.5_720p_t2v_fp16.safetensors"
    model = g.add("UNETLoader", url=url, unet_name=file_of(url), weight_dtype="default").only
    names = {"clip_name1": "qwen_2.5_vl_7b_fp8_scaled.safetensors", "clip_name2": "byt5_small_glyphxl_fp16.safetensors"}
    encoder = f"{HUNYUAN}text_encoders/{names['clip_name1']}"
    clip = g.add("DualCLIPLoader", url=encoder, **names, type="hunyuan_video_15").only
    url = f"{HUNYUAN}vae/hunyuanvideo15_vae_fp16.safetensors"
    vae = g.add("VAELoader", url=url, vae_name=file_of(url)).only
    model = g.add("ModelSamplingSD3", model=model, shift=7.0).only
    g.column("The video", 440)
    positive, negative = text_encoders(g, clip, ONE_SHOT)
    latent = g.add("EmptyHunyuanVideo15Latent", "Size and length", width=1280, height=720, length=121).only
    g.column("MoC and sampling")
    (applied,) = apply(g, [model], None)
    how = {"seed": 42, "steps": 20, "cfg": 6.0, "sampler_name": "euler", "scheduler": "simple"}
    texts = {"positive": positive, "negative": negative}
    sampled = g.add("KSampler", model=applied["model"], latent_image=latent, **texts, **how)
    result(g, applied, sampled.only, vae, 24.0, "moc_hunyuan15")


def ltx2_t2v(g: Graph) -> None:
    g.note(f"""## LTX-2 text to video with sound

1. The **files** are those of ComfyUI's own template; this is its first stage.
2. **MoC Apply** routes among the tokens of the picture. Sound and text are seen by all and never routed.
3. **Run.**

{COMPARE}""")
    g.column("Models")
    name = file_of(LTX)
    model = g.add("CheckpointLoaderSimple", url=LTX, ckpt_name=name)
    clip = g.add("LTXAVTextEncoderLoader", url=GEMMA, text_encoder=file_of(GEMMA), ckpt_name=name).only
    sound_vae = g.add("LTXVAudioVAELoader", ckpt_name=name).only
    g.column("The video", 440)
    positive, negative = text_encoders(g, clip, ONE_SHOT + " Wind and gulls, waves on stone.")
    texts = g.add("LTXVConditioning", positive=positive, negative=negative, frame_rate=24.0)
    picture = g.add("EmptyLTXVLatentVideo", "Size and length", width=1280, height=704, length=121).only
    sound = g.add("LTXVEmptyLatentAudio", frames_number=121, frame_rate=24.0, audio_vae=sound_vae).only
    latent = g.add("LTXVConcatAVLatent", video_latent=picture, audio_latent=sound).only
    g.column("MoC and sampling")
    (applied,) = apply(g, [model["MODEL"]], None)
    guider = g.add("CFGGuider", model=applied["model"], positive=texts["positive"], negative=texts["negative"], cfg=4.0)
    parts = {"noise": g.add("RandomNoise", noise_seed=42).only, "guider": guider.only}
    parts |= {"sampler": g.add("KSamplerSelect", sampler_name="euler_ancestral").only}
    parts |= {"sigmas": g.add("LTXVScheduler", latent=latent, steps=20).only, "latent_image": latent}
    sampled = g.add("SamplerCustomAdvanced", **parts)
    apart = g.add("LTXVSeparateAVLatent", av_latent=sampled["output"])
    heard = g.add("LTXVAudioVAEDecode", samples=apart["audio_latent"], audio_vae=sound_vae).only
    result(g, applied, apart["video_latent"], model["VAE"], 24.0, "moc_ltx2", audio=heard)


def wan_vace_references(g: Graph) -> None:
    g.note(f"""## Wan VACE with a reference as memory

1. **Load Image**: who or what the video shows.
2. **WanVaceToVideo** puts the reference in front of the video. In **MoC Routing**, `references` (an advanced input) is
   *linked*: every token of every frame always sees it. *routed* lets them choose, which costs less.
3. **Run.** The narrow column of the heatmap is the reference.

{COMPARE}""")
    g.column("Models")
    (model,), clip, vae = wan_files(g, f"{WAN21}diffusion_models/wan2.1_vace_14B_fp16.safetensors", shift=8.0)
    g.column("The video", 440)
    image = g.add("LoadImage", "Reference", tall=360, image="example.png")["IMAGE"]
    positive, negative = text_encoders(g, clip, ONE_SHOT)
    size = {"width": 832, "height": 480, "length": 81}
    vace = g.add("WanVaceToVideo", positive=positive, negative=negative, vae=vae, reference_image=image, **size)
    g.column("MoC and sampling")
    (applied,) = apply(g, [model], None, "recommended", references="linked")
    how = {"seed": 42, "steps": 20, "cfg": 6.0, "sampler_name": "uni_pc", "scheduler": "simple"}
    texts = {"positive": vace["positive"], "negative": vace["negative"]}
    sampled = g.add("KSampler", model=applied["model"], latent_image=vace["latent"], **texts, **how)
    trimmed = g.add("TrimVideoLatent", samples=sampled.only, trim_amount=vace["trim_latent"])
    result(g, applied, trimmed.only, vae, 16.0, "moc_vace")


def wan_v2v_detected(g: Graph) -> None:
    g.note(f"""## Video to video along the shots of the footage

1. **Load Video**, some five seconds at 832x480 or less: it is made anew with your prompt, in its own rhythm.
2. **MoC Detect Shots** finds its cuts; the contact sheet on the node shows every shot.
3. **MoC Apply** never lets a chunk cross a cut, and the heatmap shows which shot read which.
4. `denoise` .6 keeps motion and layout; higher is freer.

{COMPARE}""")
    g.column("Models")
    (model,), clip, vae = wan_files(g, f"{WAN21}diffusion_models/wan2.1_t2v_1.3B_fp16.safetensors", shift=8.0)
    g.column("The footage", 440)
    video = g.add("LoadVideo", tall=340, file="example.mp4").only
    frames = g.add("GetVideoComponents", video=video)
    shots = g.add("MoCDetectShots", tall=480, video=video, family="Wan")
    latent = g.add("VAEEncode", pixels=frames["images"], vae=vae).only
    g.column("MoC and sampling")
    positive, negative = text_encoders(g, clip, "The same scenes as a watercolour animation, soft paper texture.")
    (applied,) = apply(g, [model], shots, "recommended")
    how = {"seed": 42, "steps": 30, "cfg": 6.0, "sampler_name": "uni_pc", "scheduler": "simple", "denoise": 0.6}
    texts = {"positive": positive, "negative": negative}
    sampled = g.add("KSampler", model=applied["model"], latent_image=latent, **texts, **how)
    result(g, applied, sampled.only, vae, 16.0, "moc_v2v", "shots")


def wan22_long_windows(g: Graph) -> None:
    g.note(f"""## A long film in windows, Wan 2.2 14B

1. **MoC Shots**: six shots, 241 frames, three times as long as the model was made for.
2. **MoC Windows**, one for each model: 81 frames at a time, along the shots, drawn anew at every step, so that all
   shots agree on who is in them.
3. **MoC Shot Conditioning** gives every shot its own prompt, whichever window it is in.
4. **Run.** It takes as long as three films of 81 frames.

{COMPARE}""")
    g.column("Models")
    models, clip, vae = wan22_files(g, "t2v")
    g.column("The shots", 480)
    shots = g.add("MoCShots", tall=780, times="41, 81, 121, 161, 201", prompt=LONG, length=241, family="Wan")
    g.column("The video", 440)
    captions = [g.add("MoCShotConditioning", model=model, shots=shots["shots"], clip=clip) for model in models]
    negative = g.add("CLIPTextEncode", "Negative prompt", tall=130, clip=clip, text=NEGATIVE).only
    latent = g.add("EmptyHunyuanLatentVideo", "Size and length", width=832, height=480, length=241).only
    g.column("MoC and sampling")
    windows = [g.add("MoCWindows", tall=230, model=c["model"], shots=shots["shots"], length=81) for c in captions]
    applied = apply(g, [w["model"] for w in windows], shots, "recommended")
    texts = [c["conditioning"] for c in captions]
    sampled = two_samplers(g, [a["model"] for a in applied], texts, negative, latent)
    result(g, applied[1], sampled.only, vae, 16.0, "moc_long", "shots")


def wan_remake_shot(g: Graph) -> None:
    g.note("""## One shot of a finished film, made again

1. **Load Video**: a finished film of this model, of any length.
2. **MoC Detect Shots** finds its cuts; the contact sheet on the node numbers the shots.
3. **MoC Remake**: the number of the shot and what happens in it. *do* can also put a new shot in, or one at the end.
4. **Run.** The shot sees a frame of every other one and looks like them. The others come back as the latents they were,
   in little more time than one shot takes. For the next shot, save the latent and load it in place of the video.

The heatmap shows which shot the new one looked at.""")
    g.column("Models")
    (model,), clip, vae = wan_files(g, f"{WAN21}diffusion_models/wan2.1_t2v_1.3B_fp16.safetensors", shift=8.0)
    g.column("The finished film", 440)
    video = g.add("LoadVideo", tall=340, file="example.mp4").only
    frames = g.add("GetVideoComponents", video=video)
    shots = g.add("MoCDetectShots", tall=480, video=video, family="Wan")
    film = g.add("VAEEncode", pixels=frames["images"], vae=vae).only
    g.column("The shot", 480)
    remade = g.add(
        "MoCRemake", tall=520, model=model, film=film, shots=shots["shots"], shot=2, prompt=SHOTS.splitlines()[2][16:]
    )
    captions = g.add("MoCShotConditioning", model=remade["model"], shots=remade["shots"], clip=clip)
    negative = g.add("CLIPTextEncode", "Negative prompt", tall=130, clip=clip, text=NEGATIVE).only
    g.column("MoC and sampling")
    (applied,) = apply(g, [captions["model"]], remade, "recommended")
    how = {"seed": 42, "steps": 30, "cfg": 6.0, "sampler_name": "uni_pc", "scheduler": "simple"}
    texts = {"positive": captions["conditioning"], "negative": negative}
    sampled = g.add("KSampler", model=applied["model"], latent_image=remade["latent"], **texts, **how)
    result(g, applied, sampled.only, vae, 16.0, "moc_remake", "bank")


def wan_compare(g: Graph) -> None:
    g.note(
        """## Full attention and MoC side by side

The same model, prompt and seed, once with full attention and once with MoC; both films next to each other, full
attention on the left. Change **MoC Routing** and run again: the left half is not sampled a second time.""",
        (520, 300),
    )
    g.column("Models")
    (model,), clip, vae = wan_files(g, f"{WAN21}diffusion_models/wan2.1_t2v_1.3B_fp16.safetensors", shift=8.0)
    g.column("The video", 480)
    shots = g.add("MoCShots", tall=780, times="29, 57", prompt=SHOTS, length=81, family="Wan")
    positive, negative = text_encoders(g, clip, shots["prompt"])
    latent = g.add("EmptyHunyuanLatentVideo", "Size and length", width=832, height=480, length=81).only
    g.column("Sampling, twice")
    how = {"seed": 42, "steps": 30, "cfg": 6.0, "sampler_name": "uni_pc", "scheduler": "simple"}
    inputs = {"positive": positive, "negative": negative, "latent_image": latent, **how}
    dense = g.add("KSampler", "Full attention", model=model, **inputs).only
    (applied,) = apply(g, [model], shots, "recommended")
    routed = g.add("KSampler", "MoC", model=applied["model"], **inputs).only
    g.column("Result", 560)
    heatmap = g.add("MoCRoutingHeatmap", tall=640, trace=applied["trace"], after_sample=routed, view="shots")
    g.add("PreviewAny", "What was routed, what ran dense and why", tall=150, source=heatmap["report"])
    g.column("Films", 520)
    left, right = (g.add("VAEDecode", samples=samples, vae=vae).only for samples in (dense, heatmap["latent"]))
    both = g.add("ImageStitch", image1=left, image2=right, direction="right", spacing_width=8).only
    film = g.add("CreateVideo", images=both, fps=16.0).only
    g.add("SaveVideo", tall=480, video=film, filename_prefix="video/moc_compare")


TEMPLATES: dict[str, Callable[[Graph], None]] = {
    template.__name__: template
    for template in (
        *(wan22_t2v, wan22_t2v_multishot, wan22_i2v, hunyuan15_t2v, ltx2_t2v),
        *(wan_vace_references, wan_v2v_detected, wan22_long_windows, wan_remake_shot, wan_compare),
    )
}


def demo_graph(object_info: dict[str, Any]) -> str:
    """The demo's prompt as a graph to look at; `python demo/run.py --open` shows it."""
    prompt = json.loads((FOLDER / "demo_multishot.json").read_text("utf-8"))
    return as_text(from_prompt(prompt, object_info, "The demo").saved("demo"))


def as_text(saved: dict[str, Any]) -> str:
    return json.dumps(saved, indent=1, ensure_ascii=False) + "\n"


def written(name: str, object_info: dict[str, Any]) -> str:
    graph = Graph(object_info)
    TEMPLATES[name](graph)
    return as_text(graph.saved(name))


def main() -> None:
    from demo.host import NEWEST, prepare
    from demo.server import Server

    with Server(prepare(NEWEST, tools=True), nodes=[DEMO / "comfyui_moc_demo"], cpu=True) as server:
        info = server.object_info()
    (DEMO / "graph.json").write_text(demo_graph(info), "utf-8")
    for name in TEMPLATES:
        (FOLDER / f"{name}.json").write_text(written(name, info), "utf-8")


if __name__ == "__main__":
    main()
