"""A node for the workflow tests: a tiny random Wan model with its conditioning, no files needed."""

import importlib.util
import sys
from pathlib import Path

from comfy_api.latest import ComfyExtension, io

TINY = Path(__file__).resolve().parent.parent.parent / "host" / "tiny.py"


class MoCTestModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MoCTestModel",
            category="tests",
            inputs=[],
            outputs=[io.Model.Output(display_name="model"), io.Conditioning.Output(display_name="conditioning")],
        )

    @classmethod
    def execute(cls):
        spec = importlib.util.spec_from_file_location("moc_tests_tiny", TINY)
        tiny = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = tiny
        spec.loader.exec_module(tiny)
        return io.NodeOutput(tiny.load(), [[tiny.random(1, tiny.TEXT, 4096, seed=2), {}]])


class Tests(ComfyExtension):
    async def get_node_list(self):
        return [MoCTestModel]


async def comfy_entrypoint():
    return Tests()
