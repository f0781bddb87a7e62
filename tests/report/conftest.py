"""Fixtures of the report's tests."""

from made_up_runs import five_runs, report_of_five  # noqa: F401 - fixtures
