"""The verb `bench`."""

import json

from raylatent.cli.saying import say
from raylatent.config import BenchConfig
from raylatent.storage import Store, absolute


def bench(config: BenchConfig) -> int:
    """Measure, and say what was found; the exit code."""
    from raylatent.engine.bench import run_bench  # noqa: PLC0415  (torch, ray: slow)
    from raylatent.model.spec import model_spec  # noqa: PLC0415

    spec = model_spec(config.model, allow_pickle=config.allow_pickle)
    report = run_bench(config, spec)
    for line in report.lines():
        say(line)
    if config.json:
        folder, name = absolute(config.json).rsplit("/", 1)
        text = json.dumps(report.as_json(), indent=1)
        Store(folder or "/").write(name, f"{text}\n".encode())
        say(f"{'json':<10}{config.json}")
    return 0
