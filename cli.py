"""The `rokuon` command."""

from __future__ import annotations

import click


@click.group()
def main() -> None:
    """Record the calls of a phone system from copies of its packets."""
