"""Fields of fairseq dataclasses: each is a flag of fairseq-train and a Hydra key."""

from dataclasses import field

from fairseq.models import MODEL_DATACLASS_REGISTRY
from omegaconf import OmegaConf

from fairseq_prune import compat


def option(default, help_text):
    """A field with a default and the text that --help prints."""
    return field(default=default, metadata={"help": help_text})


def with_default(config, name, default):
    """The option ``name`` of the dataclass ``config``, with another default."""
    return field(default=default, metadata=config.__dataclass_fields__[name].metadata)


def keep_in_checkpoint(cfg, **options):
    """Set options of the model in the configuration that our checkpoints will keep.

    fairseq does not tell a model that it is built to take the weights of a checkpoint. An option that was
    used up when training began must therefore not come back with the checkpoint's configuration.
    """
    # `cfg` is a copy of the node `model` (fairseq's merge_with_parent) that still knows its parent
    parent = cfg._get_parent()
    for node in (cfg,) if parent is None else (cfg, parent.model):
        for name, value in options.items():
            node[name] = value


def with_younger_options(checkpoint):
    """The checkpoint of a model of ours, in which options that are younger than it have their defaults.

    fairseq overrides (--model-overrides) only what a checkpoint has.
    """
    model = (checkpoint.get("cfg") or {}).get("model")
    name = model.get("_name") if isinstance(model, dict) else None
    config = MODEL_DATACLASS_REGISTRY.get(name)
    if config is not None and config.__module__.startswith("fairseq_prune."):
        defaults = OmegaConf.to_container(OmegaConf.structured(config), resolve=False, enum_to_str=True)
        for option_name, value in defaults.items():
            if not (isinstance(value, str) and value.startswith("${")):  # those of fairseq's other sections
                model.setdefault(option_name, value)
    return checkpoint


compat.READERS["cfg"] = with_younger_options
