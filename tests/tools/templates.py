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
H3 = f"{HUB}MiniMax-H3/resolve/main/"
UMT5 = f"{WAN21}text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors"
# What no template of ComfyUI's loads, by where it was published.
PHANTOM = "https://huggingface.co/Kijai/WanVideo_comfy/resolve/main/Phantom-Wan-14B_fp16.safetensors"
TURBO = "https://huggingface.co/lightx2v/Minimax-h3-Turbo/resolve/main/"
TURBO += "minimax_h3_fl2v_turbo_8step_v1.0_comfyui_bf16.safetensors"
HOLOCINE = [f"Wan2_2-T2V-A14B-{n}-HoloCine-full_fp8_e4m3fn_scaled_KJ.safetensors" for n in ("HIGH", "LOW")]
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
H3_SHOTS = """Live action film, three shots, evening light. The same red-haired woman in a yellow raincoat in all shots.
CUT 1: wide shot, she walks along a harbour wall; waves on stone, gulls.
CUT 2: close-up, wind in her hair, she looks out to sea; the wind is louder.
CUT 3: she climbs into a small blue boat and takes the oars; wood creaks, water laps."""
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
    multishot(g, models, clip, vae, "29, 57", 81, (1280, 720), "moc_wan22_multishot")


def multishot(
    g: Graph, models: list[Out], clip: Out, vae: Out, times: str, length: int, size: tuple[int, int], name: str
) -> None:
    """Wan 2.2's two models, every shot with a prompt of its own."""
    g.column("The shots", 480)
    shots = g.add("MoCShots", tall=780, times=times, prompt=SHOTS, length=length, family="Wan")
    g.column("The video", 440)
    captions = [g.add("MoCShotConditioning", model=model, shots=shots["shots"], clip=clip) for model in models]
    negative = g.add("CLIPTextEncode", "Negative prompt", tall=130, clip=clip, text=NEGATIVE).only
    wide, high = size
    latent = g.add("EmptyHunyuanLatentVideo", "Size and length", width=wide, height=high, length=length).only
    g.column("MoC and sampling")
    applied = apply(g, [c["model"] for c in captions], shots, "recommended")
    texts = [c["conditioning"] for c in captions]
    sampled = two_samplers(g, [a["model"] for a in applied], texts, negative, latent)
    result(g, applied[1], sampled.only, vae, 16.0, name, "shots")


def holocine_multishot(g: Graph) -> None:
    g.note(f"""## HoloCine on ComfyUI's own nodes, three shots with a prompt each

1. **HoloCine** is Wan 2.2 14B trained on films of several shots. The two files of its *full* model are looked for under
   the names they have in huggingface.co/Kijai/WanVideo_comfy_fp8_scaled; text encoder and VAE are Wan's.
2. **MoC Shots** holds the prompt, also in HoloCine's own form, `[global caption] ... [shot cut] ...`.
3. **MoC Shot Conditioning**: every frame reads its own shot's prompt and what is common to all. HoloCine does so too,
   but encodes all texts at once.
4. **MoC Routing** is on *recommended*. For HoloCine's *sparse* model choose `method` *HoloCine* (an advanced input).

{COMPARE}""")
    g.column("Models")
    loaded = [g.add("UNETLoader", unet_name=name, weight_dtype="default").only for name in HOLOCINE]
    clip = g.add("CLIPLoader", url=UMT5, clip_name=file_of(UMT5), type="wan").only
    vae = g.add("VAELoader", url=f"{WAN21}vae/wan_2.1_vae.safetensors", vae_name="wan_2.1_vae.safetensors").only
    models = [g.add("ModelSamplingSD3", model=model, shift=5.0).only for model in loaded]
    multishot(g, models, clip, vae, "81, 161", 241, (832, 480), "moc_holocine")


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


