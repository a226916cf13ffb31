"""A running ComfyUI, driven over HTTP like a person's browser does it.

with Server(prepare(), nodes=[...], models={"vae": folder}) as server:
    run = server.wait(server.queue(prompt), on_progress=print)
    run.files, run.texts
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from demo.host import Host
from demo.hosting.base import PACK, BaseFolder
from demo.hosting.common import HostError, tail
from demo.hosting.results import Progress, PromptRefused, Run, RunFailed, RunInterrupted, refused
from demo.hosting.websocket import WebSocket

__all__ = ["Progress", "PromptRefused", "Run", "RunFailed", "RunInterrupted", "Server"]

LAUNCH = Path(__file__).resolve().parent / "hosting" / "launch.py"
LOOPBACK = "127.0.0.1"
HIDDEN_FROM_SERVER = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
OnProgress = Callable[[Progress], None]
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy has no business with this machine


class Server:
    def __init__(
        self,
        host: Host,
        nodes: Sequence[Path] = (),
        models: Mapping[str, Path] | None = None,
        args: Sequence[str] = (),
        port: int | None = None,
        cpu: bool | None = None,
    ) -> None:
        """`nodes`: custom node folders besides the pack; `models`: a folder per kind ("vae": ...); `cpu`: None
        decides by what is there."""
        self.host, self.nodes, self.models, self.args = host, list(nodes), dict(models or {}), list(args)
        self.port, self.cpu = port or 0, cpu
        self.client = uuid.uuid4().hex
        self.classes: dict[str, dict[str, str]] = {}  # by prompt id and node id
        self.process: subprocess.Popen[bytes] | None = None
        self.base: BaseFolder | None = None
        self.socket: WebSocket | None = None
        self.log = host.home / "logs" / "server.log"

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def folder(self) -> Path:
        if self.base is None:
            raise HostError("The server is not running.")
        return self.base.path

    def start(self, timeout: float = 600) -> None:
        """Up and answering, with every custom node loaded, or an error that shows the end of the log."""
        atexit.register(self.stop)
        self.base = BaseFolder(self.host.home, self.host.version)
        self.base.link_nodes(self.nodes)
        self.log = self.host.home / "logs" / f"server-{self.base.path.name.removeprefix('base-')}.log"
        self.log.parent.mkdir(exist_ok=True)
        self.port = self.port or free_port()
        env = {name: value for name, value in os.environ.items() if name not in HIDDEN_FROM_SERVER}
        env.update(PYTHONUNBUFFERED="1", PYTHONIOENCODING="utf-8", PYTHONNOUSERSITE="1")
        with self.log.open("wb") as log:
            pipes = {"stdin": subprocess.PIPE, "stdout": log, "stderr": subprocess.STDOUT}
            self.process = subprocess.Popen(self.command(self.base), env=env, cwd=self.host.folder, **pipes)  # type: ignore[call-overload]
        deadline = time.monotonic() + timeout
        while not self.answers():
            if self.process.poll() is not None:
                self.fail(f"ComfyUI {self.host.version} ended while starting (exit code {self.process.returncode})")
            if time.monotonic() > deadline:
                self.fail(f"ComfyUI {self.host.version} did not answer within {timeout:.0f} s")
            time.sleep(0.2)
        self.check_nodes()

    def command(self, base: BaseFolder) -> list[str]:
        cpu = not has_cuda(self.host.python) if self.cpu is None else self.cpu
        database = f"sqlite:///{(base.path / 'user' / 'comfyui.db').as_posix()}"
        return [
            *map(str, (self.host.python, LAUNCH, self.host.folder / "main.py")),
            *("--listen", LOOPBACK, "--port", str(self.port), "--disable-auto-launch"),
            *("--base-directory", str(base.path), "--database-url", database),
            *("--extra-model-paths-config", str(base.write_model_paths(self.models))),
            *(["--cpu"] if cpu else []),
            *self.args,
        ]

    def answers(self) -> bool:
        try:
            return bool(self.get("/system_stats", timeout=5))
        except (OSError, ValueError):
            return False

    def check_nodes(self) -> None:
        """ComfyUI goes on without a custom node that fails to load; here that is an error."""
        text = self.log_text()
        for name in (PACK, *(folder.name for folder in self.nodes)):
            if any("(IMPORT FAILED)" in line and line.rstrip().endswith(name) for line in text.splitlines()):
                before = text.partition("Import times for custom nodes")[0]
                trace = before[max(before.rfind("Traceback (most recent call last)"), 0) :]
                self.stop()
                what = f"ComfyUI {self.host.version} could not load the custom node {name}"
                raise HostError(f"{what}; from {self.log}:\n{tail(trace)}")

    def stop(self) -> None:
        """Whatever state it is in; a second call does nothing."""
        atexit.unregister(self.stop)
        if self.socket:
            self.socket.close()
        if self.process:
            if self.process.poll() is None:
                self.process.terminate()
                try:
                    self.process.wait(10)
                except subprocess.TimeoutExpired:
                    self.process.kill()
                    self.process.wait()
            if self.process.stdin:
                self.process.stdin.close()
        if self.base:
            self.base.release()
        self.socket = self.process = self.base = None

    def __enter__(self) -> Server:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *reason: object) -> None:
        self.stop()

    def object_info(self) -> dict[str, Any]:
        return dict(self.get("/object_info", timeout=60))

    def queue(self, prompt: Mapping[str, Any], extra: Mapping[str, Any] | None = None) -> str:
        """Hand in a prompt in API format; its id. A refusal raises PromptRefused with ComfyUI's own sentences."""
        if self.socket is None:
            try:
                self.socket = WebSocket(LOOPBACK, self.port, f"/ws?clientId={self.client}")
            except OSError:
                self.socket = None  # progress is a courtesy; the result comes over HTTP
        try:
            answer = self.post("/prompt", {"prompt": prompt, "client_id": self.client, "extra_data": dict(extra or {})})
        except urllib.error.HTTPError as refusal:
            raise refused(json.loads(refusal.read() or b"{}")) from None
        prompt_id = str(answer["prompt_id"])
        self.classes[prompt_id] = {node: content["class_type"] for node, content in prompt.items()}
        return prompt_id

    def wait(self, prompt_id: str, on_progress: OnProgress | None = None, timeout: float | None = None) -> Run:
        """Until the run is over. Raises RunFailed, RunInterrupted, or HostError when the server is gone."""
        started = time.monotonic()
        while True:
            finished, progress = self.next_event(prompt_id, time.monotonic() - started)
            if progress and on_progress:
                on_progress(progress)
            if finished and (entry := self.history(prompt_id)):
                return self.read_run(prompt_id, entry, time.monotonic() - started)
            if timeout is not None and time.monotonic() - started > timeout:
                raise HostError(f"The run did not finish within {timeout:.0f} s.")

    def next_event(self, prompt_id: str, seconds: float) -> tuple[bool, Progress | None]:
        """(worth asking for the result, progress), after a message or about a second."""
        try:
            text = self.socket.receive(1.0) if self.socket else None
        except OSError:
            self.socket = text = None
        if self.socket is None:
            time.sleep(0.5)
        if text is None:
            return True, None
        message = json.loads(text)
        kind, data = message.get("type"), message.get("data") or {}
        if data.get("prompt_id", prompt_id) != prompt_id:
            return False, None
        node = str(data.get("node") or "")
        if kind in ("executing", "progress") and node:
            node_class = self.classes.get(prompt_id, {}).get(node, "")
            return False, Progress(node, node_class, int(data.get("value", 0)), int(data.get("max", 0)), seconds)
        return kind in ("executing", "execution_success", "execution_error", "execution_interrupted"), None

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        try:
            return dict(self.get("/history/" + prompt_id)).get(prompt_id)
        except OSError:
            if self.process is None or ended(self.process):
                self.fail("ComfyUI ended during the run")
            return None

    def read_run(self, prompt_id: str, entry: dict[str, Any], seconds: float) -> Run:
        messages = entry.get("status", {}).get("messages", [])
        events = {kind: details for kind, details in messages}
        if "execution_interrupted" in events:
            raise RunInterrupted("The run was interrupted.")
        if "execution_error" in events:
            details = events["execution_error"]
            place = f"{details.get('node_type')} (node {details.get('node_id')})"
            raise RunFailed(f"{place}: {str(details.get('exception_message', '')).strip()}", details)
        return Run(prompt_id, entry.get("outputs", {}), seconds, self.folder, messages)

    def interrupt(self) -> None:
        self.post("/interrupt", {})

    def log_text(self) -> str:
        return self.log.read_text("utf-8", "replace") if self.log.is_file() else ""

    def fail(self, what: str) -> None:
        self.stop()
        raise HostError(f"{what}; the end of {self.log}:\n{tail(self.log_text(), 20)}")

    def get(self, path: str, timeout: float = 30) -> Any:
        with direct.open(self.url + path, timeout=timeout) as answer:
            return json.loads(answer.read())

    def post(self, path: str, content: Mapping[str, Any], timeout: float = 60) -> Any:
        request = urllib.request.Request(
            self.url + path, json.dumps(content).encode(), {"Content-Type": "application/json"}
        )
        with direct.open(request, timeout=timeout) as answer:
            return json.loads(answer.read() or b"null")


def ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(1)
    except subprocess.TimeoutExpired:
        return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def has_cuda(python: Path) -> bool:
    """Asks the interpreter that will run ComfyUI; a torch built for the CPU need not be imported for the answer."""
    code = (
        "import importlib.util, runpy, sys; spec = importlib.util.find_spec('torch'); "
        "built = runpy.run_path(spec.submodule_search_locations[0] + '/version.py'); "
        "sys.exit(1) if not (built.get('cuda') or built.get('hip')) else None; "
        "import torch; sys.exit(0 if torch.cuda.is_available() else 1)"
    )
    return subprocess.run([python, "-c", code], capture_output=True).returncode == 0
