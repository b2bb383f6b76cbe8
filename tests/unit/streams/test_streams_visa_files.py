"""S0-03, S0-07, S1-08: what is wrong with certificates and keys is known before they are used."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from streams.visa_files import Examined, ExpiryLimits, Level, VisaFiles, examine, expiries, stamp_of, unusable
from streams.visa_material import MaterialUnusable, load_material
from tests.unit.streams.visa_files_bench import Files, issue, pem
from tests.unit.visa.visa_testbed import MlePair, mle_pair, private_pem

LIMITS = ExpiryLimits(timedelta(days=60), timedelta(days=30))


@pytest.fixture(scope="module")
def mle() -> dict[str, MlePair]:
    return {name: mle_pair() for name in ("server", "old", "new")}


@pytest.fixture
def files(tmp_path: Path, mle: dict[str, MlePair]) -> Files:
    return Files(tmp_path, mle)


def examined(files: Files, now: datetime | None = None) -> list[Examined]:
    return list(examine(VisaFiles.of(files.settings()), LIMITS, now or datetime.now(UTC)))


def level_of(found: list[Examined], what: str) -> Level:
    order = list(Level)
    return max((one.level for one in found if one.what == what), key=order.index)


def test_a_good_set_is_ok_and_its_days_are_known(files: Files) -> None:
    """S0-07: client certificate, authority and Visa's encryption certificate, each with its end."""
    found = examined(files)
    mle_only = {one.what for one in found if one.level is not Level.OK}
    assert mle_only == {"encryption certificate of Visa"}, "the test's own is valid for a day"
    assert set(expiries(found)) == {"client", "ca", "mle"}
    assert load_material(files.settings(), datetime.now(UTC)).facts["mle_key_id"] == "old"
    assert all("PRIVATE" not in one.detail for one in found)


@pytest.mark.parametrize(
    ("days", "begins", "level"),
    [
        (100.0, -1.0, Level.OK), (60.5, -1.0, Level.OK), (59.5, -1.0, Level.WARNING), (30.5, -1.0, Level.WARNING),
        (29.5, -1.0, Level.CRITICAL), (0.1, -1.0, Level.CRITICAL), (-0.1, -1.0, Level.UNUSABLE),
        (100.0, 0.1, Level.UNUSABLE),
    ],
)  # fmt: skip
def test_a_certificate_is_judged_by_its_days(files: Files, days: float, begins: float, level: Level) -> None:
    """S0-07: sixty days before its end it is worth a warning, thirty days before it is critical."""
    files.new_client("client-2", days=days, begins=begins)
    found = examined(files)
    assert level_of(found, "client certificate") is level
    assert all(one.advice for one in found if one.level is not Level.OK)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620])
@pytest.mark.parametrize("name", ["client.key", "old.key"])
def test_a_key_that_others_can_read_is_refused(files: Files, name: str, mode: int) -> None:
    """S0-03: group or world may do anything with it: it is not taken into use."""
    files.path(name).chmod(mode)
    assert any("others than its owner" in why for why in unusable(examined(files)))
    with pytest.raises(MaterialUnusable, match="others than its owner"):
        load_material(files.settings(), datetime.now(UTC))
    files.path(name).chmod(0o400)
    assert unusable(examined(files)) == []


def test_files_that_do_not_belong_together_are_refused(files: Files, mle: dict[str, MlePair]) -> None:
    """S0-03: a key of another certificate; our own certificate in place of Visa's; files that are something else."""
    key = ec.generate_private_key(ec.SECP256R1())
    files.write("client.key", private_pem(key))
    assert any("do not belong together" in why for why in unusable(examined(files)))
    files.new_client("client-2")
    files.write("server.pem", mle["old"].certificate_pem)
    assert any("our own message key" in why for why in unusable(examined(files)))
    files.write("server.pem", mle["server"].certificate_pem)
    for name, content in (("client.pem", b"no"), ("client.key", b"no"), ("old.key", b"no"), ("ca.pem", b"")):
        kept = files.path(name).read_bytes()
        files.write(name, content)
        assert unusable(examined(files)) != []
        files.path(name).unlink()
        assert unusable(examined(files)) != []
        files.write(name, kept)
    assert unusable(examined(files)) == []


def test_the_chain_is_followed_as_far_as_our_files_reach(files: Files) -> None:
    """S0-03: signed by whom it says; an expired or a wrong issuer is found, an authority we do not have is no fault."""
    authority, authority_key = files.authority
    middle_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    middle = issue("middle", middle_key, (authority, authority_key))
    leaf = issue("leaf", key, (middle, middle_key))
    files.write("client.key", private_pem(key))
    files.write("client.pem", pem(leaf, middle))
    assert level_of(examined(files), "client chain") is Level.OK
    files.write("client.pem", pem(leaf))
    (chain,) = [one for one in examined(files) if one.what == "client chain"]
    assert (chain.level, "not among our files" in chain.detail) == (Level.OK, True)
    impostor = issue("middle", ec.generate_private_key(ec.SECP256R1()), (authority, authority_key))
    files.write("client.pem", pem(leaf, impostor))
    assert level_of(examined(files), "client chain") is Level.UNUSABLE
    expired = issue("middle", middle_key, (authority, authority_key), days=-0.5)
    files.write("client.pem", pem(leaf, expired))
    assert level_of(examined(files), "client chain") is Level.UNUSABLE


def test_an_expired_authority_is_found_and_a_bundle_lives_as_long_as_its_last(files: Files) -> None:
    """S0-07: it used to show at run time only, as a server whose certificate is invalid."""
    key = ec.generate_private_key(ec.SECP256R1())
    files.write("ca.pem", pem(issue("other authority", key, days=-0.5)))
    assert level_of(examined(files), "authority of Visa's server") is Level.UNUSABLE
    files.write("ca.pem", pem(issue("other authority", key, days=-0.5), files.authority[0]))
    assert level_of(examined(files), "authority of Visa's server") is Level.OK


def test_a_replaced_file_is_noticed_whatever_its_content(files: Files) -> None:
    """S0-05: also one of the same size, and one that is gone."""
    paths = VisaFiles.of(files.settings()).paths
    before = stamp_of(paths)
    assert stamp_of(paths) == before
    files.write("client.key", files.path("client.key").read_bytes())
    replaced = stamp_of(paths)
    assert replaced != before
    files.path("ca.pem").unlink()
    assert stamp_of(paths) not in (before, replaced)


def test_every_problem_of_new_material_is_named_at_once_and_no_secret(files: Files) -> None:
    """S1-08: validated before anything is tried."""
    files.path("client.key").chmod(0o644)
    with pytest.raises(MaterialUnusable) as caught:
        load_material(files.settings(visa_password=None, visa_mle_next_key_id="new"), datetime.now(UTC))
    for part in ("VISA_PASSWORD", "VISA_MLE_NEXT", "others than its owner"):
        assert part in str(caught.value)


def test_production_does_not_start_with_a_key_that_others_can_read(files: Files) -> None:
    """S1-15: refused at the start, as at every reload."""
    files.path("old.key").chmod(0o640)
    production = files.settings(payouts_profile="production").problems(needs_visa=True)
    assert [problem for problem in production if problem.startswith("VISA_MLE_PRIVATE_KEY_PATH")] != []
    assert not [problem for problem in files.settings().problems(needs_visa=True) if "others" in problem]
