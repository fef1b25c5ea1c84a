"""Solvers of other libraries behind our interface: one file per library, each solving as it would."""
