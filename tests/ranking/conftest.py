"""The planted market, written once for all tests of the room."""

import pytest
import torch
from planted_market import Planted, write_planted

from moontide.ranking.samples import build_samples


@pytest.fixture(scope="session")
def planted(tmp_path_factory) -> Planted:
    torch.set_num_threads(1)
    dataset, product_vectors, query_vectors = write_planted(tmp_path_factory.mktemp("planted") / "data")
    return Planted(dataset, build_samples(dataset), product_vectors, query_vectors)
