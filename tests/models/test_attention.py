import pytest
import torch
from transformers import BertConfig, MPNetConfig

from cka_tools.models import attention, load_model
from cka_tools.models.attention import BY_DOCUMENT, FLASH, attention_for

GPU = torch.device("cuda")


@pytest.fixture
def machine(monkeypatch):
    """A GPU with FlashAttention's package beside it, as far as it is asked."""

    def make(capability=(9, 0), package=True):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: package)

    return make


def test_flash_attention_where_all_of_it_is_there(machine):
    machine()
    for dtype in (torch.float16, torch.bfloat16):
        assert attention_for(BertConfig(), GPU, dtype) == FLASH


@pytest.mark.parametrize(
    ("capability", "package", "device", "dtype", "config"),
    [
        ((7, 5), True, GPU, torch.float16, BertConfig()),
        ((9, 0), False, GPU, torch.float16, BertConfig()),
        ((9, 0), True, torch.device("cpu"), torch.float16, BertConfig()),
        ((9, 0), True, torch.device("cpu"), torch.float32, BertConfig()),
        ((9, 0), True, torch.device("cpu"), torch.bfloat16, MPNetConfig()),
        ((9, 0), True, GPU, torch.float32, BertConfig()),
        ((9, 0), True, GPU, torch.float16, MPNetConfig()),
        ((9, 0), True, GPU, torch.float16, object()),
    ],
)
def test_what_transformers_picks_elsewhere(machine, capability, package, device, dtype, config):
    machine(capability, package)
    assert attention_for(config, device, dtype) is None


def test_the_choice_reaches_the_model_and_its_provenance(tiny_model):
    for dtype, expected in (("bfloat16", BY_DOCUMENT), ("float32", "sdpa")):
        loaded = load_model(tiny_model("bert"), device="cpu", dtype=dtype)
        assert loaded.model.config._attn_implementation == expected
        assert loaded.provenance["attention"] == expected
