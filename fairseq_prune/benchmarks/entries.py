"""Building what a benchmark measures: our models and checkpoints, and those of others."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import torch
from fairseq import models
from fairseq.data import Dictionary
from fairseq.models.hubert import HubertModel
from fairseq.sequence_generator import SequenceGenerator
from omegaconf import OmegaConf
from torch import Tensor, nn

from fairseq_prune.benchmarks.baselines import (
    PlainTokenPruning,
    fairseq_stages,
    others_hubert,
    transformers_hubert,
    transformers_wav2vec2,
)
from fairseq_prune.benchmarks.converting import (
    TORCH_DTYPES,
    ConvertedTranslator,
    convert_,
    layer_bytes,
    parameters_of,
)
from fairseq_prune.benchmarks.decoder_macs import adaptor_macs, beam_search_macs, text_layers_macs
from fairseq_prune.benchmarks.engines import ENGINES, GRAPHS, CTranslate2Module, onnx_module, openvino_module
from fairseq_prune.benchmarks.specs import ARCHITECTURES, Spec, hubert_sizes
from fairseq_prune.benchmarks.stages import Stage
from fairseq_prune.checkpoints.hubert.reading import read_hubert
from fairseq_prune.checkpoints.loading import (
    load_checkpoint_file,
    load_state_dict_strictly,
    model_and_task_options,
)
from fairseq_prune.models.hubert_deltalm_config import HUBERT_FORMS, HubertDeltaLMConfig
from fairseq_prune.modules import onednn
from fairseq_prune.modules.hubert.architecture import build_encoder
from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert
from fairseq_prune.modules.kernels import kernels_for
from fairseq_prune.pruning.schedules import layer_keep_ratios

LARGE = {
    "encoder_layers": 24,
    "encoder_embed_dim": 1024,
    "encoder_ffn_embed_dim": 4096,
    "encoder_attention_heads": 16,
}
TRANSFORMERS_LARGE = {  # the same under transformers' names
    "num_hidden_layers": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
}
ADAPTED = ("transformers_sdpa", "transformers_eager")  # which `adapters` can have drop frames


@dataclass
class Entry:
    """A model that is measured.

    encode: (batch, samples) through the encoder. translate: (batch, samples), tokens -> beam search for so many
    tokens, or None. macs: samples -> MACs of the encoder by stage, for one utterance. translation_macs: samples,
    tokens, beam -> those of encoder and beam search, or None. stages: what is timed apart.
    """

    spec: Spec
    module: nn.Module
    encode: Callable[[Tensor], Any]
    macs: Callable[[int], dict[str, int]]
    stages: list[Stage]
    translate: Optional[Callable[[Tensor, int], Any]] = None
    translation_macs: Optional[Callable[[int, int, int], dict[str, int]]] = None
    parameters: int = 0  # weights that layers share count once

    def megabytes(self) -> float:
        """Size of the weights in memory, in 10^6 bytes."""
        own = {parameter.data_ptr(): parameter for parameter in self.module.parameters()}
        in_torch = sum(tensor.numel() * tensor.element_size() for tensor in own.values())
        others = (module for module in self.module.modules() if type(module) is not nn.Linear)
        return (in_torch + sum(map(layer_bytes, others)) + getattr(self.module, "bytes", 0)) / 1e6


def build_entry(
    spec: Spec, device: torch.device, beam: int = 5, sizes: Optional[dict[str, Any]] = None
) -> Entry:
    """Build or load the model of ``spec``, in evaluation mode on the device.

    Args:
        sizes: options of hubert_deltalm, for smaller models of hubert_base, hubert_deltalm, fairseq and plain_pruning.

    Raises:
        FileNotFoundError, ValueError: no such checkpoint, or one that cannot be read; a dtype that the device or
            the model does not do.
    """
    if spec.dtype == {"cpu": "float16"}.get(device.type, "int8"):
        raise ValueError(f"{spec}: dtype {spec.dtype} does not run on {device.type}")
    if spec.dtype in TORCH_DTYPES and spec.name in (*GRAPHS, "ctranslate2_wav2vec2"):
        raise ValueError(f"{spec}: found dtype {spec.dtype}, expected float32 or int8")
    if spec.dtype == "int8" and spec.name in ("fairseq", "plain_pruning"):
        raise ValueError(f"{spec}: fairseq's attention takes no quantised projections")
    torch.manual_seed(0)
    translates = spec.name == "hubert_deltalm"
    if spec.name not in ARCHITECTURES:
        checkpoint = load_checkpoint_file(spec.name, mmap=True) if not Path(spec.name).is_dir() else {}
        task = model_and_task_options(checkpoint, spec.name)[1] if checkpoint else {}
        translates = task.get("_name") == "speech_translation"
    kernels = kernels_for(spec.kernels) if device.type == "cpu" else None
    with onednn.using(kernels):
        if translates:
            entry = _translator(spec, device, beam, sizes)
        elif spec.name in ("hubert_base", "hubert_large", "plain_pruning") or spec.name not in ARCHITECTURES:
            entry = _encoder(spec, device, sizes)
        else:
            entry = _baseline(spec, sizes)
            entry.parameters = entry.parameters or parameters_of(entry.module)
            convert_(entry.module.eval().requires_grad_(False).to(device), spec.dtype)
    entry.encode = _in(spec, kernels, entry.encode)
    entry.translate = entry.translate and _in(spec, kernels, entry.translate)
    return entry


def _in(spec: Spec, kernels: Optional[onednn.Kernels], run: Callable) -> Callable:
    """``run`` with these kernels, on waveforms of the entry's dtype."""

    def call(waveforms: Tensor, *args):
        with torch.inference_mode(), onednn.using(kernels):
            return run(waveforms.to(TORCH_DTYPES.get(spec.dtype, torch.float32)), *args)

    return call


