"""Calls at rest: spool, finalising, files, index, queries."""
