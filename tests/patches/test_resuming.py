"""When a training that is loaded has nothing more to do."""

from types import SimpleNamespace

import pytest

from fairseq_prune.patches.resuming import why_complete

GOES_ON = {"max_update": 9, "max_epoch": 3, "stop_time_hours": 2.0, "patience": 4}
ENDS = [
    ({"max_update": 5}, "5 updates, --max-update 5"),
    ({"max_update": 4}, "5 updates, --max-update 4"),
    ({"max_epoch": 1}, "1 epochs, --max-epoch 1"),
    ({"stop_time_hours": 0.5}, "1.00 hours, --stop-time-hours 0.5"),
    ({"patience": 3}, "3 validations without a better one, --patience 3"),
]


def reason(**options):
    options = {**GOES_ON, **options}
    checkpoint = SimpleNamespace(patience=options.pop("patience"))
    cfg = SimpleNamespace(checkpoint=checkpoint, optimization=SimpleNamespace(**options))
    trainer = SimpleNamespace(cfg=cfg, get_num_updates=lambda: 5)
    program = SimpleNamespace(should_stop_early=SimpleNamespace(num_runs=3))
    extra_state = {"previous_training_time": 3600.5}
    return why_complete(trainer, SimpleNamespace(next_epoch_idx=2), extra_state, program)


@pytest.mark.parametrize(("options", "expected"), ENDS)
def test_each_end_is_named(options, expected):
    assert reason(**options) == expected


@pytest.mark.parametrize(
    "options", [{}, {"max_update": 0, "max_epoch": 0, "stop_time_hours": 0, "patience": -1}]
)
def test_without_an_end_it_goes_on(options):
    assert reason(**options) is None
