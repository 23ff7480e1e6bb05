"""Decoders that write so many tokens of an encoded sentence: ours, and others of the same size."""

import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from fairseq.data import Dictionary
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor, nn

from fairseq_prune.benchmarks.converting import convert_, layer_bytes, round_weights_
from fairseq_prune.benchmarks.entries import random_hubert_deltalm
from fairseq_prune.benchmarks.specs import Spec
from fairseq_prune.benchmarks.stages import Stage
from fairseq_prune.constants import SAMPLE_RATE
from fairseq_prune.models.whisper import Whisper, WhisperBaseConfig, WhisperConfig
from fairseq_prune.modules.deltalm.generation import prepare_for_generation_ as prepare_deltalm_
from fairseq_prune.modules.deltalm.settings import DeltaLMSettings
from fairseq_prune.modules.kernels import kernels_for
from fairseq_prune.modules.onednn import using
from fairseq_prune.modules.previewed_output import CANDIDATES, OutputPreview
from fairseq_prune.modules.whisper.decoder import WhisperDecoder
from fairseq_prune.modules.whisper.encoder import WhisperEncoder
from fairseq_prune.modules.whisper.generation import WhisperGenerator
from fairseq_prune.modules.whisper.packing import prepare_for_generation_
from fairseq_prune.pruning.output_preview import principal_directions

GENERATORS = {
    "hubert_deltalm": "our translator, HuBERT base and DeltaLM base (vocabulary=, preview=, kernels=, dtype=int8 or "
    "float16: weights that 16 bits hold)",
    "whisper_tiny": "our Whisper in the published size, on 30 s (preview=, kernels=, dtype=int8 or float16, as it is "
    "published)",
    "whisper_base": "the same",
    "transformers_mbart": "transformers' decoder of DeltaLM's size: its feed-forward blocks are wider (vocabulary=)",
    "ctranslate2_mbart": "the same in CTranslate2 (vocabulary=, dtype=int8)",
}
FRAMES_A_SECOND = 25  # of the memory that our translator makes of speech
WHISPERS = {"whisper_tiny": WhisperConfig, "whisper_base": WhisperBaseConfig}
WHISPER_VOCABULARY, PREFIX = 51_865, (4, 5, 6)


@dataclass
class Generator:
    """What writes.

    encode: (sentences, seconds) -> what ``write`` takes. write: (encoded, tokens, beam) writes so many tokens of each
    sentence, without the encoder. stages: of ``write``. bytes: of the weights that a step reads, 0 if unknown.
    """

    name: str
    encode: Callable[[int, float], Any]
    write: Callable[[Any, int, int], Any]
    stages: list[Stage] = field(default_factory=list)
    bytes: int = 0


def build_generator(spec: Spec, sizes: Optional[dict[str, Any]] = None) -> Generator:
    """The generator of a spec, on the CPU.

    Args:
        sizes: smaller ones for tests: fields of `DeltaLMSettings`, or of Whisper's.

    Raises:
        ValueError: the name is none of GENERATORS, an option is not for it, or a library is missing.
    """
    if spec.name not in GENERATORS:
        raise ValueError(f"generation: found {spec.name!r}, expected some of {', '.join(GENERATORS)}")
    if spec.preview and spec.name not in ("hubert_deltalm", *WHISPERS):
        raise ValueError(f"{spec}: found preview, which is an option of our decoders")
    dtypes = ["float32"]
    if spec.name != "transformers_mbart":
        dtypes.append("int8")
    if spec.name in ("hubert_deltalm", *WHISPERS):
        dtypes.append("float16")
    if spec.dtype not in dtypes:
        raise ValueError(f"{spec}: found dtype {spec.dtype}, expected {' or '.join(dtypes)}")
    torch.manual_seed(0)
    kernels = kernels_for(spec.kernels)
    with using(kernels):
        if spec.name in WHISPERS:
            found = _whisper(spec, sizes or {})
        else:
            found = (_translator if spec.name == "hubert_deltalm" else _mbart)(spec, sizes)

    def within(run: Callable) -> Callable:
        def call(*args):
            with torch.inference_mode(), using(kernels):
                return run(*args)

        return call

    found.encode, found.write = within(found.encode), within(found.write)
    return found


