"""What to add to a cluster, given what bounds a job on it: sentences with numbers."""

from raylatent.bench.rates import GPU, Measured, Node, Rate, cores_per_gpu, most_by_part

_MOSTLY = 0.5  # of the cores' time: less, and GPUs would not be worth it
_WAITING = 2.0  # wall over CPU seconds, of one thread


def what_to_add(node: Node, measured: Measured) -> list[str]:
    """What would make a job faster on nodes of this kind, the most useful first.

    Args:
        node: The kind.
        measured: On one of them.
    """
    limit, rates = measured.limit, measured.rates
    if limit is None or "forward" not in rates:
        return []
    most = most_by_part(node, measured)
    if rates["forward"].per == GPU:
        return _with_gpus(limit, node, measured, most)
    if limit in {"read", "write"}:
        return _storage(limit, measured, most.get("cores", 0.0))
    if limit == "decode" and _waits(rates.get("decode")):
        return _slow_slides(rates["decode"])
    share = _share_of_cores(measured)
    if share >= _MOSTLY:
        return [
            f"GPUs: the model takes {share:.0%} of the cores' time",
            "or more cores: time falls in proportion to them",
        ]
    return ["more cores: time falls in proportion to them"]


def _with_gpus(
    limit: str, node: Node, measured: Measured, most: dict[str, float]
) -> list[str]:
    wanted = cores_per_gpu(measured.rates) or 0.0
    have = node.cpus / node.gpus
    if limit in {"forward", "transfer"}:
        lines = [
            f"more GPUs: each does {measured.rates['forward'].tiles_per_s:,.0f} tiles/s "
            f"and keeps {wanted:.1f} cores busy (there are {have:.1f} for each)"
        ]
        if limit == "transfer":
            lines.append(
                "or a faster bus: pixels take longer to the GPU than through it"
            )
        return lines
    if limit in {"read", "write"}:
        return _storage(limit, measured, most.get("gpus", 0.0))
    if limit == "decode" and _waits(measured.rates.get("decode")):
        return _slow_slides(measured.rates["decode"])
    if have < wanted:
        return [
            f"cores: {wanted:.1f} for each GPU keep it busy, and there are {have:.1f}"
        ]
    return [
        f"more --actors on each GPU (--num-gpus below 1): cores would do for it "
        f"({wanted:.1f} wanted, {have:.1f} there), one actor does not use them"
    ]


def _storage(limit: str, measured: Measured, wanted: float) -> list[str]:
    rate = measured.rates.get(limit)
    if rate is None:
        return []
    verb = "reader gets" if limit == "read" else "writer puts"
    one = f"{rate.wall_per_s:,.0f} tiles/s"
    if rate.n_bytes:
        one += f" ({rate.bytes_per_s / 1e6:,.0f} MB/s)"
    lines = [
        f"faster storage: one {verb} {one}, the node could use {wanted:,.0f} tiles/s"
    ]
    if limit == "read":
        lines.append("or more --actors, if storage gives as much to each")
    elif measured.dtype != "float16":
        lines.append("or --dtype float16, which halves what is written")
    return lines


def _waits(rate: Rate | None) -> bool:
    """Whether one thread waited for most of the time: for storage, as of slides."""
    return rate is not None and rate.wall_s > _WAITING * rate.cpu_s


def _slow_slides(rate: Rate) -> list[str]:
    waited = 1 - rate.cpu_s / rate.wall_s
    return [
        f"faster storage: slides are read while they are decoded, and {waited:.0%} of "
        "that time was spent waiting",
        "or slides in TFRecords (raylatent extract-tiles), which are read in one go",
    ]


def _share_of_cores(measured: Measured) -> float:
    """Of the CPU seconds of a tile, what the model takes."""
    used = {
        stage: rate.cpu_s / max(rate.tiles, 1)
        for stage, rate in measured.rates.items()
        if stage in {"read", "decode", "forward", "write"}
    }
    total = sum(used.values())
    return used.get("forward", 0.0) / total if total else 0.0
