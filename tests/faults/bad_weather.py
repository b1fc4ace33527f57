"""An object store that answers late, with errors, or not at all, by seed."""

import random
import threading
import time
from collections import Counter

from tests.faults.s3_server import error

LATE, ERRORS = "storage: late answers", "storage: errors"


class BadWeather:
    """What happens before requests are answered; see S3Server.before.

    Args:
        seed: Decides which requests fail, and how.
        often: How many of them.
        late_s: How late answers are at most.

    Attributes:
        faults: How many there were of each kind.
    """

    def __init__(self, seed, often=0.1, late_s=1.0):
        self.faults = Counter()
        self._random = random.Random(f"weather {seed}")  # noqa: S311
        self._often, self._late_s = often, late_s
        self._lock = threading.Lock()
        self._stopped_until = 0.0

    def stop(self, seconds):
        """Answer nothing for a while."""
        self._stopped_until = time.monotonic() + seconds

    def __call__(self, handler, key):
        time.sleep(max(0.0, self._stopped_until - time.monotonic()))
        with self._lock:
            if self._random.random() >= self._often:
                return
            what = self._random.choice(("late", "slow down", "error", "reset", "lost"))
            late_s = self._random.uniform(0, self._late_s)
            self.faults[LATE if what == "late" else ERRORS] += 1
        if what == "late":
            time.sleep(late_s)
        elif what == "slow down":
            raise error(503, "SlowDown")
        elif what == "error":
            raise error(500, "InternalError")
        elif what == "reset":
            handler.hang_up()
        else:
            handler.lose_answer = True