@contextmanager
def _encoded(encoder: nn.Module, memory: Any):
    """Within it the encoder has encoded already."""
    encoder.forward = lambda *args, **kwargs: memory
    try:
        yield
    finally:
        del encoder.forward


def _preview(spec: Spec, decoder: nn.Module) -> OutputPreview:
    """In directions of chance: which tokens are found makes no difference to the time."""
    dim = decoder.embed_tokens.embedding_dim
    return OutputPreview(principal_directions(torch.randn(2 * dim, dim), spec.preview), CANDIDATES)


def _noise(sentences: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(sentences, *shape, generator=generator)


def _options(tokens: int, beam: int) -> dict[str, Any]:
    return {"beam_size": beam, "max_len_a": 0, "max_len_b": tokens, "min_len": tokens}


def _translator(spec: Spec, sizes: Optional[dict[str, Any]]) -> Generator:
    model, dictionary = random_hubert_deltalm(spec, **(sizes or {}))
    model.eval().requires_grad_(False)
    if spec.dtype == "float16":
        round_weights_(model)
    if spec.preview:
        prepare_deltalm_(model.decoder, spec.dtype == "int8", _preview(spec, model.decoder))
    convert_(model, "float32" if spec.dtype == "float16" else spec.dtype)
    model.make_generation_fast_()
    decoder = model.decoder

    def encode(sentences: int, seconds: float):
        waveforms = _noise(sentences, round(seconds * SAMPLE_RATE))
        return model.encoder(waveforms, torch.full((sentences,), waveforms.shape[1])), waveforms

    def write(encoded, tokens: int, beam: int):
        memory, waveforms = encoded
        generator = SequenceGenerator([model], dictionary, **_options(tokens, beam))
        inputs = {"src_tokens": waveforms, "src_lengths": torch.full((len(waveforms),), waveforms.shape[1])}
        with _encoded(model.encoder, memory):
            return generator.generate([model], {"net_input": inputs})

    stages = _decoder_stages(decoder, "_feed_forward")
    return Generator(str(spec), encode, write, stages, _step_bytes(decoder, decoder.output_projection))


def _whisper(spec: Spec, sizes: dict[str, Any]) -> Generator:
    settings = WHISPERS[spec.name](**sizes)
    dictionary = _dictionary((sizes and 50) or WHISPER_VOCABULARY)
    model = (
        Whisper(WhisperEncoder(settings), WhisperDecoder(settings, dictionary)).eval().requires_grad_(False)
    )
    if spec.dtype == "float16":
        round_weights_(model)
    preview = _preview(spec, model.decoder) if spec.preview else None
    prepare_for_generation_(model.decoder, spec.dtype == "int8", preview)

    def encode(sentences: int, seconds: float):
        features = _noise(sentences, 2 * settings.max_source_positions, settings.mel_bins)
        return model.encoder(features, torch.full((sentences,), features.shape[1])), features

    def write(encoded, tokens: int, beam: int):
        memory, features = encoded
        generator = WhisperGenerator([model], dictionary, PREFIX, **_options(tokens, beam))
        inputs = {"src_tokens": features, "src_lengths": torch.full((len(features),), features.shape[1])}
        with _encoded(model.encoder, memory):
            return generator.generate([model], {"net_input": inputs})

    decoder = model.decoder
    stages = _decoder_stages(decoder, "feed_forward")
    for layer in decoder.layers:
        stages += [Stage("self-attention", layer.self_attn, part) for part in ("project", "find")]
    return Generator(str(spec), encode, write, stages, _step_bytes(decoder, decoder.output_projection))


def _decoder_stages(decoder: nn.Module, feed_forward: str) -> list[Stage]:
    stages = [Stage("rest of the decoder", decoder), Stage("output projection", decoder, "output_layer")]
    for index in range(len(decoder.layers)):
        layer = decoder.layers[index]
        stages += [Stage("self-attention", layer.self_attn), Stage("cross-attention", layer.encoder_attn)]
        stages.append(Stage("feed-forward", layer, feed_forward))
    return stages


def _step_bytes(decoder: nn.Module, projection: nn.Module) -> int:
    once = ("encoder_attn.kv_proj", "encoder_attn.k_proj", "encoder_attn.v_proj")  # a sentence
    layers = (part for name, part in decoder.layers.named_modules() if not name.endswith(once))
    return sum(map(layer_bytes, layers)) + layer_bytes(projection)


def _dictionary(size: int) -> Dictionary:
    dictionary = Dictionary()
    for index in range(size - len(dictionary)):
        dictionary.add_symbol(f"piece{index}")
    return dictionary


# -- others


def mbart_model(vocabulary: int, sizes: Optional[dict[str, Any]] = None) -> nn.Module:
    """transformers' model, whose decoder has the weights of DeltaLM's; its encoder is one thin layer.

    Raises:
        ValueError: the library is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise ValueError("generation beside transformers: needs pip install fairseq_prune[bench]") from None
    prefix = "deltalm_"
    own = {name[len(prefix) :]: value for name, value in (sizes or {}).items() if name.startswith(prefix)}
    settings = DeltaLMSettings(**own)
    config = transformers.MBartConfig(
        vocab_size=vocabulary,
        d_model=settings.embed_dim,
        decoder_layers=settings.decoder_layers,
        decoder_ffn_dim=2 * settings.ffn_embed_dim,  # the weights of both blocks of DeltaLM
        decoder_attention_heads=settings.attention_heads,
        encoder_layers=1,
        encoder_ffn_dim=1,
        encoder_attention_heads=settings.attention_heads,
        max_position_embeddings=settings.max_target_positions,
        forced_eos_token_id=None,
    )
    return transformers.MBartForConditionalGeneration(config).eval().requires_grad_(False)


def _mbart(spec: Spec, sizes: Optional[dict[str, Any]]) -> Generator:
    model = mbart_model(spec.vocabulary, sizes)
    if spec.name == "ctranslate2_mbart":
        return _ctranslate2(spec, model)
    from transformers.modeling_outputs import BaseModelOutput

    def encode(sentences: int, seconds: float):
        return BaseModelOutput(_noise(sentences, round(seconds * FRAMES_A_SECOND), model.config.d_model))

    def write(encoded, tokens: int, beam: int):
        lengths = {"min_new_tokens": tokens + 1, "max_new_tokens": tokens + 1}
        memory = BaseModelOutput(encoded.last_hidden_state)  # which it repeats in place
        return model.generate(encoder_outputs=memory, num_beams=beam, do_sample=False, **lengths)

    return Generator(str(spec), encode, write)


def _ctranslate2(spec: Spec, model: nn.Module) -> Generator:
    """Its pass through an encoder of one thin layer is counted, in which a sentence is a few per cent of its time."""
    try:
        import ctranslate2
        from ctranslate2.converters.transformers import MBartLoader
    except ImportError:
        raise ValueError(f"{spec}: needs pip install fairseq_prune[bench]") from None
    model.config.normalize_before = True  # which newer transformers leave unsaid
    layout = MBartLoader().get_model_spec(model)
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *(f"piece{i}" for i in range(spec.vocabulary - 4))]
    layout.register_source_vocabulary(pieces)
    layout.register_target_vocabulary(pieces)
    layout.config.bos_token, layout.config.eos_token, layout.config.unk_token = "<s>", "</s>", "<unk>"
    layout.config.decoder_start_token = "</s>"
    layout.validate()
    layout.optimize("int8" if spec.dtype == "int8" else "float32")
    with tempfile.TemporaryDirectory() as folder:
        layout.save(folder)
        translator = ctranslate2.Translator(
            folder, compute_type=spec.dtype, inter_threads=1, intra_threads=torch.get_num_threads()
        )

    def encode(sentences: int, seconds: float):
        return [["piece7"] * round(seconds * FRAMES_A_SECOND)] * sentences

    def write(encoded, tokens: int, beam: int):
        lengths = {"min_decoding_length": tokens + 1, "max_decoding_length": tokens + 1}
        return translator.translate_batch(encoded, beam_size=beam, **lengths)

    return Generator(str(spec), encode, write)
