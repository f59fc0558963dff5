"""Fixtures shared by all tests."""


def pytest_collection_finish():
    """What is imported stays, and garbage in cycles is rare: looking for it took a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 100)