def wan_phantom_references(g: Graph) -> None:
    g.note(f"""## Wan Phantom with two references as memory

1. **Load Image**, twice: who and what the video shows, on plain ground.
2. **WanPhantomSubjectToVideo** puts the references behind the video as frames of their own. In **MoC Routing**,
   `references` (an advanced input) is *linked*: every token always sees them. *routed* lets them choose.
3. **Dual CFG Guider**: 7.5 for the prompt, 5 for the references, as Phantom's authors set it.
4. **Run.** The narrow columns of the heatmap are the references.

{COMPARE}""")
    g.column("Models")
    (model,), clip, vae = wan_files(g, PHANTOM, shift=5.0)
    g.column("The video", 440)
    first, second = (
        g.add("LoadImage", title, tall=330, image="example.png")["IMAGE"] for title in ("Who", "What, or where")
    )
    both = g.add("ImageBatch", image1=first, image2=second).only
    positive, negative = text_encoders(g, clip, ONE_SHOT)
    size = {"width": 832, "height": 480, "length": 81}
    texts = g.add("WanPhantomSubjectToVideo", positive=positive, negative=negative, vae=vae, images=both, **size)
    g.column("MoC and sampling")
    (applied,) = apply(g, [model], None, "recommended", references="linked")
    scales = {"cfg_conds": 7.5, "cfg_cond2_negative": 5.0}
    conds = {"cond1": "positive", "cond2": "negative_text", "negative": "negative_img_text"}
    conds = {name: texts[output] for name, output in conds.items()}
    guider = g.add("DualCFGGuider", model=applied["model"], **conds, **scales).only
    sampled = custom_sampler(g, guider, model, texts["latent"], "uni_pc", 40)
    result(g, applied, sampled["output"], vae, 16.0, "moc_phantom")


def custom_sampler(g: Graph, guider: Out, model: Out, latent: Out, sampler: str, steps: int) -> Node:
    """SamplerCustomAdvanced by the simple scheduler."""
    parts = {"noise": g.add("RandomNoise", noise_seed=42).only, "guider": guider, "latent_image": latent}
    parts["sampler"] = g.add("KSamplerSelect", sampler_name=sampler).only
    parts["sigmas"] = g.add("BasicScheduler", model=model, scheduler="simple", steps=steps).only
    return g.add("SamplerCustomAdvanced", **parts)


def minimax_h3_keyframes(g: Graph) -> None:
    g.note(f"""## MiniMax H3 from a first to a last picture, with sound

1. The **files** are those of ComfyUI's own MiniMax H3 templates.
2. **Load Image**, twice: the first and the last frame. They, text and sound are always seen; only the video is routed.
3. **MoC Apply** goes last before the guider.
4. **Run.** 124 frames at 1344x768 are some 37,000 tokens.

{COMPARE}""")
    g.column("Models")
    model, clip, vae, sound_vae = h3_files(g)
    g.column("The video", 440)
    first, last = (
        g.add("LoadImage", title, tall=330, image="example.png")["IMAGE"] for title in ("First frame", "Last frame")
    )
    h3(
        g,
        model,
        clip,
        vae,
        sound_vae,
        ONE_SHOT + " Wind and gulls, waves on stone.",
        20,
        first_frame=first,
        last_frame=last,
    )


def minimax_h3_turbo(g: Graph) -> None:
    g.note(f"""## MiniMax H3 with its turbo LoRA: three shots and sound in eight steps

1. The **files** are those of ComfyUI's own templates, and LightX2V's turbo LoRA for eight steps.
2. **MoC Shots**: where the prompt's cuts fall, so that no chunk reaches across one. H3 reads one text for all shots.
3. With few steps each one counts: **MoC Routing** keeps steps of more than 98 % noise dense (`dense_above`, an advanced
   input: the first two of eight), and is on *recommended*. **MoC Probe** tells what a step loses.
4. **Run.**

{COMPARE}""")
    g.column("Models")
    model, clip, vae, sound_vae = h3_files(g)
    model = g.add("LoraLoaderModelOnly", url=TURBO, model=model, lora_name=file_of(TURBO)).only
    g.column("The shots", 480)
    shots = g.add("MoCShots", tall=560, times="39, 81", fps=24.0, length=124, family="MiniMax H3")
    g.column("The video", 440)
    h3(g, model, clip, vae, sound_vae, H3_SHOTS, 8, shots, dense_above=0.98)


def h3_files(g: Graph) -> tuple[Out, Out, Out, Out]:
    """(model, text encoder, VAE, VAE of sound)."""
    url = f"{H3}diffusion_models/minimax_h3_fl2va_pruned_int8_convrot.safetensors"
    model = g.add("UNETLoader", url=url, unet_name=file_of(url), weight_dtype="default").only
    url = f"{H3}text_encoders/qwen3vl_32b_minimax_h3_nvfp4_awq.safetensors"
    clip = g.add("CLIPLoader", url=url, clip_name=file_of(url), type="minimax").only
    urls = [f"{H3}vae/minimax_h3_{what}.safetensors" for what in ("video_vae_fp16", "audio_vae_fp32")]
    vae, sound_vae = (g.add("VAELoader", url=url, vae_name=file_of(url)).only for url in urls)
    return model, clip, vae, sound_vae


