"""The campaign's ledger, printed at the end, and the engine's small slides and model."""

import pytest

from tests.engine.conftest import (  # noqa: F401  (fixtures)
    assert_rows,
    assert_same,
    beside,
    compute,
    parts_of,
    plain_loop,
    sandbox,
    small_model,
    source,
    tiles,
    write_slide,
)
from tests.faults.disturbed import (  # noqa: F401  (fixtures)
    arguments,
    bucket,
    cluster,
    disturb,
    expected_rows,
    impatient,
    s3,
    slow_model,
    slow_source,
)
from tests.faults.ledger import Campaign

CAMPAIGN = pytest.StashKey[Campaign]()


def pytest_configure(config):
    config.stash[CAMPAIGN] = Campaign()


@pytest.fixture(scope="session")
def campaign(request):
    """Counts faults and runs, and audits what they left."""
    return request.config.stash[CAMPAIGN]


def pytest_terminal_summary(terminalreporter, config):
    campaign = config.stash.get(CAMPAIGN, None)
    if campaign is None or not campaign.faults:
        return
    terminalreporter.section("fault campaign")
    for line in campaign.lines():
        terminalreporter.write_line(line)
