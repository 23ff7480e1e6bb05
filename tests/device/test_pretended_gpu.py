"""Every model and criterion on a GPU that is not there: devices, types, and how often the host waits for it."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from small_encoder import make_encoder
from small_speech_model import make_model, make_task, speech
from small_whisper import clips, small_tokenizer, small_whisper

from fairseq_prune.compat import LEGACY
from fairseq_prune.criterions.distill_prune import DistillPruneCriterion
from fairseq_prune.criterions.slu_distillation import SluDistillationCriterion
from fairseq_prune.criterions.speech_translation import SpeechTranslationCriterion
from fairseq_prune.models.deltalm import DeltaLM, DeltaLMConfig
from fairseq_prune.models.dphubert import DPHubert
from fairseq_prune.models.pruned_hubert import PrunedHubert
from fairseq_prune.modules.deltalm.model import DeltaLMDecoder, DeltaLMEncoder
from fairseq_prune.modules.hubert.architecture import architecture_of, build_encoder
from fairseq_prune.modules.hubert.gated import Gating
from fairseq_prune.pruning.distillation import LayerMaps
from fairseq_prune.pruning.magnitude import matching_parameters
from fairseq_prune.pruning.parp import MagnitudePruner, PruningPlan

if LEGACY:
    pytest.skip(
        "fake tensors of torch 2.0 do not know all operations of these models", allow_module_level=True
    )

from pretend import Gpu, devices_and_types

PRECISIONS = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "autocast": torch.float16,
}
SAMPLES = {False: (12000, 12000), True: (12000, 8000)}  # with padding and without
TOKENS = torch.tensor([[2, 5, 6], [2, 7, 1]])


def translation(padded, **options):
    options = {"text_encoder": True, "deltalm_encoder_layers": 1, "adaptor_kernels": "3", **options}
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


def distillation(padded, relative=False):
    shapes = {"relative_buckets": 32, "relative_distance": 64} if relative else {}
    teacher = make_encoder(**shapes)
    student = build_encoder(architecture_of(teacher), gating=Gating())
    model = DPHubert(student, LayerMaps([[0], [1, 2]], 32, 32), teacher)
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


def encoder(padded, **shapes):
    built = make_encoder(**shapes)
    model = build_encoder(architecture_of(built), kind=PrunedHubert, mask_prob=0.3, encoder_layerdrop=0.3)
    source, lengths = speech(*SAMPLES[padded]).values()
    padding = torch.arange(source.shape[1]) >= lengths[:, None]
    inputs = {"source": source, "padding_mask": padding if padded else None}
    return model, Output("extract_features", mask=True), {"net_input": inputs, "ntokens": 5}


def text(padded):
    cfg = DeltaLMConfig(embed_dim=32, ffn_embed_dim=48, attention_heads=4, encoder_layers=2, decoder_layers=2)
    words = make_task().target_dictionary
    model = DeltaLM(DeltaLMEncoder.build(cfg, words), DeltaLMDecoder.build(cfg, words))
    source = torch.tensor([[5, 6, 2], [7, 2, 1] if padded else [7, 8, 2]])
    inputs = {
        "src_tokens": source,
        "src_lengths": torch.tensor([3, 3 - padded]),
        "prev_output_tokens": TOKENS,
    }
    return model, Output(), {"net_input": inputs, "ntokens": 5}


def understanding(padded, **options):
    tokenizer = small_tokenizer()
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


MODELS = {
    "hubert_deltalm": lambda padded: translation(padded),
    "hubert_deltalm, received": lambda padded: translation(padded, token_keep_ratio=0.7),
    "hubert_deltalm, norm": lambda padded: translation(
        padded, token_keep_ratio=0.7, token_keep_criterion="norm"
    ),
    "hubert_deltalm, random": lambda padded: translation(
        padded, token_keep_ratio=0.7, token_keep_criterion="random"
    ),
    "hubert_deltalm, uniform": lambda padded: translation(
        padded, token_keep_ratio=0.7, token_keep_criterion="uniform", memory_positions="sinusoidal"
    ),
    "hubert_deltalm, merge": lambda padded: translation(
        padded, token_keep_ratio=0.7, token_keep_criterion="merge"
    ),
    "dphubert": distillation,
    "dphubert of WavLM": lambda padded: distillation(padded, relative=True),
    "pruned_hubert": encoder,
    "pruned_hubert, large": lambda padded: encoder(padded, form="large"),
    "wavlm": lambda padded: encoder(padded, relative_buckets=32, relative_distance=64),
    "deltalm": text,
    "whisper, clip": lambda padded: understanding(padded, audio_context="clip"),
    "whisper, 30s": lambda padded: understanding(padded),
}
# what the host waits for in a forward pass with its criterion, by the first word of the model's name:
# - tolist: the lengths of the batch, from which every later shape follows; fairseq's padding masks are None where
#   there is no padding, and then nothing is asked;
# - copy to the host: torch's CTC loss reads the lengths of frames and of targets;
# - item: fairseq's Transformer asks of each text whether it is padded, twice in the encoder and once in the decoder
WAITS = {
    "hubert_deltalm": {"tolist": 1, "copy to the host": 2, "item": 4},
    "dphubert": {},
    "pruned_hubert": {"tolist": 1},
    "wavlm": {"tolist": 1},
    "deltalm": {"item": 3},
    "whisper": {"tolist": 2},  # of the student and of its teacher
}


# a pass takes seconds of the CPU: these always, all others among the slow tests
QUICK = [
    "hubert_deltalm, received",
    "hubert_deltalm, merge",
    "dphubert of WavLM",
    "wavlm",
    "deltalm",
    "whisper, clip",
]
PASSES = [
    pytest.param(
        *one, marks=[] if one[0] in QUICK and one[1:] == ("float16", True, True) else pytest.mark.slow
    )
    for one in itertools.product(MODELS, PRECISIONS, (True, False), (True, False))
]


def run(name, precision, padded, training):
    """The pretended GPU, and loss, sample size and log of a pass on it."""
    model, criterion, sample = MODELS[name](padded)
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
    with (
        gpu(),
        torch.autocast("cuda", torch.float16, enabled=precision == "autocast"),
        torch.set_grad_enabled(training),
    ):
        criterion(model, sample)  # which fills caches: of masks, of positions
        gpu.waits.clear()
        loss, sample_size, log = criterion(model, sample)
    return gpu, loss, sample_size, log


@pytest.mark.parametrize("name, precision, padded, training", PASSES)
def test_a_pass_stays_on_the_device(name, precision, padded, training):
    gpu, loss, sample_size, log = run(name, precision, padded, training)
    found = devices_and_types({"loss": loss, "log": log, "sample_size": sample_size})
    assert found and {device for device, _ in found.values()} == {"cuda"}
    if not isinstance(loss, torch.Tensor):  # what a model returns has its type
        kinds = {kind for _, kind in found.values() if kind.is_floating_point}
        assert kinds <= {PRECISIONS[precision], torch.float32}
        assert precision in ("float32", "autocast") or PRECISIONS[precision] in kinds
    else:
        kinds = {place: kind for place, (_, kind) in found.items() if kind.is_floating_point}
        assert set(kinds.values()) == {torch.float32}, kinds
    family = name.partition(",")[0].partition(" ")[0]
    # with 30 s of context all lengths are the same, and known
    if (family in ("pruned_hubert", "wavlm") and not padded) or name == "whisper, 30s":
        family = ""
    assert dict(+gpu.waits) == WAITS.get(family, {})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hubert_deltalm, received", "dphubert", "whisper, clip"])
def test_workers_with_padding_and_without_log_things_of_one_kind(name):
    """fairseq adds up the logs of all workers, tensors on the device apart from numbers of the host."""
    kinds = []
    for padded in (True, False):
        _, _, sample_size, log = run(name, "float32", padded, True)
        kinds.append({key: type(value) for key, value in {"": sample_size, **log}.items()})
    assert kinds[0] == kinds[1]


# fairseq's Transformer asks in each step whether the tokens are padded
STEPS = {"whisper, clip": {}, "deltalm": {"item": 1}}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_of_decoding_does_not_wait(name):
    model, _, sample = MODELS[name](True)
    gpu = Gpu(sample["net_input"]["src_lengths"].tolist())
    model, inputs = gpu.model(model).eval(), gpu.batch(sample)["net_input"]
    tokens, order = inputs["prev_output_tokens"], gpu.tensor(torch.tensor([0, 1]))
    found = []
    with gpu(), torch.no_grad():
        encoded = model.encoder(inputs["src_tokens"], src_lengths=inputs["src_lengths"])
        state = {}
        for step in (1, 2, 3):
            model.decoder(tokens[:, :step], encoder_out=encoded, incremental_state=state)
            found.append(dict(+gpu.waits))
            gpu.waits.clear()
            model.decoder.reorder_incremental_state_scripting(state, order)
            found.append(dict(+gpu.waits))
            gpu.waits.clear()
    assert found[2:] == [STEPS[name], {}] * 2


@pytest.mark.parametrize("method", ["parp", "imp"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_a_pruning_waits_once(method, scope):
    """For its figures. Neither an update in between nor the moving average waits."""
    encoder = make_encoder()
    gpu = Gpu([0.5, 0.0, 1.0])
    parameters = matching_parameters(gpu.model(encoder))
    pruner = MagnitudePruner(parameters, PruningPlan(method, 0.5, interval=2, end=8), scope)
    waits = []
    with gpu():
        for update in range(9):
            gpu.waits.clear()
            pruner.before_update()
            pruner.after_update(
                update, averages=[{name: p.detach().clone() for name, p in parameters.items()}]
            )
            waits.append(dict(+gpu.waits))
    first = 0 if method == "parp" else 2
    assert waits == [{"tolist": 1} if update >= first and update % 2 == 0 else {} for update in range(9)]
