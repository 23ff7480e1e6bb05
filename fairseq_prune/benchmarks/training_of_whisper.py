"""Steps of training Whisper to understand speech, as PruneSLU does it: half of the layers learn from all of them."""

from dataclasses import replace
from functools import partial
from typing import Any, Optional

import torch
from torch import Tensor

from fairseq_prune.benchmarks.device_checks import task_of
from fairseq_prune.benchmarks.plain_prune_slu import PlainPruneSLU
from fairseq_prune.benchmarks.specs import Spec
from fairseq_prune.benchmarks.updates import Batch, Step, adam, update
from fairseq_prune.compat import HAS_FUSED_ADAM
from fairseq_prune.criterions.slu_distillation import SluDistillationCriterion
from fairseq_prune.data.log_mel import MAX_FRAMES, log_mel
from fairseq_prune.data.slu_dataset import collate_features
from fairseq_prune.models.whisper import Whisper, WhisperConfig
from fairseq_prune.modules.whisper.context import with_silence
from fairseq_prune.modules.whisper.decoder import WhisperDecoder
from fairseq_prune.modules.whisper.encoder import WhisperEncoder

VOCABULARY = 51_864  # of whisper-tiny.en


def understanding(specs, batch: Batch, device, sizes) -> list[Step]:
    """The steps of Whisper, which hears 30 s as our model does by default; arguments as of `build_steps`."""
    return [(_ours if spec.name == "slu" else _plain)(spec, batch, device, sizes) for spec in specs]


def whisper_settings(sizes: Optional[dict[str, Any]]) -> WhisperConfig:
    """Those of whisper-tiny.en; of a tiny one where there are ``sizes``."""
    if sizes is None:
        return WhisperConfig()
    return WhisperConfig(
        embed_dim=16, ffn_embed_dim=24, attention_heads=2, encoder_layers=2, decoder_layers=2
    )


def vocabulary_size(sizes: Optional[dict[str, Any]]) -> int:
    """Tokens of whisper-tiny.en, or few."""
    return VOCABULARY if sizes is None else 100


def whisper_sample(batch: Batch, sizes, device: torch.device) -> dict[str, Any]:
    """What the task's dataset makes of noise: log-mel features, and tokens without forced ones."""
    features = collate_features([log_mel(waveform) for waveform in batch.waveforms(torch.device("cpu"))])
    tokens = batch.targets(vocabulary_size(sizes), device)
    inputs = {name: value.to(device) for name, value in features.items()}
    return {
        "net_input": {**inputs, "prev_output_tokens": tokens},
        "target": tokens,
        "ntokens": tokens.numel(),
    }


def student_and_criterion(
    sizes: Optional[dict[str, Any]],
) -> tuple[Whisper, SluDistillationCriterion]:
    """A student of half the layers, and the criterion with its teacher, on the CPU."""
    task, settings = task_of(vocabulary_size(sizes)), whisper_settings(sizes)

    def build(layers: int) -> Whisper:
        sized = replace(settings, encoder_layers=layers, decoder_layers=layers)
        return Whisper(WhisperEncoder(sized), WhisperDecoder(sized, task.target_dictionary))

    # it would read a teacher from a checkpoint, which brings a tokenizer
    criterion = SluDistillationCriterion(
        task,
        sentence_avg=False,
        label_smoothing=0.0,
        ignore_prefix_size=0,
        report_accuracy=False,
        teacher_path=None,
        ce_weight=0.8,
        kl_weight=0.0,
        kl_temperature=2.0,
        contrastive_weight=0.0,
        contrastive_temperature=0.1,
        layer_map=[],
    )
    criterion.kl_weight, criterion.contrastive_weight = 1.0, 0.1
    criterion._teacher.append(build(settings.encoder_layers).eval().requires_grad_(False))
    return build(settings.encoder_layers // 2), criterion


def _ours(spec: Spec, batch: Batch, device, sizes) -> Step:
    model, criterion = student_and_criterion(sizes)
    model, criterion = model.to(device).train(), criterion.to(device)
    sample = whisper_sample(batch, sizes, device)

    def loss() -> Tensor:
        return criterion(model, sample)[0] / sample["ntokens"]

    return Step(str(spec), partial(update, loss, adam(model)))


def _plain(spec: Spec, batch: Batch, device, sizes) -> Step:
    """By the optimizer that transformers' Trainer takes by default."""
    model = plain_prune_slu(sizes).to(device).train()
    inputs = plain_inputs(whisper_sample(batch, sizes, device))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fused = HAS_FUSED_ADAM or device.type == "cuda"
    optimizer = torch.optim.AdamW(trained, lr=1e-5, betas=(0.9, 0.98), weight_decay=0.0, fused=fused)
    return Step(str(spec), partial(update, lambda: model(*inputs), optimizer))


def plain_prune_slu(sizes: Optional[dict[str, Any]], **more: Any) -> PlainPruneSLU:
    """The restatement in the same size, on the CPU; ``more``: its other options."""
    ours = whisper_settings(sizes)
    return PlainPruneSLU(
        ours.encoder_layers,
        vocab_size=vocabulary_size(sizes),
        d_model=ours.embed_dim,
        num_mel_bins=ours.mel_bins,
        encoder_ffn_dim=ours.ffn_embed_dim,
        decoder_ffn_dim=ours.ffn_embed_dim,
        encoder_attention_heads=ours.attention_heads,
        decoder_attention_heads=ours.attention_heads,
        pad_token_id=1,
        bos_token_id=2,
        eos_token_id=2,
        decoder_start_token_id=2,
        **more,
    )


def plain_inputs(sample: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """The same sample as its arguments: features of 30 s, as transformers' feature extractor gives them."""
    inputs = sample["net_input"]
    features = with_silence(inputs["src_tokens"], inputs["src_lengths"], MAX_FRAMES)
    return features.transpose(1, 2).contiguous(), inputs["prev_output_tokens"], sample["target"]
