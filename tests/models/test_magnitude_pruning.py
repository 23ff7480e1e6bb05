"""What magnitude pruning knows of fairseq's trainer and optimizers."""

from types import SimpleNamespace

import pytest
import torch
from fairseq import optim
from fairseq.dataclass.configs import FairseqConfig
from fairseq.optim.adam import FairseqAdamConfig
from fairseq.trainer import Trainer
from omegaconf import OmegaConf
from torch import nn

from fairseq_prune.models.magnitude_pruning import (
    MagnitudePruned,
    after_update,
    check_trainer,
    master_weights,
)
from fairseq_prune.pruning.parp import MagnitudePruner, PruningPlan


@pytest.fixture(params=["one vector", "a tensor each"])
def fp16(request, monkeypatch):
    """A half-precision model, fairseq's FP16Optimizer on it, and a function that makes an update."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)  # the index of the CPU
    config = OmegaConf.structured(FairseqConfig())
    adam = OmegaConf.to_container(OmegaConf.structured(FairseqAdamConfig(lr=[0.01])))
    config.optimizer = {**adam, "_name": "adam"}
    config.common.fp16_no_flatten_grads = request.param == "a tensor each"
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3)).half()
    optimizer = optim.FP16Optimizer.build_optimizer(config, list(model.parameters()))

    def update():
        optimizer.zero_grad()
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 0.1)
        optimizer._needs_sync = True
        optimizer.multiply_grads(1 / optimizer._multiply_factor)
        optimizer.step()

    return model, optimizer, update


def pruner_of(model, method):
    parameters = {"1.weight": model[1].weight, "0.bias": model[0].bias}
    return MagnitudePruner(parameters, PruningPlan(method, 0.5, interval=4, end=8))


def test_the_masters_of_the_pruned_parameters_are_found(fp16):
    model, optimizer, _ = fp16
    masters = master_weights(optimizer, pruner_of(model, "mpi"))
    assert list(masters) == ["1.weight", "0.bias"]
    assert torch.equal(masters["1.weight"], model[1].weight.float())
    assert torch.equal(masters["0.bias"], model[0].bias.float())
    masters["0.bias"].zero_()
    optimizer._sync_fp32_params_to_fp16()
    assert not model[0].bias.any() and model[0].weight.all() and model[1].weight.all()


def test_masters_do_not_bring_back_what_a_fixed_mask_leaves_out(fp16):
    model, optimizer, update = fp16
    pruner = pruner_of(model, "mpi")
    for updates in range(4):
        pruner.after_update(updates, master_weights(optimizer, pruner))
        kept = [weight != 0 for weight in (model[1].weight, model[0].bias)]
        assert sum(int(mask.sum()) for mask in kept) == 14
        optimizer._sync_fp32_params_to_fp16()
        assert torch.equal(model[1].weight != 0, kept[0]) and torch.equal(model[0].bias != 0, kept[1])
        update()


def test_a_pruned_weight_grows_from_zero_and_not_from_what_it_was(fp16):
    model, optimizer, update = fp16
    pruner = pruner_of(model, "parp")
    pruner.after_update(0, master_weights(optimizer, pruner))
    pruned = model[1].weight == 0
    for updates in (1, 2):
        pruner.before_update()
        update()
        grown = model[1].weight[pruned].clone()
        assert grown.tolist() == pytest.approx([-0.01 * updates] * len(grown), rel=1e-2)
        pruner.after_update(updates, master_weights(optimizer, pruner))
        assert torch.equal(model[1].weight == 0, pruned)


def test_a_resumed_master_has_what_the_weights_had_grown_to(fp16):
    model, optimizer, update = fp16
    pruner = pruner_of(model, "parp")
    pruner.after_update(0, master_weights(optimizer, pruner))
    update()
    pruner.after_update(1, master_weights(optimizer, pruner))
    state = pruner.state_dict()
    masters = master_weights(optimizer, pruner)
    for name, parameter in pruner.parameters.items():
        masters[name].copy_(parameter)  # as fairseq makes them anew from the weights of a checkpoint
    pruner.load_state_dict(state)
    pruner.after_update(1, masters)
    pruner.before_update()
    for name, parameter in pruner.parameters.items():
        assert torch.equal(masters[name], parameter.float())


class Pruned(MagnitudePruned, nn.Linear):
    pass


def test_validation_and_saving_after_an_update_that_was_given_up_see_sparse_weights():
    model = Pruned(8, 8)
    model.pruner = MagnitudePruner({"weight": model.weight}, PruningPlan("parp", 0.5, interval=4, end=8))
    model.pruner.after_update(0)
    for look in (model.eval, model.state_dict):
        model.pruner.before_update()
        with torch.no_grad():
            model.weight.add_(1.0)
        look()
        assert int((model.weight == 0).sum()) == 32
    model.pruner.before_update()
    assert (model.weight != 0).all()


def test_other_optimizers_have_no_masters():
    assert master_weights(SimpleNamespace(), None) == {}


def trainer(backend="legacy_ddp", use_bmuf=False):
    distributed, optimization = SimpleNamespace(ddp_backend=backend), SimpleNamespace(use_bmuf=use_bmuf)
    return SimpleNamespace(cfg=SimpleNamespace(distributed_training=distributed, optimization=optimization))


def test_trainers_that_keep_further_copies_of_the_weights_are_refused():
    check_trainer(trainer())
    with pytest.raises(ValueError, match="--use-bmuf"):
        check_trainer(trainer(use_bmuf=True))
    with pytest.raises(
        ValueError, match="found --ddp-backend fully_sharded, expected pytorch_ddp or legacy_ddp"
    ):
        check_trainer(trainer("fully_sharded"))


def test_models_without_pruner_are_left_alone():
    model = nn.Linear(2, 2)
    before = model.weight.clone()
    after_update(SimpleNamespace(get_model=lambda: model))
    assert torch.equal(model.weight, before)


def test_the_trainer_calls_after_updates_and_before_the_first():
    for method in (Trainer.set_num_updates, Trainer.begin_epoch):
        assert method.followed_by == ("after_update",)
