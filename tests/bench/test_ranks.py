"""`bench ranks`: what it refuses; what it measures is in tests/traffic_cases.py."""

import pytest

from fusedface.bench import ranks
from fusedface.bench.case import Case


@pytest.mark.parametrize("count", [0, 3])
def test_a_batch_that_cannot_be_shared(count):
    with pytest.raises(ValueError, match=f"8 rows cannot be shared evenly by {count} processes"):
        ranks.run(Case(8, 20, 4), (1, count), 1)
