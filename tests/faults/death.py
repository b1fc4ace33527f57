"""Which process dies and when, drawn from a seed, and what has to hold afterwards."""

import json
import os
import random
import time

from tests.faults.jobs import assert_clean, parts_of, wait_until
from tests.faults.processes import kill

N_SEEDS = int(os.environ.get("RAYLATENT_CAMPAIGN_SEEDS", "50"))
SLIDES_SEEDS = range(N_SEEDS // 6)
S3_SEEDS = range(N_SEEDS // 6)
SEEDS = range(N_SEEDS - len(SLIDES_SEEDS) - len(S3_SEEDS))
DRIVER, ACTOR, NODE = "driver", "actor", "node"


class Disturbed:
    """One job that is killed at a moment drawn from a seed, and ends all the same.

    Args:
        cluster: A SmallCluster.
        job: Name and arguments.
        run: Its LocalRun or S3Run.
        n_units: Units of the run.
        seed: Decides what dies, and when.
        kind: DRIVER, ACTOR or NODE instead of by chance.

    Attributes:
        jobs: How many were started.
        redone: Parts that were there at the kill and were written again.
    """

    def __init__(self, cluster, job, run, n_units, seed, kind=None):
        self._random = random.Random(f"death {seed}")  # noqa: S311
        self.kind = kind or self._random.choice((DRIVER, DRIVER, ACTOR, NODE))
        self._cluster, self._job, self._run = cluster, job, run
        self._n_units = n_units
        self.jobs = 0
        self._kept = {}

    def _moment(self):
        """(what has to be there first, seconds after it)."""
        places = ("start", "claim", "plan", "parts", "parts", "parts", "end")
        at = self._random.choice(places)
        at = at if self.kind == DRIVER or at in places[3:] else "plan"
        n_parts = (
            self._n_units if at == "end" else self._random.randrange(1, self._n_units)
        )
        conditions = {
            "start": (lambda: True, 4.0),
            "claim": (lambda: "claim.json" in self._run.files(), 0.5),
            "plan": (lambda: "sources.parquet" in self._run.files(), 3.0),
            "parts": (lambda: len(parts_of(self._run)) >= n_parts, 0.4),
            "end": (lambda: len(parts_of(self._run)) >= n_parts, 0.3),
        }
        condition, longest_s = conditions[at]
        return condition, self._random.uniform(0, longest_s)

    def play(self):
        """Start, disturb, and start again until it ends well."""
        process = self._start()
        condition, after_s = self._moment()
        if wait_until(condition, process):
            time.sleep(after_s)
        self._kill(process)
        for _ in range(3):
            if self._ended_well(process):
                break
            process = self._start()
        else:
            raise AssertionError(self.said)
        assert_clean(self._run)
        after = parts_of(self._run)
        self.redone = sum(after[name] != stamp for name, stamp in self._kept.items())
        return self

    def _start(self):
        self.jobs += 1
        return self._cluster.start(*self._job)

    def _kill(self, process):
        if self.kind == NODE:
            self._cluster.command(self._random.choice(("kill", "kill first")))
        elif self.kind == ACTOR:
            actors = self._cluster.actors()
            kill(*self._random.sample(actors, min(1, len(actors))))
        else:
            kill(process.pid)
            process.wait()
        self._kept = parts_of(self._run)

    def _ended_well(self, process):
        out, complaints = process.communicate(timeout=240)
        code = process.returncode
        self.said = f"{self.kind}, {code}\n{out}\n{complaints[-3000:]}"
        if code == 0:
            report = json.loads(self._run.read("report.json"))
            assert report["tiles"] == report["rows"] + report["quarantined"]
            assert not report["failed"]
        else:
            assert "Traceback" not in complaints, self.said
            assert code == 1 or (code == -9 and self.kind == DRIVER), self.said
        return code == 0
