"""Every model and criterion on a GPU that is not there: devices, types, and how often the host waits for it."""

import itertools

import pytest
import torch

from fairseq_prune.compat import LEGACY

if LEGACY:
    pytest.skip(
        "fake tensors of torch 2.0 do not know all operations of these models", allow_module_level=True
    )

from pretend import devices_and_types
from pretended_models import MODELS, PRECISIONS, decoding, passing, pruning

# what the host waits for in a forward pass with its criterion, by the first word of the model's name:
# - tolist: the lengths of the batch, from which every later shape follows; fairseq's padding masks are None where
#   there is no padding, and then nothing is asked;
# - copy to the host: torch's CTC loss reads the lengths of frames and of targets;
# - item: whether a text is padded is asked once in a text encoder, and once in each pass of the decoder
WAITS = {
    "hubert_deltalm": {"tolist": 1, "copy to the host": 2, "item": 3},
    "dphubert": {},
    "pruned_hubert": {"tolist": 1},
    "wavlm": {"tolist": 1},
    "deltalm": {"item": 2},
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


@pytest.mark.parametrize("name, precision, padded, training", PASSES)
def test_a_pass_stays_on_the_device(name, precision, padded, training):
    gpu, loss, sample_size, log = passing(name, precision, padded, training)
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


@pytest.mark.parametrize("name", QUICK)
def test_more_layers_are_no_more_waits(name):
    waits = [passing(name, layers=layers)[0].waits for layers in (2, 4)]
    assert waits[0] == waits[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hubert_deltalm, received", "dphubert", "whisper, clip"])
def test_workers_with_padding_and_without_log_things_of_one_kind(name):
    """fairseq adds up the logs of all workers, tensors on the device apart from numbers of the host."""
    kinds = []
    for padded in (True, False):
        _, _, sample_size, log = passing(name, "float32", padded, True)
        kinds.append({key: type(value) for key, value in {"": sample_size, **log}.items()})
    assert kinds[0] == kinds[1]


# fairseq's Transformer asks in each step whether the tokens are padded
STEPS = {"whisper, clip": {}, "deltalm": {"item": 1}}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_of_decoding_does_not_wait(name):
    found = decoding(name)
    assert found[2:] == [STEPS[name], {}] * 2


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("method", ["parp", "imp"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_a_pruning_waits_once(method, scope, averaged):
    """For its figures. Neither an update in between nor the moving average waits."""
    first = 0 if method == "parp" else 2
    expected = [{"tolist": 1} if update >= first and update % 2 == 0 else {} for update in range(9)]
    assert pruning(method, scope, averaged=averaged) == expected
