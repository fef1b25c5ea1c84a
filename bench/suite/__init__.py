"""Benchmarks for pytest-benchmark: `pytest bench/suite`."""
