from monitoring.measuring.schedule import Schedule, deep_due

SCHEDULE = Schedule(versions=10, seconds=3600)


def test_an_audit_is_due_after_so_many_versions_or_seconds():
    assert deep_due(SCHEDULE, None, None)
    assert not deep_due(SCHEDULE, 9, 3599)
    assert deep_due(SCHEDULE, 10, 0)
    assert deep_due(SCHEDULE, 0, 3600)


def test_a_clock_that_went_back_makes_it_due():
    assert deep_due(SCHEDULE, 1, -5)
