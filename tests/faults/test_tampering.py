"""Files damaged at rest: verify names each, the same command mends them all."""

import random

import pytest

from raylatent import cli
from tests.faults.ledger import stored
from tests.verify_runs import flip

pytestmark = pytest.mark.ray

ROUNDS = 20


def named(out, verify_here):
    return {finding.name for finding in verify_here(out).findings}


def delete(file, rng):
    file.unlink()


def truncate(file, rng):
    file.write_bytes(file.read_bytes()[: rng.randrange(file.stat().st_size)])


def flip_page(file, rng):
    """In the first half: pages and their headers."""
    flip(file, rng.randrange(32, 4 * file.stat().st_size))


def flip_footer(file, rng):
    """In the footer, whose length is told before the last 4 bytes."""
    length = int.from_bytes(file.read_bytes()[-8:-4], "little")
    flip(file, -1 - rng.randrange(8 * (length + 8)))


KINDS = {
    "storage: part truncated": (truncate, "activations/*/*.parquet"),
    "storage: part bit-flipped": (flip_page, "activations/*/*.parquet"),
    "storage: footer bit-flipped": (flip_footer, "activations/*/*.parquet"),
    "storage: part deleted": (delete, "activations/*/*.parquet"),
    "storage: quarantine deleted": (delete, "quarantine/*/*.parquet"),
    "storage: plan broken": (truncate, "sources.parquet"),
    "storage: map broken": (flip_page, "maps/*/points/*/*.parquet"),
    "storage: picture broken": (truncate, "mosaics/*/mosaic.png"),
}


def unit(file):
    """What is lost with a file cannot be told of it: slide and unit."""
    return file.parts[-2:]


def inject(campaign, made, kind, rng, n, spared=()):
    """Damage up to n files of a kind, none of the units that are spared; their names."""
    act, pattern = KINDS[kind]
    files = [
        file for file in sorted(made.out.glob(pattern)) if unit(file) not in spared
    ]
    chosen = rng.sample(files, min(n, len(files)))
    for file in chosen:
        act(file, rng)
        campaign.fault(kind)
    return {file.relative_to(made.out).as_posix() for file in chosen}


def mend(campaign, made, finished_run, verify_here):
    """Run the same command: all is as it was."""
    campaign.run()
    assert cli.main(list(made.argv)) == 0
    campaign.audit(made.out, stored(finished_run.out))
    assert named(made.out, verify_here) == set()


LONG = ("storage: part deleted", "storage: footer bit-flipped", "storage: plan broken")


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.campaign) if kind in LONG else kind
        for kind in KINDS
    ],
)
def test_damage_is_named_and_mended(kind, campaign, made, finished_run, verify_here):
    rng = random.Random(kind)  # noqa: S311
    damaged = inject(campaign, made, kind, rng, 3)
    found = named(made.out, verify_here)
    assert damaged <= found
    # What is lost of rows is lost for the map as well; nothing else is accused.
    assert all(name in damaged or "points" in name for name in found)
    mend(campaign, made, finished_run, verify_here)


@pytest.mark.campaign
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_damage_of_many_kinds_at_once(seed, campaign, made, finished_run, verify_here):
    rng = random.Random(seed)  # noqa: S311
    damaged, units = set(), set()
    for kind in rng.sample(sorted(KINDS), 4):
        names = inject(campaign, made, kind, rng, rng.randint(1, 2), units)
        damaged |= names
        units |= {unit(made.out / name) for name in names}
    assert damaged <= named(made.out, verify_here)
    mend(campaign, made, finished_run, verify_here)
