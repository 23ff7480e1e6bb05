"""Adam with a second learning rate, under fairseq's schedulers and wrappers."""

import pytest
import torch
from fairseq import optim
from fairseq.optim.lr_scheduler import build_lr_scheduler
from omegaconf import OmegaConf

from fairseq_prune.optim.adam_with_gates import GATES, AdamWithGates

CONFIG = {
    "optimizer": {"_name": "adam_with_gates", "lr": [0.001], "gate_lr": 0.1, "weight_decay": 0.01},
    "lr_scheduler": {
        "_name": "polynomial_decay",
        "lr": [0.001],
        "warmup_updates": 10,
        "total_num_update": 50,
    },
    "common": {
        "tpu": False,
        "model_parallel_size": 1,
        "fp16_no_flatten_grads": True,
        "fp16_init_scale": 4,
        "min_loss_scale": 1e-4,
    },
}


def parameters(dtype=torch.float32):
    weight, gate = (torch.nn.Parameter(torch.ones(3, dtype=kind)) for kind in (dtype, torch.float32))
    gate.param_group = GATES
    return [weight, gate]


def build(params):
    return optim.build_optimizer(OmegaConf.create(CONFIG).optimizer, params)


def test_the_gates_follow_the_schedule_in_proportion():
    optimizer = build(parameters())
    scheduler = build_lr_scheduler(OmegaConf.create(CONFIG).lr_scheduler, optimizer)
    assert isinstance(optimizer, AdamWithGates)
    for update in (1, 10, 30, 50):
        scheduler.step_update(update)
        lr, gate_lr = (group["lr"] for group in optimizer.param_groups)
        assert gate_lr == pytest.approx(100 * lr) and optimizer.get_lr() == lr
    assert (
        optimizer.param_groups[0]["weight_decay"] == 0.01 and optimizer.param_groups[1]["weight_decay"] == 0
    )


def test_it_steps_as_torch_s_adamw_with_two_groups():
    ours, theirs = parameters(), parameters()
    optimizer = build(ours)
    reference = torch.optim.AdamW(
        [
            {"params": theirs[:1], "lr": 0.001, "weight_decay": 0.01},
            {"params": theirs[1:], "lr": 0.1, "weight_decay": 0},
        ]
    )
    for step in range(3):
        for weight in (*ours, *theirs):
            weight.grad = torch.tensor([1.0, -2.0, 0.5]) * (step + 1)
        optimizer.step()
        reference.step()
    for mine, other in zip(ours, theirs):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


def test_a_restored_state_keeps_the_two_rates():
    first, second = build(parameters()), build(parameters())
    first.set_lr(0.0005)
    second.load_state_dict(first.state_dict())
    assert [group["lr"] for group in second.param_groups] == pytest.approx([0.0005, 0.05])


def test_half_precision_has_the_groups_too():
    config = OmegaConf.create({**CONFIG, "optimization": {"update_freq": [1]}})
    config.common.update(
        {"fp16_scale_window": None, "fp16_scale_tolerance": 0.0, "threshold_loss_scale": None}
    )
    config.distributed_training = {"distributed_world_size": 1}
    config.common.bf16 = False
    optimizer = optim.FP16Optimizer.build_optimizer(config, parameters(torch.float16))
    optimizer.set_lr(0.0005)
    assert [group["lr"] for group in optimizer.fp32_optimizer.param_groups] == pytest.approx([0.0005, 0.05])


def test_without_gates_the_error_says_what_to_do():
    with pytest.raises(ValueError, match="no gates.*--fp16-no-flatten-grads"):
        build([torch.nn.Parameter(torch.ones(3))])
