"""fairseq writes each name of a checkpoint in full, or leaves what was there.

fairseq copies the first name of a save in place onto checkpoint_last.pt and checkpoint_best.pt: a process that is
killed in the copy leaves a file that blocks resuming.
"""

from fairseq import checkpoint_utils

from fairseq_prune.checkpoints.saving import give_another_name, save


def install() -> None:
    """Replace how fairseq writes and copies checkpoints; safe to call again."""
    if not hasattr(checkpoint_utils.torch_persistent_save, "in_full"):
        checkpoint_utils.torch_persistent_save = _in_full(checkpoint_utils.torch_persistent_save)
        checkpoint_utils.PathManager = _names_in_full(checkpoint_utils.PathManager)


def _in_full(torch_persistent_save):
    def save_in_full(content, path, async_write=False):
        if async_write or checkpoint_utils.PathManager.path_requires_pathmanager(path):  # iopath's business
            torch_persistent_save(content, path, async_write=async_write)
        else:
            save(content, path)

    save_in_full.in_full = True
    return save_in_full


def _names_in_full(path_manager):
    class PathManager(path_manager):
        @staticmethod
        def copy(path, name, overwrite=False):
            if PathManager.path_requires_pathmanager(path) or PathManager.path_requires_pathmanager(name):
                return path_manager.copy(path, name, overwrite)
            give_another_name(path, name)
            return True

    return PathManager