def set_pruning(hubert: TokenPrunedHubert, spec: Spec) -> None:
    """The keep ratios of the spec, if it has any; the criterion stays the checkpoint's."""
    layers = len(hubert.encoder.layers)
    if spec.keeps is not None:
        ratios = layer_keep_ratios(layers, explicit=spec.keep_ratios())
    elif spec.keep is not None:
        ratios = layer_keep_ratios(layers, spec.keep, spec.start)
    else:
        return
    hubert.pruning = replace(hubert.pruning, keep_ratios=ratios, warmup_updates=0)


def _random(spec: Spec, sizes, kind: type[TokenPrunedHubert] = TokenPrunedHubert) -> TokenPrunedHubert:
    form = HUBERT_FORMS["base"]
    if spec.name in ("hubert_large", "ctranslate2_wav2vec2"):
        form = {**HUBERT_FORMS["large"], **LARGE, "conv_bias": True}
    return build_encoder({**form, **hubert_sizes(sizes)}, kind=kind)


def _encoder(spec: Spec, device: torch.device, sizes) -> Entry:
    if spec.name in ARCHITECTURES:
        hubert = _random(
            spec, sizes, PlainTokenPruning if spec.name == "plain_pruning" else TokenPrunedHubert
        )
    else:
        checkpoint = read_hubert(spec.name)
        hubert = build_encoder(checkpoint.architecture)
        load_state_dict_strictly(hubert, checkpoint.state_dict, spec.name)
    set_pruning(hubert, spec)
    parameters = parameters_of(hubert)
    convert_(hubert.eval().requires_grad_(False).to(device), spec.dtype)
    hubert.make_generation_fast_()
    return Entry(spec, hubert, _encode(hubert), _macs(hubert), hubert_stages(hubert), parameters=parameters)


def _encode(hubert: TokenPrunedHubert) -> Callable[[Tensor], Any]:
    return lambda waveforms: hubert(waveforms, [waveforms.shape[1]] * len(waveforms))


def _macs(hubert: TokenPrunedHubert) -> Callable[[int], dict[str, int]]:
    return lambda samples: {stage: n for stage, n in hubert.macs(samples).items() if stage != "total"}


def hubert_stages(hubert: TokenPrunedHubert) -> list[Stage]:
    """Of our encoder, by the names that its MACs have; the first includes norms and all that is left."""
    return [
        Stage("positional", hubert),
        Stage("extractor", hubert, "forward_features"),
        Stage("feed_forward", hubert, "run_layer"),
        Stage("attention", hubert, "_attend"),
    ]


def _baseline(spec: Spec, sizes) -> Entry:
    ours, drops = _random(spec, sizes), spec.keep is not None or spec.keeps is not None
    if drops and spec.name not in ADAPTED:
        raise ValueError(f"{spec}: {spec.name} drops no frames; plain_pruning, {' and '.join(ADAPTED)} do")
    if spec.name == "fairseq":
        module = HubertModel(ours.cfg, SimpleNamespace(sample_rate=16000), [None])
        module.load_state_dict(ours.state_dict(), strict=False)
        module.remove_pretraining_modules()
        stages = fairseq_stages(module)
        return Entry(spec, module, lambda waveforms: module.extract_features(waveforms), _macs(ours), stages)
    if spec.name in ENGINES:
        return _engine(spec, ours)
    module, stages = others_hubert(spec.name, ours)
    if drops:
        from fairseq_prune.adapters.transformers import prune_tokens  # needs transformers

        set_pruning(ours, spec)
        prune_tokens(module, keep_ratios=ours.pruning.keep_ratios)
    return Entry(spec, module, lambda waveforms: module(waveforms), _macs(ours), stages)


