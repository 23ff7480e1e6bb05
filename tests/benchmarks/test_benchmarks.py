"""What the benchmark counts, times and compares."""

import time

import pytest
import torch
from torch import nn

from fairseq_prune.benchmarks import converting, entries
from fairseq_prune.benchmarks.baselines import PlainTokenPruning
from fairseq_prune.benchmarks.converting import convert_
from fairseq_prune.benchmarks.decoder_macs import adaptor_macs, beam_search_macs, text_layers_macs
from fairseq_prune.benchmarks.entries import set_pruning
from fairseq_prune.benchmarks.specs import Spec
from fairseq_prune.benchmarks.stages import Stage, timed_stages
from fairseq_prune.modules import onednn
from fairseq_prune.modules.deltalm.model import DeltaLMDecoder, DeltaLMEncoder
from fairseq_prune.modules.deltalm.settings import DeltaLMSettings
from fairseq_prune.modules.frames import TokenPruning
from fairseq_prune.modules.hubert.architecture import build_encoder
from fairseq_prune.modules.hubert.convolution import ConvAdaptor

SIZES = dict(
    normalize=False,
    encoder_layers=3,
    encoder_embed_dim=32,
    encoder_ffn_embed_dim=48,
    encoder_attention_heads=4,
    conv_feature_layers="[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
    conv_pos=8,
    conv_pos_groups=4,
)
SETTINGS = DeltaLMSettings(embed_dim=16, ffn_embed_dim=24, attention_heads=2, decoder_layers=2)


def make_decoder():
    from fairseq.data import Dictionary

    dictionary = Dictionary()
    for index in range(30):
        dictionary.add_symbol(f"t{index}")
    return DeltaLMDecoder.build(SETTINGS, dictionary).eval()


def test_a_step_of_the_decoder_by_hand():
    macs = beam_search_macs(make_decoder(), memory=7, steps=3, beam=5)
    weights = 6 * 16 * 16 + 4 * 16 * 24
    attended = 2 * 16 * (1 + 2 + 3) + 2 * 16 * 3 * 7
    assert macs == {
        "decoder": 2 * (5 * (3 * weights + attended) + 7 * 2 * 16 * 16),
        "output_projection": 5 * 3 * 16 * 34,
    }


def test_an_adaptor_by_hand():
    adaptor = ConvAdaptor(8, 6, channels=10, kernels=[3, 5])
    assert adaptor_macs(adaptor, 9) == (5 * 8 * 20 * 3 + 3 * 10 * 12 * 5, 3)
    assert adaptor_macs(ConvAdaptor(8, 6, channels=10, kernels=[]), 9) == (9 * 8 * 6, 9)


def test_steps_of_the_decoder_equal_torchs_own_count():
    flop_counter = pytest.importorskip("torch.utils.flop_counter", reason="torch 2.0 has no flop counter")
    decoder, beam, steps = make_decoder(), 5, 4
    memory = {"encoder_out": [torch.randn(7, beam, 16)], "encoder_padding_mask": [], "beam_size": [beam]}
    state, tokens = {}, torch.randint(4, 30, (beam, steps))
    with torch.inference_mode(), onednn.torchs_own(), flop_counter.FlopCounterMode(display=False) as counter:
        for step in range(1, steps + 1):
            decoder(tokens[:, :step], encoder_out=memory, incremental_state=state)
    assert counter.get_total_flops() == 2 * sum(beam_search_macs(decoder, 7, steps, beam).values())


def test_layers_of_the_text_encoder_equal_torchs_own_count():
    flop_counter = pytest.importorskip("torch.utils.flop_counter", reason="torch 2.0 has no flop counter")
    encoder = DeltaLMEncoder.build(SETTINGS, make_decoder().dictionary).eval()
    backend = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    counting = flop_counter.FlopCounterMode(display=False)
    with torch.inference_mode(), onednn.torchs_own(), backend, counting as counter:
        encoder.forward_layers(torch.randn(1, 9, 16), first_layer=1)
    assert counter.get_total_flops() == 2 * text_layers_macs(encoder, 1, 9)


def test_an_entry_changes_the_ratios_of_a_checkpoint_and_not_its_criterion():
    hubert = build_encoder(SIZES, TokenPruning([0.9] * 3, "uniform", minimum=4, warmup_updates=100))
    set_pruning(hubert, Spec.parse("some.pt"))
    assert hubert.pruning == TokenPruning([0.9] * 3, "uniform", 4, warmup_updates=100)
    set_pruning(hubert, Spec.parse("some.pt,keep=0.5,start=2"))
    assert hubert.pruning == TokenPruning([1.0, 0.5, 0.5], "uniform", 4)


