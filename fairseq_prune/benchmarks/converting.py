"""Models in another type of numbers, for comparison."""

import logging
import platform

import torch
from torch import nn
from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

from fairseq_prune.benchmarks.specs import DTYPES
from fairseq_prune.compat import onednn_has_bfloat16
from fairseq_prune.inference.translation import Translator
from fairseq_prune.modules.deltalm.generation import prepare_for_generation_
from fairseq_prune.modules.deltalm.model import DeltaLMDecoder, DeltaLMEncoderLayer
from fairseq_prune.modules.packed import HalfLinear, PackedLinear

logger = logging.getLogger(__name__)

TORCH_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def parameters_of(module: nn.Module) -> int:
    """How many there are; those that layers share count once."""
    return sum(parameter.numel() for parameter in module.parameters())


def layer_bytes(module: nn.Module) -> int:
    """Bytes of the weight of a linear layer, in whatever form; 0 of another module."""
    if isinstance(module, (PackedLinear, HalfLinear)):
        return module.weight_bytes
    if isinstance(module, torch.ao.nn.quantized.dynamic.Linear):
        weight = module.weight()
    elif type(module) is nn.Linear:
        weight = module.weight
    else:
        return 0
    return weight.numel() * weight.element_size()


def round_weights_(module: nn.Module) -> None:
    """Round all matrices to numbers that 16 bits hold, in place; their type stays."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            parameter.data.copy_(parameter.data.half())


class ConvertedTranslator(Translator):
    """A `Translator` in one of `specs.DTYPES`. parameters: how many the model has."""

    def __init__(self, checkpoint: str, dtype: str, **options):
        self.dtype = dtype
        super().__init__(checkpoint, **options)

    def build_model(self, *args):
        """As of `Pipeline`, converted before it is made fast."""
        model = super().build_model(*args).eval()
        self.parameters = parameters_of(model)
        convert_(model, self.dtype)
        return model


def convert_(module: nn.Module, dtype: str) -> None:
    """Weights of another type; int8 are those of linear layers, for the CPU. To be done before a model is made fast.

    Raises:
        ValueError: not one of `specs.DTYPES`.
    """
    if dtype not in DTYPES:
        raise ValueError(f"found dtype {dtype!r}, expected one of {', '.join(DTYPES)}")
    if dtype == "bfloat16" and next(module.parameters()).device.type == "cpu" and not has_bfloat16():
        logger.warning(
            "bfloat16: this processor has no instructions for it, and is slower with it than in float32"
        )
    if dtype in TORCH_DTYPES:
        module.to(TORCH_DTYPES[dtype])
    elif dtype == "int8":
        for part in module.modules():
            if isinstance(part, DeltaLMDecoder):
                prepare_for_generation_(part, int8=True)
        names = dict.fromkeys(_quantisable(module), per_channel_dynamic_qconfig)
        quantize_dynamic(module, names, dtype=torch.qint8, inplace=True)


def has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16, as far as the installed torch can tell."""
    known = [
        getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    ]
    if platform.machine() in ("x86_64", "AMD64") and all(known):
        return any(is_supported() for is_supported in known)
    return onednn_has_bfloat16()


def _quantisable(module: nn.Module) -> set[str]:
    """Names of the linear layers, without those whose weights fairseq's attention reads past the layer."""
    left_out = {
        projection
        for layer in module.modules()
        if isinstance(layer, DeltaLMEncoderLayer)
        for projection in layer.self_attn.modules()
    }
    return {name for name, part in module.named_modules() if type(part) is nn.Linear and part not in left_out}
