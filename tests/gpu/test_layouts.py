"""Is the GPU engine right? Odd layouts against the reference, in every precision, both ways (`check_gpu.py`)."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from moc.backends.triton.dataflow import CHUNK_MAJOR, QUERY_MAJOR
from tests.gpu.check_gpu import CASES, check, good
from tests.gpu.check_more import BESIDE, MEMORY, beside_others, check_beside, check_device, check_eager, check_memory

pytestmark = pytest.mark.gpu
SMALL = 600  # tokens that Triton's interpreter is through with in a minute


@pytest.fixture(autouse=True)
def no_debugging_left():
    """A check that fails leaves torch watching out for waits."""
    yield
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("which", [CHUNK_MAJOR, QUERY_MAJOR])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("name", CASES)
def test_a_layout_is_attended_and_learned_from_as_the_reference_does(name, dtype, which, device, seed, noted):
    if device == "cpu" and (CASES[name][0].length > SMALL or dtype != torch.float32):
        pytest.skip("too large for Triton's interpreter, or a precision that it does not round like a GPU")
    found = check(name, dtype, seed + list(CASES).index(name), which, device)
    noted(seed=seed, **found)
    assert good(found), found


@pytest.mark.parametrize("name", MEMORY)
def test_a_call_that_finds_too_little_memory_is_made_in_parts_with_the_same_bits(name, this_card, noted):
    found = check_memory(name)
    noted(**found)
    assert found["ok"], found


@pytest.mark.parametrize("name", MEMORY)
def test_plain_torch_takes_over_where_no_head_finds_memory(name, this_card, noted):
    found = check_eager(name)
    noted(**found)
    assert found["ok"], found


@pytest.fixture(scope="module")
def beside():
    with beside_others() as calls:
        yield calls


@pytest.mark.xdist_group(name="beside other processes")
@pytest.mark.parametrize("name", BESIDE)
def test_other_processes_on_the_gpu_change_no_bit(name, this_card, beside, noted):
    found = check_beside(name, beside)
    noted(**found)
    assert found["ok"], found


def test_a_model_on_the_second_gpu_gets_the_bits_of_the_first(this_card, noted):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs a second GPU")
    found = check_device()
    noted(**found)
    assert found["ok"], found
