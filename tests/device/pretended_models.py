"""Every model with its criterion and a batch, and what is run of them on a GPU that is not there."""

from functools import partial
from types import SimpleNamespace

import torch
from fairseq.dataclass.configs import EMAConfig
from fairseq.models.ema.ema import EMA
from pretend import Gpu
from small_encoder import make_encoder
from small_speech_model import make_model, make_task, speech
from small_whisper import clips, small_tokenizer, small_whisper

from fairseq_prune.criterions.distill_prune import DistillPruneCriterion
from fairseq_prune.criterions.slu_distillation import SluDistillationCriterion
from fairseq_prune.criterions.speech_translation import SpeechTranslationCriterion
from fairseq_prune.models.deltalm import DeltaLM, DeltaLMConfig
from fairseq_prune.models.dphubert import DPHubert
from fairseq_prune.models.pruned_hubert import PrunedHubert
from fairseq_prune.models.trainer_hooks import shape_average
from fairseq_prune.modules.deltalm.model import DeltaLMDecoder, DeltaLMEncoder
from fairseq_prune.modules.hubert.architecture import architecture_of, build_encoder
from fairseq_prune.modules.hubert.gated import Gating
from fairseq_prune.pruning.distillation import LayerMaps
from fairseq_prune.pruning.magnitude import matching_parameters
from fairseq_prune.pruning.parp import MagnitudePruner, PruningPlan

PRECISIONS = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "autocast": torch.float16,
}
LAYERS = 2
SAMPLES = {False: (12000, 12000), True: (12000, 8000)}  # with padding and without
TOKENS = torch.tensor([[2, 5, 6], [2, 7, 1]])


def translation(padded, layers=LAYERS, **options):
    options = {
        "hubert_layers": layers,
        "text_encoder": True,
        "deltalm_encoder_layers": 1,
        "adaptor_kernels": "3",
        **options,
    }
    model = make_model(ctc=True, hubert_form="base", mask_prob=0.3, mask_channel_prob=0.2, **options)
    criterion = SpeechTranslationCriterion(make_task(ctc=True), False, 0.1, 0, True, 1.0, 0.5)
    sample = {
        "net_input": {**speech(*SAMPLES[padded]), "prev_output_tokens": TOKENS},
        "target": torch.tensor([[5, 6, 2], [7, 2, 1]]),
        "transcript": torch.tensor([[5, 6, 2], [7, 2, 1]]),
        "transcript_lengths": torch.tensor([3, 2]),
        "ctc_target": torch.tensor([[4, 5], [6, 1]]),
        "ctc_target_lengths": torch.tensor([2, 1]),
        "ntokens": 5,
    }
    return model, criterion, sample


def distillation(padded, layers=LAYERS, **shapes):
    teacher = make_encoder(heads=(4,) * layers, units=(48,) * layers, **shapes)
    student = build_encoder(architecture_of(teacher), gating=Gating())
    model = DPHubert(student, LayerMaps([[0], [1, layers]], 32, 32), teacher)
    criterion = DistillPruneCriterion(None, 1.0, 1.0, 1.0, "raw", 0.5, "macs", 10)
    source, lengths = speech(*SAMPLES[padded]).values()
    return model, criterion, {"net_input": {"source": source, "lengths": lengths.tolist()}, "nsentences": 2}


class Output:
    """In the place of a criterion, for models that others' criterions train: what the model returns is its loss."""

    def __init__(self, method="forward", **options):
        self.method, self.options = method, options

    def __call__(self, model, sample):
        out = getattr(model, self.method)(**sample["net_input"], **self.options)
        return out, sample["ntokens"], {"sample_size": sample["ntokens"]}

    def to(self, *args, **kwargs):
        return self


def encoder(padded, layers=LAYERS, **shapes):
    built = make_encoder(heads=(4,) * layers, units=(48,) * layers, **shapes)
    model = build_encoder(architecture_of(built), kind=PrunedHubert, mask_prob=0.3, encoder_layerdrop=0.3)
    source, lengths = speech(*SAMPLES[padded]).values()
    padding = torch.arange(source.shape[1]) >= lengths[:, None]
    inputs = {"source": source, "padding_mask": padding if padded else None}
    return model, Output("extract_features", mask=True), {"net_input": inputs, "ntokens": 5}


def text(padded, layers=LAYERS):
    cfg = DeltaLMConfig(
        embed_dim=32, ffn_embed_dim=48, attention_heads=4, encoder_layers=layers, decoder_layers=layers
    )
    words = make_task().target_dictionary
    model = DeltaLM(DeltaLMEncoder.build(cfg, words), DeltaLMDecoder.build(cfg, words))
    source = torch.tensor([[5, 6, 2], [7, 2, 1] if padded else [7, 8, 2]])
    inputs = {
        "src_tokens": source,
        "src_lengths": torch.tensor([3, 3 - padded]),
        "prev_output_tokens": TOKENS,
    }
    return model, Output(), {"net_input": inputs, "ntokens": 5}


