"""What the registry hands out: the tracked files without those in .comfyignore, as a server loads them."""

import subprocess
import urllib.parse
import zipfile
from pathlib import Path

import pytest

from demo import server as hosted
from demo.host import prepare
from demo.hosting import base
from demo.server import Server

REPO = Path(__file__).resolve().parent.parent.parent
IGNORE = ".comfyignore"
TOP = {"CHANGELOG.md", "LICENSE", "README.md", "README.zh.md", "__init__.py", "js", "locales", "moc", "nodes"}
TOP |= {"pyproject.toml", "requirements.txt", "subgraphs", "workflows"}


def tracked(*options: str) -> set[str]:
    asked = ["git", "-C", str(REPO), "ls-files", "-z", *options]
    return set(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split("\0")) - {""}


def packed() -> list[str]:
    """As comfy-cli packs: git's files, without what .comfyignore names by git's own rules."""
    return sorted(tracked() - tracked("--cached", "--ignored", f"--exclude-from={REPO / IGNORE}"))


def test_every_pattern_says_where_it_holds():
    """A pattern without a slash before its end holds in every folder: docs/ would take js/docs/ along."""
    assert [line for line in (REPO / IGNORE).read_text("utf-8").split() if "/" not in line[:-1]] == []


def test_the_archive_holds_the_pack_and_nothing_else():
    files = packed()
    assert {file.partition("/")[0] for file in files} == TOP
    assert set(files) >= tracked("js", "locales", "moc", "nodes")


NAME = "Mixture of Contexts (混合 é)"  # of the folder: people rename it


@pytest.fixture(scope="module")
def unpacked(server, tmp_path_factory):
    """A server that runs the archive in place of the working tree, with torch alone."""
    folder = tmp_path_factory.mktemp("registry")
    with zipfile.ZipFile(folder / "node.zip", "w") as archive:
        for file in packed():
            archive.write(REPO / file, file)
    with zipfile.ZipFile(folder / "node.zip") as archive:
        archive.extractall(folder / "pack")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "REPO", folder / "pack")
        patch.setattr(base, "PACK", NAME)
        patch.setattr(hosted, "PACK", NAME)
        bare = Path(__file__).resolve().parent / "torch_alone"
        with Server(prepare(server.host.version, tools=True), nodes=[bare], cpu=True) as running:
            yield running


def test_the_archive_brings_every_node_and_its_help_page(unpacked):
    """Scripts and pages are not asked for here: with aiohttp 3.14 ComfyUI serves none from a folder of such a name."""
    nodes = {name for name in unpacked.object_info() if name.startswith("MoC")}
    docs = REPO / "js" / "docs"
    assert nodes == {page.stem for page in docs.glob("*.md")}
    assert {f"js/docs/{page.relative_to(docs).as_posix()}" for page in docs.rglob("*.md")} <= set(packed())


def test_the_archive_brings_its_languages_scripts_and_templates(unpacked):
    assert set(unpacked.get("/i18n")) == {folder.name for folder in (REPO / "locales").iterdir()}
    scripts = [path for path in unpacked.get("/extensions") if NAME in urllib.parse.unquote(path)]
    assert len(scripts) == len(list((REPO / "js").rglob("*.js")))
    shipped = {file for file in packed() if file.startswith("workflows/") and file.endswith(".json")}
    assert set(unpacked.get("/workflow_templates")[NAME]) == {Path(file).stem for file in shipped}


def test_with_torch_alone_the_nodes_run(unpacked):
    shown = {"class_type": "PreviewAny", "inputs": {"source": ["1", 1]}}
    run = unpacked.wait(unpacked.queue({"1": {"class_type": "MoCRouting", "inputs": {"preset": "fast"}}, "2": shown}))
    assert run.texts["2"].startswith("Every token sees")
