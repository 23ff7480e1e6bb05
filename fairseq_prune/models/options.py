"""Fields of fairseq dataclasses: each is a flag of fairseq-train and a Hydra key."""

from dataclasses import field


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
