"""The verb `bench`."""

import json

from raylatent.claim import new_token
from raylatent.cli.saying import say
from raylatent.config import BenchConfig
from raylatent.storage import Store, absolute


def bench(config: BenchConfig) -> int:
    """Measure, and say what was found; the exit code."""
    from raylatent.bench import run_bench  # noqa: PLC0415  (torch, ray: slow)
    from raylatent.model.spec import model_spec  # noqa: PLC0415

    spec = model_spec(config.model, allow_pickle=config.allow_pickle)
    target = None if not config.json else _target(config.json)
    report = run_bench(config, spec)
    for line in report.lines():
        say(line)
    if target is not None:
        store, name = target
        text = json.dumps(report.as_json(), indent=1)
        store.write(name, f"{text}\n".encode())
        say(f"{'json':<10}{config.json}")
    return 0


def _target(file: str) -> tuple[Store, str]:
    """Where a file goes; it can be written there, which is known before all is measured.

    Raises:
        StorageError: It cannot, after retries.
        RunError: There is a folder of its name, or a file where its folder would be.
    """
    folder, name = absolute(file).rsplit("/", 1)
    store = Store(folder or "/")
    probe = f"{name}.{new_token()}" if store.exists(name) else name
    store.write(probe, b"")
    store.delete(probe)
    return store, name