def test_a_type_of_numbers_that_is_none_is_refused():
    with pytest.raises(ValueError, match="found dtype 'int4', expected one of float32"):
        convert_(nn.Linear(2, 2), "int4")


@pytest.mark.parametrize("lengths", [[16000, 16000], [16000, 9000]])
def test_the_plain_restatement_keeps_the_same_frames(lengths):
    pruning = TokenPruning([1.0, 0.8, 0.6])
    torch.manual_seed(0)
    ours = build_encoder(SIZES, pruning).eval()
    plain = build_encoder(SIZES, pruning, kind=PlainTokenPruning).eval()
    plain.load_state_dict(ours.state_dict())
    waveforms = torch.randn(2, 16000)
    waveforms[1, lengths[1] :] = 0
    with torch.inference_mode():
        expected, found = ours(waveforms, lengths), plain(waveforms, lengths)
    assert torch.equal(found.positions, expected.positions)
    for row, length in enumerate(expected.lengths):
        torch.testing.assert_close(found.x[row, :length], expected.x[row, :length], rtol=1e-4, atol=1e-4)


def test_the_stages_of_an_encoder_are_the_parts_that_it_runs():
    hubert = build_encoder(SIZES, TokenPruning([1.0, 0.8, 0.6])).eval()
    stages = entries.hubert_stages(hubert)
    moments = iter(range(1000))
    with torch.inference_mode(), timed_stages(stages, lambda: next(moments)) as seconds:
        hubert(torch.randn(1, 16000), [16000])
    assert set(seconds) == {"other", *(stage.name for stage in stages)}


def test_stages_share_out_all_of_the_time():
    inner, outer = nn.Identity(), nn.Identity()
    moments = iter(range(100))
    outer.forward = lambda x: inner(x)
    with timed_stages([Stage("inner", inner)], lambda: next(moments)) as seconds:
        inner(0), inner(0)
    assert seconds == {"other": 3, "inner": 2}
    assert inner(5) == 5 and "forward" not in vars(inner)


def test_a_stage_leaves_out_the_stages_within():
    class Parent:
        def run(self):
            time.sleep(0.01)
            self.part()

        def part(self):
            time.sleep(0.05)

    parent = Parent()
    with timed_stages(
        [Stage("run", parent, "run"), Stage("part", parent, "part")], time.perf_counter
    ) as seconds:
        parent.run()
    assert 0.01 <= seconds["run"] < 0.05 <= seconds["part"]
    assert vars(parent) == {}


def test_an_entry_says_what_it_is():
    spec = Spec.parse("hubert_deltalm,keep=0.8,dtype=int8,vocabulary=500")
    assert spec == Spec("hubert_deltalm", keep=0.8, dtype="int8", vocabulary=500)
    assert str(spec) == "hubert_deltalm, keep=0.8, dtype=int8, vocabulary=500"
    assert str(Spec.parse("fairseq,label=theirs")) == "theirs"


@pytest.mark.parametrize(
    "text, message",
    [
        ("hubert_base,ratio=0.8", "found option 'ratio=0.8', expected keep="),
        ("hubert_base,keep", "found option 'keep'"),
        ("hubert_base,keep=most", "found 'keep=most', expected a number"),
        ("hubert_base,dtype=int4", "found dtype 'int4'"),
        ("hubert_base,kernels=fast", "found kernels 'fast'"),
        ("hubert_base,keep=0.8,keeps=1/1", "found keep and keeps"),
        ("hubert_base,keeps=1/most", "keeps=1/most: expected ratios with / between"),
        ("hubert_base,start=3", "found start without keep"),
        ("hubert_base,vocabulary=500", "found vocabulary, which is an option of hubert_deltalm alone"),
        ("hubert_deltalm,vocabulary=4", "found vocabulary=4, expected more than 4"),
    ],
)
def test_an_entry_that_cannot_be_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Spec.parse(text)


@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_on_a_processor_without_it_is_told(has, monkeypatch, caplog):
    monkeypatch.setattr(converting, "has_bfloat16", lambda: has)
    convert_(nn.Linear(2, 2), "bfloat16")
    assert ("bfloat16: this processor has no instructions for it" in caplog.text) is not has
    caplog.clear()
    convert_(nn.Linear(2, 2), "float32")
    assert not caplog.text


def test_what_the_processor_has_can_be_asked():
    assert converting.has_bfloat16() in (True, False)
