"""All tests, from nothing: python tests/run.py [lint] [unit] [kernels] [js] [host] [workflow] [ui] [-- for pytest]

Makes the private environment first (a few minutes, once), then runs each part in it and sums up. Without names,
every part runs. `fast` is for while you work, under two minutes on two cores: lint, js, and what of unit is not marked
slow (Triton's interpreter, processes of their own). kernels interprets and compiles kernels. Node.js and Chromium come
from package registries, once (MOC_CHROMIUM names another browser). The environment is the demo's; MOC_DEMO_HOME moves
it. `newest` is for a schedule: the newest front end there is, and the ComfyUI in the folder that MOC_NEWEST names.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from demo.host import NEWEST, OLDEST, Host, existing, prepare  # noqa: E402
from demo.hosting.common import HostError  # noqa: E402
from tests.ui.browsers import find_browser, find_node, newest_front_end  # noqa: E402

PASSED, FAILED, SKIPPED = "passed", "FAILED", "skipped"
NOT_INHERITED = (
    *("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "MOC_COMFYUI_DIR", "MOC_COMFYUI_VERSION"),
    "PYTHONDONTWRITEBYTECODE",  # pip makes none either: every process would compile all of torch and ComfyUI again
)
CORES = min(os.cpu_count() or 1, 8)
# a worker a core; a file's tests stay together where they share what is slow to make
BY_FILE = ("-n", str(CORES), "--dist", "loadfile")
BY_TEST = ("-n", str(CORES), "--dist", "loadgroup")
AS_NAMED = ("--no-loadscope-reorder",)  # few tests of a file may be the longest ones: not last
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
TOOLING = ("demo/host.py", "demo/server.py", "demo/hosting", "tests/run.py")
WITHOUT_KERNELS = ("--ignore", "tests/unit/kernels")
PACK_PARTS = ("__init__.py", "moc", "nodes")


class Parts:
    """One method per part; each reports its steps as (name, outcome, seconds)."""

    def __init__(self, pytest_args: list[str]) -> None:
        self.pytest_args = pytest_args
        self.results: list[tuple[str, str, float]] = []

    def lint(self) -> None:
        host = prepare(NEWEST, tools=True)
        self.step("lint: ruff", [str(host.python), "-m", "ruff", "check", "."])
        mypy = [str(host.python), "-m", "mypy", "--config-file", str(REPO / "pyproject.toml")]
        mypy += ["--cache-dir", str(host.home / "mypy-cache")]
        self.step("lint: types of the tooling", [*mypy, *TOOLING])
        self.step("lint: types of the pack", [*mypy, "-p", "mixture_of_contexts"], cwd=self.pack_as_package(host))

    def fast(self) -> None:
        self.lint()
        chosen = (*WITHOUT_KERNELS, "-m", "not slow")
        self.pytest("unit (fast)", prepare(NEWEST, tools=True), ONE_THREAD, "", *BY_FILE, *chosen)
        self.js()

    def unit(self) -> None:
        self.pytest("unit", prepare(NEWEST, tools=True), ONE_THREAD, "", *BY_FILE, *WITHOUT_KERNELS)

    def kernels(self) -> None:
        self.pytest("unit (kernels)", prepare(NEWEST, tools=True), ONE_THREAD, "/kernels", *BY_TEST)

    def host(self) -> None:
        if not self.has_tests("host"):
            return
        for version in (NEWEST, OLDEST):
            host = prepare(version, tools=True)
            settings = {
                "PYTHONPATH": str(host.folder),
                "MOC_COMFYUI_DIR": str(host.folder),
                "MOC_COMFYUI_VERSION": version,
                **ONE_THREAD,
            }
            self.pytest(f"host (ComfyUI {version})", host, settings, "", *BY_FILE, *AS_NAMED)

    def workflow(self) -> None:
        """Real servers, started by the tests; in both versions unless a test chooses one."""
        if not self.has_tests("workflow"):
            return
        hosts = {version: prepare(version, tools=True) for version in (NEWEST, OLDEST)}

        def run(version: str) -> None:
            self.pytest(f"workflow (ComfyUI {version})", hosts[version], {"MOC_COMFYUI_VERSION": version})

        with ThreadPoolExecutor(min(CORES, 2)) as both:  # each is one server and one test that waits for it
            list(both.map(run, hosts))

    def js(self) -> None:
        """The scripts' pure logic, without a browser."""
        files = sorted((REPO / "tests" / "js").glob("*.test.mjs"))
        node = find_node(prepare(NEWEST, tools=True))
        self.step("js", [str(node), "--test", *(str(file.relative_to(REPO)) for file in files)])

    def ui(self) -> None:
        """The real front end in a real browser: all of it in the newest version, loading in the oldest."""
        find_browser(prepare(NEWEST, tools=True))
        for version, tests in ((NEWEST, ""), (OLDEST, "/test_loading.py")):
            host = prepare(version, tools=True)
            self.pytest(f"ui (ComfyUI {version})", host, {"MOC_COMFYUI_VERSION": version}, tests)

    def newest(self) -> None:
        """Today's ComfyUI. No registry has it whole: the front end comes from there, the rest from MOC_NEWEST."""
        host = prepare(NEWEST, tools=True)
        front = newest_front_end(host)
        self.pytest("ui (the newest front end)", host, {"MOC_COMFYUI_VERSION": NEWEST, "MOC_FRONT_END": str(front)})
        chosen = os.environ.get("MOC_NEWEST")
        if not chosen:
            self.skip("newest", "MOC_NEWEST names no ComfyUI folder")
            return
        there = existing(Path(chosen), host.python)
        settings = {"PYTHONPATH": chosen, "MOC_COMFYUI_DIR": chosen, "MOC_COMFYUI_VERSION": there.version}
        self.pytest(f"host (ComfyUI {there.version})", there, settings)
        self.pytest(f"workflow (ComfyUI {there.version})", there, {"MOC_COMFYUI_VERSION": there.version})

    def has_tests(self, name: str) -> bool:
        found = any((REPO / "tests" / name).glob("**/test_*.py"))
        if not found:
            self.skip(name, f"tests/{name} has no test_*.py")
        return found

    def skip(self, name: str, reason: str) -> None:
        print(f"\n== {name}: skipped, {reason}", flush=True)
        self.results.append((name, SKIPPED, 0.0))

    def pytest(self, name: str, host: Host, settings: dict[str, str], tests: str = "", *arguments: str) -> None:
        folder = f"tests/{name.partition(' ')[0]}{tests}"
        self.step(name, [str(host.python), "-m", "pytest", folder, *arguments, *self.pytest_args], settings)

    def step(self, name: str, command: list[str], settings: dict[str, str] | None = None, cwd: Path = REPO) -> None:
        set_first = [f"{name}={shlex.quote(value)}" for name, value in (settings or {}).items()]
        shown = " ".join([*set_first, shlex.join(command)])
        print(f"\n== {name}\n$ {shown}", flush=True)
        env = {key: value for key, value in os.environ.items() if key not in NOT_INHERITED} | (settings or {})
        started = time.monotonic()
        code = subprocess.run(command, cwd=cwd, env=env).returncode
        self.results.append((name, FAILED if code else PASSED, time.monotonic() - started))

    def pack_as_package(self, host: Host) -> Path:
        """The pack's files import each other relatively, so the type check needs them under the pack's own name."""
        folder = host.home / "typecheck"
        shutil.rmtree(folder, ignore_errors=True)
        package = folder / "mixture_of_contexts"
        package.mkdir(parents=True)
        for name in PACK_PARTS:
            if (REPO / name).is_dir():
                shutil.copytree(REPO / name, package / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif (REPO / name).is_file():
                shutil.copy2(REPO / name, package / name)
        return folder

    def summary(self) -> int:
        failed = any(outcome == FAILED for _, outcome, _ in self.results)
        print("\n== summary")
        for name, outcome, seconds in self.results:
            print(f"   {outcome:8}{name}" + (f"  ({seconds:.0f} s)" if seconds else ""))
        print(f"   {'FAILED' if failed else 'all parts passed'}: exit code {int(failed)}", flush=True)
        return int(failed)


def main(arguments: list[str]) -> int:
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    parts = Parts(pytest_args=arguments[cut + 1 :])
    known: dict[str, Callable[[], None]] = {
        "lint": parts.lint,
        "unit": parts.unit,
        "kernels": parts.kernels,
        "js": parts.js,
        "host": parts.host,
        "workflow": parts.workflow,
        "ui": parts.ui,
    }
    names = arguments[:cut] or list(known)
    known |= {"fast": parts.fast, "newest": parts.newest}
    if unknown := [name for name in names if name not in known]:
        print(f"There is no part {', '.join(unknown)}. Parts: {', '.join(known)}.\n\n{__doc__}", file=sys.stderr)
        return 2
    try:
        for name in names:
            known[name]()
    except HostError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    return parts.summary()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