def h3(
    g: Graph,
    model: Out,
    clip: Out,
    vae: Out,
    sound_vae: Out,
    prompt: str,
    steps: int,
    shots: Node | None = None,
    dense_above: float = 1.0,
    **frames: Out,
) -> None:
    """From the prompt to the film. H3 has no negative prompt."""
    size = {"width": 1344, "height": 768, "length": 124}
    text = g.add("MiniMaxH3ImageToVideo", tall=320, clip=clip, vae=vae, prompt=prompt, **size, **frames)
    g.column("MoC and sampling")
    (applied,) = apply(g, [model], shots, "recommended", dense_above=dense_above)
    guider = g.add("BasicGuider", model=applied["model"], conditioning=text["positive"]).only
    sampled = custom_sampler(g, guider, model, text["LATENT"], "res_multistep", steps)
    heard = g.add("VAEDecodeAudio", samples=sampled["output"], vae=sound_vae).only
    result(g, applied, sampled["output"], vae, 24.0, "moc_h3", "shots" if shots else "frames", audio=heard)


def wan_train_lora(g: Graph) -> None:
    g.note(f"""## Train a LoRA with MoC on, and try it

1. **Load Video-Text**: a folder in ComfyUI's `input` with short clips and a `.txt` beside each.
2. **MoC Apply** before **Train LoRA**: the model learns to get along with what routing reads. The routing drops
   and adds chunks at random, as the Mixture of Contexts paper trains (`drop_off`, `drop_in`, advanced inputs).
3. The LoRA is a plain one: it is saved to `output/loras`, and works with full attention too.
4. Below, a film with the LoRA and the same routing, without the randomness.

Training nodes are experimental in ComfyUI. {COMPARE}""")
    g.column("Models")
    (model,), clip, vae = wan_files(g, f"{WAN21}diffusion_models/wan2.1_t2v_1.3B_fp16.safetensors", shift=8.0)
    g.column("The clips", 440)
    clips = g.add("LoadVideoTextDataSetFromFolder", folder="clips")
    frames = g.add("GetVideoComponents", video=clips["videos"])
    data = g.add("MakeTrainingDataset", images=frames["images"], vae=vae, clip=clip, texts=clips["texts"])
    g.column("Training", 440)
    (learning,) = apply(g, [model], None, "recommended", drop_off=0.2, drop_in=1.0)
    how = {"batch_size": 1, "steps": 500, "learning_rate": 0.0002, "rank": 16, "training_dtype": "bf16"}
    inputs = {"latents": data["latents"], "positive": data["conditioning"]}
    trained = g.add("TrainLoraNode", model=learning["model"], **inputs, **how)
    g.add("SaveLoRA", lora=trained["lora"], prefix="loras/moc", steps=trained["steps"])
    g.add("LossGraphNode", tall=300, loss=trained["loss_map"])
    g.column("A film with it")
    positive, negative = text_encoders(g, clip, ONE_SHOT)
    latent = g.add("EmptyHunyuanLatentVideo", "Size and length", width=832, height=480, length=81).only
    learned = g.add("LoraModelLoader", model=model, lora=trained["lora"], strength_model=1.0).only
    (applied,) = apply(g, [learned], None, "recommended")
    sampling = {"seed": 42, "steps": 30, "cfg": 6.0, "sampler_name": "uni_pc", "scheduler": "simple"}
    texts = {"positive": positive, "negative": negative}
    sampled = g.add("KSampler", model=applied["model"], latent_image=latent, **texts, **sampling)
    result(g, applied, sampled.only, vae, 16.0, "moc_lora")


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
attention on the left, and frame by frame under a slider in **Compare Images**. Change **MoC Routing** and run
again: the left half is not sampled a second time.""",
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
    g.add("ImageCompare", "Full attention, MoC: move the slider", tall=420, image_a=left, image_b=right)


TEMPLATES: dict[str, Callable[[Graph], None]] = {
    template.__name__: template
    for template in (
        *(wan22_t2v, wan22_t2v_multishot, holocine_multishot, wan22_i2v, hunyuan15_t2v, ltx2_t2v),
        *(minimax_h3_keyframes, minimax_h3_turbo, wan_vace_references, wan_phantom_references, wan_v2v_detected),
        *(wan22_long_windows, wan_remake_shot, wan_compare, wan_train_lora),
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
