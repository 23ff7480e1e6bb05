"""What a row of a benchmark is: a name and options, as written on the command line."""

from dataclasses import dataclass, fields
from typing import Any, Optional

from fairseq_prune.modules.kernels import SETTINGS as KERNELS

DTYPES = ("float32", "bfloat16", "float16", "int8")
# random weights in the published sizes; hubert_deltalm translates, the others encode
ARCHITECTURES = (
    "hubert_base",
    "hubert_large",
    "hubert_deltalm",
    "fairseq",
    "transformers_eager",
    "transformers_sdpa",
    "torchaudio",
    "plain_pruning",
    "onnx",
    "onnx_transformers",
    "openvino",
    "ctranslate2_wav2vec2",
    "transformers_compiled",
)
# options of hubert_deltalm for models that are built in a moment: to try a program, not to measure
TINY = {
    "hubert_layers": 2,
    "hubert_embed_dim": 32,
    "hubert_ffn_embed_dim": 48,
    "hubert_attention_heads": 4,
    "hubert_conv_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
    "hubert_conv_pos": 8,
    "hubert_conv_pos_groups": 4,
    "deltalm_embed_dim": 32,
    "deltalm_ffn_embed_dim": 48,
    "deltalm_attention_heads": 4,
    "deltalm_decoder_layers": 1,
    "adaptor_channels": 32,
}
# {option of hubert_deltalm: the same of fairseq's HuBERT}
OPTIONS = {
    "hubert_layers": "encoder_layers",
    "hubert_embed_dim": "encoder_embed_dim",
    "hubert_ffn_embed_dim": "encoder_ffn_embed_dim",
    "hubert_attention_heads": "encoder_attention_heads",
    "hubert_conv_layers": "conv_feature_layers",
    "hubert_conv_pos": "conv_pos",
    "hubert_conv_pos_groups": "conv_pos_groups",
}


def hubert_sizes(sizes: Optional[dict[str, Any]]) -> dict[str, Any]:
    """Of options of hubert_deltalm those of HuBERT, under fairseq's names."""
    return {OPTIONS[name]: value for name, value in (sizes or {}).items() if name in OPTIONS}


@dataclass(frozen=True)
class Spec:
    """An entry: ``hubert_base,keep=0.7,dtype=bfloat16`` or ``out/checkpoint_best.pt,keep=0.8``.

    name: one of ARCHITECTURES, a checkpoint of the task speech_translation, or anything that `read_hubert` reads.
    keep: keep ratio of the layers from ``start`` (counted from 1) on; a checkpoint's own pruning by default.
    keeps: keep ratios of all layers, separated by /; instead of ``keep``.
    dtype: one of DTYPES.
    kernels: one of `modules.kernels.SETTINGS`; by default as for all of inference.
    vocabulary: target pieces of hubert_deltalm.
    preview: directions in which generation looks at all tokens first (`pruning.output_preview`); 0: none.
    hubert: encoder of hubert_deltalm: what `read_hubert` reads; by default random weights of HuBERT base.
    label: how reports call it.
    """

    name: str
    keep: Optional[float] = None
    start: int = 4
    keeps: Optional[str] = None
    dtype: str = "float32"
    kernels: Optional[str] = None
    vocabulary: int = 250_001
    preview: int = 0
    hubert: Optional[str] = None
    label: Optional[str] = None

    @classmethod
    def parse(cls, text: str) -> "Spec":
        """Raises ValueError at an unknown option, one that the entry has no use for, or a value that is none."""
        name, *options = text.split(",")
        kinds = {"keep": float, "start": int, "vocabulary": int, "preview": int}
        known = [field.name for field in fields(cls)][1:]
        values = {}
        for option in options:
            key, equals, value = option.partition("=")
            if key not in known or not equals:
                raise ValueError(f"{text}: found option {option!r}, expected {'=, '.join(known)}=")
            try:
                values[key] = kinds.get(key, str)(value)
            except ValueError:
                raise ValueError(f"{text}: found {option!r}, expected a number") from None
        spec = cls(name, **values)
        if spec.dtype not in DTYPES:
            raise ValueError(f"{text}: found dtype {spec.dtype!r}, expected one of {', '.join(DTYPES)}")
        if spec.kernels not in (None, *KERNELS):
            raise ValueError(f"{text}: found kernels {spec.kernels!r}, expected one of {', '.join(KERNELS)}")
        if spec.keep is not None and spec.keeps is not None:
            raise ValueError(f"{text}: found keep and keeps, expected one of the two")
        if "start" in values and spec.keep is None:
            raise ValueError(f"{text}: found start without keep, whose first layer it is")
        for key in ("vocabulary", "hubert"):
            if (
                key in values
                and name != "hubert_deltalm"
                and (key != "vocabulary" or not name.endswith("_mbart"))
            ):
                raise ValueError(f"{text}: found {key}, which is an option of hubert_deltalm alone")
        if spec.vocabulary < 5:
            raise ValueError(
                f"{text}: found vocabulary={spec.vocabulary}, expected more than 4 special symbols"
            )
        spec.keep_ratios()
        return spec

    def keep_ratios(self) -> Optional[list[float]]:
        """What ``keeps`` lists; None without it. Raises ValueError if it is no such list."""
        try:
            return None if self.keeps is None else [float(ratio) for ratio in self.keeps.split("/")]
        except ValueError:
            raise ValueError(f"keeps={self.keeps}: expected ratios with / between, one a layer") from None

    def __str__(self) -> str:
        if self.label:
            return self.label
        options = [
            f"{field.name}={getattr(self, field.name)}"
            for field in fields(self)[1:]
            if getattr(self, field.name) != field.default
        ]
        return ", ".join([self.name, *options])
