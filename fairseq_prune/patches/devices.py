"""fairseq's command line takes ``--bf16`` for a TPU; without one, a line says so, and what to do instead."""

from fairseq import utils


def install() -> None:
    """Replace how fairseq finds a TPU; safe to call again."""
    if not hasattr(utils.get_tpu_device, "refuses"):
        utils.get_tpu_device = _refusing(utils.get_tpu_device)


def _refusing(get_tpu_device):
    def device():
        if utils.xm is None:
            raise ValueError(
                "--bf16, --tpu: found no torch_xla, which fairseq-train needs for a TPU; for bfloat16 on other devices"
                " use fairseq-hydra-train with common.bf16=true"
            )
        return get_tpu_device()

    device.refuses = True
    return device
