"""The published systems as recipes: whole, of the size asked for; what `moontide run` says of mistakes."""

import pytest
from typer.testing import CliRunner

from moontide.foundation.errors import SettingsError
from moontide.ranking.compositions import CIUBM, COMPOSITIONS
from moontide.ranking.models import ClickModel
from moontide.recipes import studies
from moontide.recipes.demo import RECIPES, SYSTEMS, own
from moontide.recipes.verbs import run
from moontide.studies.chain import ChainSettings


@pytest.mark.parametrize("size", ["nano", "tiny", "study"])
@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_a_system_has_as_many_steps_as_its_size(name, size):
    plain, system = RECIPES[size](), SYSTEMS[name](RECIPES[size]())
    assert isinstance(system, ChainSettings)
    refine = system.refine
    later = sum(stage.num_steps for stage in refine.pairs) + (refine.csft.num_steps if refine.csft else 0)
    assert system.posttrain.num_steps + later == plain.posttrain.num_steps
    assert system.market == plain.market
    assert own(system).market is None


def test_mim_and_moon_embedding_read_vectors_as_published():
    mim, moon = (SYSTEMS[name](RECIPES["nano"]()) for name in ("mim", "moon_embedding"))
    assert mim.posttrain.pairings == "titles"
    assert mim.content.cube == CIUBM
    assert not mim.content.cube.has_queries
    assert moon.posttrain.pairings == "nine"
    assert moon.refine.pairs[0].loss == "circle"
    assert moon.refine.cleaning is not None
    assert moon.content.cube.has_queries
    assert len(moon.content.cube.parts) == 6  # of eight inputs; the other two belong to every click model


def test_every_composition_can_be_built_and_reads_vectors_only_where_it_says_so():
    sizes = dict.fromkeys(
        ("product", "leaf", "top", "brand", "merchant", "price_band", "shopper", "segment", "device",
         "region", "query"), 3,
    )  # fmt: skip
    for name, settings in COMPOSITIONS.items():
        ClickModel(sizes, settings, 5, 8 if settings.reads_vectors else 0).initialize(0)
        assert settings.reads_vectors == (name not in ("id", "id_attributes", "sim_hard", "sim_soft"))


def test_studies_are_sized_by_recipes_and_unknown_click_models_refused():
    assert studies.exchange("muse").clicks.search is not None
    assert studies.scaling(10).posttrain.num_steps == 10
    with pytest.raises(SettingsError, match="no click model is called 'nothing'"):
        studies.exchange("nothing")


def test_run_wants_a_dataset_for_a_size_and_knows_its_recipes(tmp_path):
    with pytest.raises(SettingsError, match=r"no size is called .nothing.*mim, moon_embedding"):
        run("nothing", to=tmp_path / "run")
    with pytest.raises(SettingsError, match="no size is called 'huge'"):
        run("mim", size="huge", to=tmp_path / "run")


@pytest.mark.parametrize("name", ["models", "ladder", "exchange", "scaling", "ab", "aa", "off-policy"])
def test_every_study_has_help(name):
    from moontide.recipes.study import study

    found = CliRunner().invoke(study, [name, "--help"])
    assert found.exit_code == 0
    assert "--to" in found.output
