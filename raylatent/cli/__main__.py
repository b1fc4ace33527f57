"""`python -m raylatent.cli` is `raylatent`."""

from raylatent.cli import main

raise SystemExit(main())