def understanding(padded, layers=LAYERS, **options):
    tokenizer = small_tokenizer()
    options = {"encoder_layers": layers, "decoder_layers": layers, **options}
    model, teacher = (small_whisper(tokenizer=tokenizer, **options) for _ in range(2))
    task = SimpleNamespace(target_dictionary=tokenizer.dictionary)
    weights = dict(
        ce_weight=1.0, kl_weight=0.0, kl_temperature=2.0, contrastive_weight=0.0, contrastive_temperature=0.1
    )
    criterion = SluDistillationCriterion(task, False, 0.1, 0, False, None, **weights, layer_map=[])
    criterion.kl_weight = criterion.contrastive_weight = 1.0
    criterion._teacher.append(teacher.eval().requires_grad_(False))
    features, lengths = clips(100, 70 if padded else 100)
    inputs = {"src_tokens": features, "src_lengths": lengths, "prev_output_tokens": TOKENS}
    target = torch.tensor([[5, 6, 2], [7, 2, tokenizer.dictionary.pad()]])
    return model, criterion, {"net_input": inputs, "target": target, "ntokens": 5}


WAVLM = {"relative_buckets": 32, "relative_distance": 64}
MODELS = {  # {name: what makes it of whether the batch has padding, and of the number of layers}
    "hubert_deltalm": translation,
    "hubert_deltalm, received": partial(translation, token_keep_ratio=0.7),
    "hubert_deltalm, norm": partial(translation, token_keep_ratio=0.7, token_keep_criterion="norm"),
    "hubert_deltalm, random": partial(translation, token_keep_ratio=0.7, token_keep_criterion="random"),
    "hubert_deltalm, uniform": partial(
        translation, token_keep_ratio=0.7, token_keep_criterion="uniform", memory_positions="sinusoidal"
    ),
    "hubert_deltalm, merge": partial(translation, token_keep_ratio=0.7, token_keep_criterion="merge"),
    "dphubert": distillation,
    "dphubert of WavLM": partial(distillation, **WAVLM),
    "pruned_hubert": encoder,
    "pruned_hubert, large": partial(encoder, form="large"),
    "wavlm": partial(encoder, **WAVLM),
    "deltalm": text,
    "whisper, clip": partial(understanding, audio_context="clip"),
    "whisper, 30s": understanding,
}


def passing(name, precision="float32", padded=True, training=True, layers=LAYERS):
    """The pretended GPU, and loss, sample size and log of a pass on it."""
    model, criterion, sample = MODELS[name](padded, layers)
    if precision in ("float16", "bfloat16"):
        model, criterion = model.to(PRECISIONS[precision]), criterion.to(PRECISIONS[precision])
        inputs = sample["net_input"]
        for key in ("source", "src_tokens"):
            if key in inputs and inputs[key].is_floating_point():
                inputs[key] = inputs[key].to(PRECISIONS[precision])
    lengths = sample["net_input"].get("src_lengths")
    gpu = Gpu(SAMPLES[padded] if lengths is None else lengths.tolist())
    model = gpu.model(model).train(training)
    for teacher in getattr(criterion, "_teacher", ()):
        gpu.model(teacher)
    sample = gpu.batch(sample)
    model.set_num_updates(3)
    autocast = torch.autocast("cuda", torch.float16, enabled=precision == "autocast")
    with gpu(), autocast, torch.set_grad_enabled(training):
        criterion(model, sample)  # which fills caches: of masks, of positions
        gpu.forget()
        loss, sample_size, log = criterion(model, sample)
    return gpu, loss, sample_size, log


def decoding(name, layers=LAYERS, steps=3):
    """The waits of each step of a decoder and of each reordering of its cache: two dicts a step."""
    model, _, sample = MODELS[name](True, layers)
    gpu = Gpu(sample["net_input"]["src_lengths"].tolist())
    model, inputs = gpu.model(model).eval(), gpu.batch(sample)["net_input"]
    tokens, order = inputs["prev_output_tokens"], gpu.tensor(torch.tensor([0, 1]))
    found = []
    with gpu(), torch.no_grad():
        encoded = model.encoder(inputs["src_tokens"], src_lengths=inputs["src_lengths"])
        state = {}
        for step in range(1, steps + 1):
            gpu.forget()
            model.decoder(tokens[:, :step], encoder_out=encoded, incremental_state=state)
            found.append(dict(+gpu.waits))
            gpu.forget()
            model.decoder.reorder_incremental_state_scripting(state, order)
            found.append(dict(+gpu.waits))
    return found


def pruning(method="parp", scope="global", updates=9, averaged=False, layers=LAYERS):
    """The waits of each update of a magnitude pruning that prunes at every second, but for the model's own pass.

    Args:
        averaged: fairseq's moving average of the weights (--store-ema) is kept too.
    """
    model = small_whisper(encoder_layers=layers, decoder_layers=layers)
    gpu = Gpu([0.5, 0.0, 1.0])
    parameters = matching_parameters(gpu.model(model))
    model.pruner = MagnitudePruner(parameters, PruningPlan(method, 0.5, interval=2, end=8), scope)
    waits = []
    with gpu():
        ema = EMA(model, EMAConfig(store_ema=True, ema_fp32=True)) if averaged else None
        shape_average(SimpleNamespace(_ema=ema))
        averages = [] if ema is None else [dict(ema.get_model().named_parameters()), ema.fp32_params]
        for update in range(updates):
            gpu.forget()
            model.set_num_updates(update)
            model.pruner.after_update(update, averages=averages)
            if ema is not None:
                ema.step(model, update)
            waits.append(dict(+gpu.waits))
    return waits
