"""Without a GPU, Triton's kernels run in its interpreter; that has to be said before anything imports Triton."""

import os
import sys

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session", autouse=True)
def language_replaced_once_a_launch():
    """The interpreter looks for what to replace in triton.language at every call of a device function too, a third of
    its time, and finds it replaced by the launch."""
    if "triton" not in sys.modules:  # no test of this session has to do with it
        yield
        return
    from triton.runtime import interpreter

    replace, launch, replaced = interpreter._patch_lang, interpreter.GridExecutor.__call__, set()

    def once_a_launch(fn):
        module = fn.__globals__["__name__"]  # as `replace` does, by what a module calls triton.language
        if module in replaced:
            return None
        replaced.add(module)
        return replace(fn)

    def launched(self, *args, **kwargs):
        replaced.clear()
        return launch(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang", once_a_launch)
        patch.setattr(interpreter.GridExecutor, "__call__", launched)
        yield
