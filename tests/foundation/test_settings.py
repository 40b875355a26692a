"""Settings, seeds, cores and progress: small promises."""

import os
import subprocess
import sys

import pydantic
import pytest

from moontide.foundation import errors
from moontide.foundation.device import num_cores, threads
from moontide.foundation.errors import MoontideError, SettingsError
from moontide.foundation.progress import Meter, track
from moontide.foundation.seeds import hash_share, seed_of, stream
from moontide.foundation.settings import Settings, fingerprint


class Sampling(Settings):
    temperature: float = pydantic.Field(0.05, gt=0, description="softmax temperature")
    num: int = pydantic.Field(3, ge=1, description="draws")

    @pydantic.model_validator(mode="after")
    def _agree(self):
        if self.num > 5 and self.temperature < 0.01:
            raise ValueError("num above 5 needs a temperature of at least 0.01")
        return self


class Named(Settings):
    name: str = pydantic.Field(description="a name")


def test_all_mistakes_are_named_at_once():
    with pytest.raises(SettingsError) as caught:
        Sampling(temperature=0, num=0)
    assert str(caught.value) == (
        "Sampling: temperature: input should be greater than 0, got 0; "
        "num: input should be greater than or equal to 1, got 0"
    )


def test_unknown_missing_and_contradicting_settings_are_refused():
    with pytest.raises(SettingsError, match=r"^Sampling: heat: extra inputs are not permitted, got 1$"):
        Sampling(heat=1)
    with pytest.raises(SettingsError, match=r"^Named: name: field required$"):
        Named()
    with pytest.raises(SettingsError, match=r"^Sampling: num above 5 needs a temperature of at least 0.01$"):
        Sampling(num=6, temperature=0.001)


def test_settings_are_frozen_and_a_changed_copy_is_checked():
    settings = Sampling()
    with pytest.raises(pydantic.ValidationError):
        settings.num = 4
    assert settings.but(num=4) == Sampling(num=4)
    with pytest.raises(SettingsError, match="num: input should be greater than or equal to 1, got -1"):
        settings.but(num=-1)


def test_a_fingerprint_changes_with_any_setting_and_with_nothing_else():
    assert Sampling().fingerprint() == Sampling(num=3).fingerprint() != Sampling(num=4).fingerprint()
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert len(fingerprint(None)) == 12


def test_every_error_is_a_moontide_error():
    kinds = [
        one for one in vars(errors).values() if isinstance(one, type) and one.__module__ == errors.__name__
    ]
    assert len(kinds) == 7
    assert all(issubclass(kind, MoontideError) for kind in kinds)
    assert all(kind.__name__ in (errors.__doc__ or "") for kind in kinds)


def test_streams_of_one_name_agree_and_of_two_names_do_not():
    assert stream(1, "market", 3).random() == stream(1, "market", 3).random()
    draws = {stream(seed, name).random() for seed in (1, 2) for name in ("a", "b")}
    assert len(draws) == 4
    assert seed_of(0, "a", "b") != seed_of(0, "ab")
    assert 0 <= seed_of(5, "x") < 2**63


def test_seeds_do_not_depend_on_the_process():
    code = "from moontide.foundation.seeds import *; print(seed_of(3, 'x'), hash_share('a', 's'))"
    environment = {**os.environ, "PYTHONHASHSEED": "99"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.split() == [str(seed_of(3, "x")), str(hash_share("a", "s"))]


def test_hash_shares_are_spread_evenly_and_change_with_the_salt():
    shares = [hash_share(str(number)) for number in range(10_000)]
    assert all(0 <= share < 1 for share in shares)
    for tenth in range(10):
        count = sum(tenth / 10 <= share < (tenth + 1) / 10 for share in shares)
        assert 850 < count < 1150  # five standard deviations
    assert hash_share("a", "one") != hash_share("a", "two")


def test_the_number_of_cores_can_be_set(monkeypatch):
    monkeypatch.setenv("MOONTIDE_THREADS", "3")
    assert num_cores() == 3
    monkeypatch.setenv("MOONTIDE_THREADS", "none")
    with pytest.raises(SettingsError, match="MOONTIDE_THREADS must be a whole number above 0, got 'none'"):
        num_cores()
    monkeypatch.delenv("MOONTIDE_THREADS")
    assert num_cores() >= 1


def test_threads_are_put_back():
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    with threads(before + 1) as num:
        assert num == before + 1 == torch.get_num_threads()
    assert torch.get_num_threads() == before


def test_progress_counts_and_says_what_is_left():
    with track(10, "rows") as meter:
        meter.step(4)
        meter.note("loss 0.5")
        assert meter.done == 4
        assert meter.line().startswith("rows: 4 of 10, ")
        assert meter.line().endswith("loss 0.5")
    assert Meter(None, "rows", None).line().startswith("rows: 0, ")
