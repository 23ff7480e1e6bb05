"""Tasks whose batches are counted in samples of audio, and that leave nothing out silently."""

from fairseq.tasks import FairseqTask


class SampleBatchesTask(FairseqTask):
    """For datasets with ``fit_batches``, such as `UtteranceDataset`."""

    def max_positions(self):
        """None: training is filtered when it is loaded, and evaluation must not skip anything."""
        return None

    def get_batch_iterator(
        self,
        dataset,
        max_tokens=None,
        max_sentences=None,
        max_positions=None,
        ignore_invalid_inputs=False,
        **kwargs,
    ):
        """As in fairseq, which for training would leave out what is longer than ``max_tokens``: an error here."""
        if max_tokens is not None and (dataset.training or not ignore_invalid_inputs):
            dataset.fit_batches(max_tokens)
        return super().get_batch_iterator(
            dataset, max_tokens, max_sentences, max_positions, ignore_invalid_inputs, **kwargs
        )
