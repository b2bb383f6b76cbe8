"""Certificates and keys for the tests of the Visa connection, made once a session."""

import pytest

from tests.unit.visa.visa_testbed import MleKeys, Pki, make_pki, mle_pair


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """A CA and what it issued, and a stranger's."""
    return make_pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session")
def mle_keys() -> MleKeys:
    """Visa's pair, ours, and our retired one."""
    return MleKeys(mle_pair(), mle_pair(), mle_pair())
