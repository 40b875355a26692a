"""The same expressions on Spark in local mode: the same samples, number for number."""

import os
import shutil

import pytest
from messy_log import KEPT, LEFT_OUT, assert_same_samples, event, messy_rows, shuffled, write_small

from moontide.ranking.facts import connect
from moontide.ranking.samples import build_samples

pyspark = pytest.importorskip("pyspark", reason="pyspark is not installed: the extra spark has it")
HAS_JAVA = shutil.which("java") is not None or "JAVA_HOME" in os.environ
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not HAS_JAVA, reason="Spark needs Java, and there is none"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def spark():
    connection = connect("spark")
    session = pyspark.sql.SparkSession.getActiveSession()
    session.conf.set("spark.sql.shuffle.partitions", "2")  # for logs of a few rows
    session.conf.set("spark.sql.codegen.wholeStage", "false")
    yield connection
    connection.disconnect()


def test_a_messy_log_gives_the_same_samples_on_spark(spark, tmp_path):
    ties = [event(200 + n, 15, "impression", product=f"p{1 + n % 4}", query_id="q2") for n in range(8)]
    ties += [event(300 + n, 15, "impression") | {"event_id": None, "position": n} for n in range(3)]
    dataset = write_small(tmp_path / "messy", shuffled(messy_rows() + ties))
    found = build_samples(dataset, connection=spark)
    assert (found.left_out, found.kept) == (LEFT_OUT, KEPT)
    assert_same_samples(build_samples(dataset), found)


def test_a_session_that_is_there_is_taken(spark):
    session = pyspark.sql.SparkSession.getActiveSession()
    assert connect("spark")._session is session
    assert session.conf.get("spark.sql.session.timeZone") == "UTC"


def test_the_planted_market_gives_the_same_samples_on_spark(spark, planted):
    found = build_samples(planted.dataset, connection=spark)
    assert len(found) == len(planted.samples) > 0
    assert_same_samples(planted.samples, found)
