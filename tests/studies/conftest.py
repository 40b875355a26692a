"""One run of the whole chain, as small as it goes, shared by the tests of this folder."""

import pytest
from micro import MICRO

from moontide.foundation.runs import Run
from moontide.studies.chain import run_chain


@pytest.fixture(scope="session")
def micro_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "micro"
    run_chain(path, "micro", MICRO, seed=1)
    return Run.open(path)