def _engine(spec: Spec, ours: TokenPrunedHubert) -> Entry:
    """What others run within cannot be timed by stage."""
    parameters = sum(parameter.numel() for parameter in ours.parameters())
    if spec.name == "transformers_compiled":
        module = transformers_hubert("sdpa")
        return Entry(spec, module, torch.compile(module), _macs(ours), [])
    if spec.name == "ctranslate2_wav2vec2":
        module = CTranslate2Module(transformers_wav2vec2(TRANSFORMERS_LARGE), spec.dtype)
        return Entry(spec, module, module, _macs(ours), [], parameters=parameters)
    ours.eval()
    with onednn.torchs_own():  # graphs hold no packed weights
        ours.make_generation_fast_()
    encoder = transformers_hubert("sdpa") if spec.name == "onnx_transformers" else ours
    module = (openvino_module if spec.name == "openvino" else onnx_module)(encoder, int8=spec.dtype == "int8")
    return Entry(spec, module, module, _macs(ours), [], parameters=parameters)


def _translator(spec: Spec, device: torch.device, beam: int, sizes) -> Entry:
    if spec.name in ARCHITECTURES:
        model, dictionary = random_hubert_deltalm(spec, **(sizes or {}))
        parameters = parameters_of(model)
        convert_(model.eval().requires_grad_(False).to(device), spec.dtype)
        model.make_generation_fast_()
    else:
        translator = ConvertedTranslator(spec.name, spec.dtype, beam=beam, device=str(device))
        model, dictionary = translator.model, translator.task.target_dictionary
        parameters = translator.parameters
    encoder, decoder = model.encoder, model.decoder
    hubert, adaptor, text_encoder = encoder.hubert, encoder.adaptor, encoder.text_encoder
    set_pruning(hubert, spec)

    def translate(waveforms: Tensor, tokens: int) -> Any:
        # as many tokens in all entries, whatever their weights say
        generator = SequenceGenerator(
            [model], dictionary, beam_size=beam, max_len_a=0, max_len_b=tokens, min_len=tokens
        )
        lengths = torch.full((len(waveforms),), waveforms.shape[1], device=waveforms.device)
        return generator.generate([model], {"net_input": {"src_tokens": waveforms, "src_lengths": lengths}})

    def translation_macs(samples: int, tokens: int, beam: int) -> dict[str, int]:
        macs, (count, memory) = (
            _macs(hubert)(samples),
            adaptor_macs(adaptor, hubert.frame_counts(samples)[-1]),
        )
        macs["adaptor"] = count
        if text_encoder is not None:
            macs["text_encoder"] = text_layers_macs(text_encoder, encoder.first_text_layer, memory)
        steps = tokens + 1  # with the end of the sentence
        return {**macs, **beam_search_macs(decoder, memory, steps, beam)}

    stages = [*hubert_stages(hubert), Stage("adaptor", adaptor)]
    if text_encoder is not None:
        stages.append(Stage("text_encoder", text_encoder, "forward_layers"))
    stages += [
        Stage("decoder", decoder),
        Stage("output_projection", decoder, "output_layer"),
    ]
    return Entry(spec, model, _encode(hubert), _macs(hubert), stages, translate, translation_macs, parameters)


def random_hubert_deltalm(spec: Spec, **sizes) -> tuple[nn.Module, Dictionary]:
    """HuBERT base, or the encoder that ``spec`` names, and DeltaLM base with random weights; or of other sizes."""
    dictionary = Dictionary()
    for index in range(spec.vocabulary - len(dictionary)):
        dictionary.add_symbol(f"piece{index}")
    task = SimpleNamespace(target_dictionary=dictionary, transcript_dictionary=None, ctc_dictionary=None)
    options = HubertDeltaLMConfig(hubert_path=spec.hubert, **sizes)
    cfg = OmegaConf.create({"model": OmegaConf.structured(options)}).model
    cfg._name = "hubert_deltalm_base"
    return models.build_model(cfg, task), dictionary
