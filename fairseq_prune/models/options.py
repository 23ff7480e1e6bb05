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


def defaults_of(name):
    """{option: its default} of a registered model of ours, as a checkpoint holds them; {} of any other.

    Options that follow fairseq's other sections have no default of their own.
    """
    config = MODEL_DATACLASS_REGISTRY.get(name) if isinstance(name, str) else None
    if config is None or not config.__module__.startswith("fairseq_prune."):
        return {}
    options = OmegaConf.to_container(OmegaConf.structured(config), resolve=False, enum_to_str=True)
    return {
        k: value for k, value in options.items() if not (isinstance(value, str) and value.startswith("${"))
    }


def with_younger_options(checkpoint):
    """The checkpoint of a model of ours, in which options that are younger than it have their defaults.

    fairseq overrides (--model-overrides) only what a checkpoint has.
    """
    model = (checkpoint.get("cfg") or {}).get("model")
    if isinstance(model, dict):
        for name, value in defaults_of(model.get("_name")).items():
            model.setdefault(name, value)
    return checkpoint


compat.READERS.append(("cfg", with_younger_options))
