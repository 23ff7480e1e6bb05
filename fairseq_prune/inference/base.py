"""What every use of a checkpoint alone shares: the device."""

import torch


def usable_device(name: str) -> torch.device:
    """The device of that name; raises ValueError where this machine or build of torch has none."""
    try:
        return torch.empty(0, device=name).device
    except (AssertionError, RuntimeError) as error:  # what torch raises on a build or machine without it
        raise ValueError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from None
