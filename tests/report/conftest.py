"""Fixtures of the report's tests."""

from made_up_runs import report, report_of_five  # noqa: F401 - fixtures
