"""Steps of training speech translation, by our passes through HuBERT and by fairseq's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from fairseq.models.hubert import HubertModel
from torch import Tensor, nn

from fairseq_prune.benchmarks.baselines import fairseqs_adam
from fairseq_prune.benchmarks.decoder_macs import adaptor_macs, beam_search_macs, text_layers_macs
from fairseq_prune.benchmarks.device_checks import build_translator, task_of
from fairseq_prune.benchmarks.entries import set_pruning
from fairseq_prune.benchmarks.specs import Spec
from fairseq_prune.benchmarks.updates import Batch, Step, adam, update
from fairseq_prune.criterions.speech_translation import SpeechTranslationCriterion
from fairseq_prune.modules.frames import Frames
from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert
from fairseq_prune.pruning.tokens import padding_mask_of

VOCABULARY = 12_000  # target pieces, as a cut vocabulary has


def translation(specs, batch: Batch, device, sizes) -> list[Step]:
    """The steps of one model; arguments as of `training_kinds.build_steps`."""
    vocabulary = VOCABULARY if sizes is None else 100
    model = build_translator(sizes or {}, vocabulary).to(device).train()
    criterion = SpeechTranslationCriterion(task_of(vocabulary), False, 0.1, 0, False, 0.0, 0.0)
    optimizer, hubert = adam(model), model.encoder.hubert
    tokens, dense = batch.targets(vocabulary, device), hubert.pruning
    lengths = torch.full((batch.batch,), batch.samples, device=device)
    inputs = {"src_tokens": batch.waveforms(device), "src_lengths": lengths, "prev_output_tokens": tokens}
    sample = {"net_input": inputs, "target": tokens, "ntokens": tokens.numel()}

    def run(spec: Spec) -> Tensor:
        hubert.pruning = dense
        set_pruning(hubert, spec)
        if spec.name == "st":
            return update(lambda: criterion(model, sample)[0] / sample["ntokens"], optimizer)
        with fairseqs_own(hubert), fairseqs_adam():
            return update(lambda: criterion(model, sample)[0] / sample["ntokens"], optimizer)

    steps = []
    for spec in specs:
        set_pruning(hubert, spec)
        steps.append(Step(str(spec), partial(run, spec), batch.batch * _translation_macs(model, batch)))
        hubert.pruning = dense
    return steps


def _translation_macs(model: nn.Module, batch: Batch) -> int:
    """MACs of an utterance's update: a part that is trained has two products in its backward pass for each forward."""
    encoder = model.encoder
    hubert = encoder.hubert.macs(batch.samples)
    count, memory = adaptor_macs(encoder.adaptor, encoder.hubert.frame_counts(batch.samples)[-1])
    trained = hubert["total"] - hubert["extractor"] + count
    if encoder.text_encoder is not None:
        trained += text_layers_macs(encoder.text_encoder, encoder.first_text_layer, memory)
    trained += sum(beam_search_macs(model.decoder, memory, batch.tokens, 1).values())
    return hubert["extractor"] + 3 * trained


@contextmanager
def fairseqs_own(hubert: TokenPrunedHubert) -> Iterator[None]:
    """Within it the encoder is run by fairseq's code, without what this package adds to its layer norms."""
    norms = [module for module in hubert.modules() if isinstance(module, nn.LayerNorm)]
    hooks = [norm._forward_pre_hooks for norm in norms]

    def forward(source, lengths, mask=False):
        padding_mask = padding_mask_of(lengths, source.shape[1], source.device)
        out = HubertModel.forward(hubert, source, padding_mask=padding_mask, mask=mask, features_only=True)
        x = out["x"]
        positions = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
        return Frames(x, [x.shape[1]] * len(x), None, positions)

    for norm in norms:
        norm._forward_pre_hooks = type(norm._forward_pre_hooks)()
    hubert.forward = forward  # of this object, which hides the methods of its class
    hubert.forward_features = partial(HubertModel.forward_features, hubert)
    try:
        yield
    finally:
        del hubert.forward, hubert.forward_features
        for norm, before in zip(norms, hooks):
            norm._forward_pre_hooks = before
