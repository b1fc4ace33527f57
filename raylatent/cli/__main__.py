"""`python -m raylatent.cli` is `raylatent`."""

from raylatent.cli import run

run()
