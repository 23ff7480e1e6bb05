"""HuBERT base as others run it, a plain restatement of token pruning as it was published, and fairseq's own Adam."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Optional

from fairseq.models.hubert import HubertModel
from fairseq.optim.adam import Adam
from torch import Tensor, nn

from fairseq_prune.benchmarks.stages import Stage
from fairseq_prune.checkpoints.extras import import_extra
from fairseq_prune.modules import onednn
from fairseq_prune.modules.frames import Frames
from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert


class PlainTokenPruning(TokenPrunedHubert):
    """Token pruning as the published code does it, with its mistakes mended, to compare speed with.

    fairseq's attention returns its matrix (batch, frames, frames), averaged over heads, in the layers that drop;
    it is summed over queries, and the frames of the highest sums are gathered. All products are torch's own. The
    frames that are kept are those of `TokenPrunedHubert`.
    """

    def forward(self, *args, **kwargs) -> Frames:
        """As `TokenPrunedHubert.forward`."""
        with onednn.torchs_own():
            return super().forward(*args, **kwargs)

    def make_generation_fast_(self, **kwargs) -> None:
        """As `TokenPrunedHubert.make_generation_fast_`, but weights stay as fairseq's attention reads them."""
        with onednn.torchs_own():
            super().make_generation_fast_(**kwargs)

    def _self_attention(
        self, index: int, x: Tensor, frames: Frames, scored: bool
    ) -> tuple[Tensor, Optional[Tensor], Optional[Tensor]]:
        x = x.transpose(0, 1)
        attention = self.encoder.layers[index].self_attn
        x, matrix = attention(x, x, x, key_padding_mask=frames.padding_mask, need_weights=scored)
        if scored:
            if frames.padding_mask is not None:
                matrix = matrix.masked_fill(frames.padding_mask.unsqueeze(2), 0)
            matrix = matrix.sum(dim=1)
        return x.transpose(0, 1), matrix, None


def fairseq_stages(module: HubertModel) -> list[Stage]:
    """Of fairseq's own HuBERT."""
    stages = [Stage("positional", module, "extract_features"), Stage("extractor", module.feature_extractor)]
    for layer in module.encoder.layers:
        stages += [Stage("feed_forward", layer), Stage("attention", layer.self_attn)]
    return stages


def transformers_hubert(attention: str) -> nn.Module:
    """HuBERT base of transformers, in evaluation mode.

    Raises:
        ValueError: the library is not installed.
    """
    transformers = import_extra("transformers", "bench")
    return transformers.HubertModel(transformers.HubertConfig(attn_implementation=attention)).eval()


def transformers_wav2vec2(sizes: dict[str, Any]) -> nn.Module:
    """wav2vec 2.0 of transformers in the form that HuBERT large has, too, in evaluation mode.

    Raises:
        ValueError: the library is not installed.
    """
    transformers = import_extra("transformers", "bench")
    form = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
    return transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**form, **sizes)).eval()


def others_hubert(name: str, ours: TokenPrunedHubert) -> tuple[nn.Module, list[Stage]]:
    """HuBERT base of torchaudio, or of transformers with eager attention or sdpa.

    Raises:
        ValueError: the library is not installed.
    """
    if name == "torchaudio":
        import torchaudio

        module = torchaudio.models.hubert_base()
        layers = module.encoder.transformer.layers
    else:
        module = transformers_hubert(name.partition("_")[2])
        layers = module.encoder.layers
    if len(layers) != len(ours.encoder.layers):
        raise ValueError(f"{name}: found {len(layers)} layers, expected {len(ours.encoder.layers)}")
    stages = [Stage("positional", module), Stage("extractor", module.feature_extractor)]
    for layer in layers:
        stages += [Stage("feed_forward", layer), Stage("attention", layer.attention)]
    return module, stages


@contextmanager
def fairseqs_adam() -> Iterator[None]:
    """Within it Adam makes its steps as fairseq has it (see `patches.adam`)."""
    ours = Adam.step
    Adam.step = getattr(ours, "fairseqs", ours)
    try:
        yield
    finally:
        Adam.step = ours
