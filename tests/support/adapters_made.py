"""Writes LoRA adapters that nobody trained, for all tests that read them."""

import json

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel

TARGETS = ["q_proj", "down_proj"]


def made_adapter(base, out, *, model_class=AutoModel, scale=0.1, **settings):
    """Save an adapter whose matrices are random (peft's own begin with B zero), and return its folder."""
    torch.manual_seed(5)
    model = get_peft_model(
        model_class.from_pretrained(base), LoraConfig(**{"r": 2, "lora_alpha": 6, "target_modules": TARGETS} | settings)
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                parameter.copy_(torch.randn_like(parameter) * scale)
    model.save_pretrained(out)
    return out


def change_tensors(adapter, change):
    """Rewrite an adapter's tensors."""
    tensors = load_file(adapter / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, adapter / "adapter_model.safetensors")


def configure(adapter, **settings):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | settings))
