"""Set before PyTorch is imported: one thread a test process, nothing from the network."""

import os

for name, value in {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "Agg",
}.items():
    os.environ.setdefault(name, value)

import pytest  # noqa: E402  after the environment is set


@pytest.fixture(scope="module")
def one_thread():
    """PyTorch and what it is started with use one thread, until the module's tests have ended."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOONTIDE_THREADS", "1")
        torch.set_num_threads(1)
        yield
