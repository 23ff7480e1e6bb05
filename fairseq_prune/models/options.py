"""Fields of fairseq dataclasses: each is a flag of fairseq-train and a Hydra key."""

from dataclasses import field


def option(default, help_text):
    """A field with a default and the text that --help prints."""
    return field(default=default, metadata={"help": help_text})


def with_default(config, name, default):
    """The option ``name`` of the dataclass ``config``, with another default."""
    return field(default=default, metadata=config.__dataclass_fields__[name].metadata)
