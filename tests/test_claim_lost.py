"""What actors do whose driver no longer holds the run directory: nothing."""

import pytest

from raylatent.claim import Claim, refuse_taken
from raylatent.errors import ClaimError
from raylatent.storage import Store


@pytest.mark.parametrize("uri", ["local", "memory://lost/run"])
def test_actors_of_a_driver_that_lost_the_claim_write_nothing(tmp_path, uri):
    folder = tmp_path if uri == "local" else uri
    store, other = Store(folder, writer="mine"), Store(folder, writer="another")
    with pytest.raises(ClaimError, match="nothing more is written"):
        refuse_taken(store)  # given back
    with Claim(store, "mine"):
        refuse_taken(store)
        with pytest.raises(ClaimError, match="nothing more is written"):
            refuse_taken(other)
